"""What a researcher waits for beside the trainings: plans, states, publishing and frames of large studies.

    python benchmarks/waits.py
    python benchmarks/waits.py --points 200 2000 10000 --rounds 3
    python benchmarks/waits.py --points --stages --runs 300 --rounds 3       # the first publishing takes minutes
    python benchmarks/waits.py --points --stages --rows 20000 --rounds 3

Each `plan` is a process of its own, as it is typed, of a study that sweeps seeds, learning rates and tokens. `status` looks
at outputs whose stages are made of files alone, each with two checkpoints and the results of their evaluations; nothing is
trained. `--runs` publishes such outputs, five checkpoints a run, publishes again, and loads the frame, from the database's
tables and through MLflow in turn; `--rows` keeps the rows of one stage. The table has the fastest of the rounds, wall and
processor seconds, and the largest memory.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet  # noqa: F401  (before it is measured, as in a training)

from analysis.stage_rows import read_stage_rows
from workbench.config.compose import composer
from workbench.evaluate.reconcile import checkpoint_evaluation_id
from workbench.forecast.study_facts import Facts, make_facts
from workbench.launch.snapshot import write_study
from workbench.study.evaluation_files import result_path, write_result
from workbench.study.layout import Layout
from workbench.study.study_plan import Node
from workbench.tracking.metrics_table import write_table
from workbench.tracking.thinning import is_sent

TOKENS = (500_000, 1_000_000, 2_000_000, 4_000_000)
RUN_TOKENS = 1_000_000
START = 1_790_000_000.0
RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Measured:
    """One process."""

    wall_seconds: float
    processor_seconds: float
    peak_megabytes: float


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="*", default=[200, 2000], help="sizes of the planned studies")
    parser.add_argument("--stages", type=int, nargs="*", default=[1000], help="sizes of the studies looked at")
    parser.add_argument("--runs", type=int, nargs="*", default=[], help="sizes of the studies published and loaded")
    parser.add_argument("--rows", type=int, nargs="*", default=[], help="steps of the stages whose rows are read")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", type=Path, help="write cProfile's statistics of the last command here")
    options = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'command':<32}{'wall s':>10}{'processor s':>14}{'peak MB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for points in options.points:
            root = Path(folder) / f"plan{points}"
            write_file(root, points)
            command = ["plan", f"experiments=sweep{points}", f"paths.outputs={root / 'outputs'}", "--no-measure"]
            measure(f"plan, {points:,} points", [*command, "--experiments", str(root)], options, root)
        for stages in options.stages:
            root = Path(folder) / f"status{stages}"
            points = stages * len(TOKENS) // (len(TOKENS) + 1)
            write_file(root, points)
            make_outputs(root, points)
            measure(f"status, {stages:,} stages", ["status", f"sweep{points}"], options, root)
            command = ["status", f"experiments=sweep{points}", f"paths.outputs={root / 'outputs'}"]
            measure(f"status by settings, {stages:,}", [*command, "--experiments", str(root)], options, root)
        for runs in options.runs:
            root = Path(folder) / f"runs{runs}"
            write_file(root, runs, tokens=(RUN_TOKENS,), milestones=[RUN_TOKENS * part // 5 for part in range(1, 5)])
            make_outputs(root, runs)
            command = ["publish", f"sweep{runs}"]
            measure(f"publish, {runs:,} runs, first", command, argparse.Namespace(rounds=1, profile=None), root)
            measure("publish, nothing new", command, options, root)
            for _ in range(options.rounds):
                for way in ("tables", "mlflow"):
                    load(way, f"sweep{runs}", root)
        for rows in options.rows:
            keep_rows(rows, Path(folder), options.rounds)


def processor() -> str:
    """Name the processor as its system does."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_file(root: Path, points: int, tokens: tuple[int, ...] = TOKENS, milestones: list[int] | None = None) -> None:
    """Write a study's file with so many points: seeds x learning rates x tokens."""
    root.mkdir(parents=True, exist_ok=True)
    seeds = points // (len(RATES) * len(tokens))
    lines = [
        "# @package _global_",
        "defaults:",
        "  - override /data: python_tiny",
        f"  - override /recipe: {'wsd' if milestones is None else 'cosine'}",
        f"study: sweep{points}",
        *([] if milestones is None else ["recipe:", f"  milestones: {milestones}"]),
        "hydra:",
        "  sweeper:",
        "    params:",
        f"      seed: range({seeds})",
        f"      optimizer.learning_rate: {','.join(map(str, RATES))}",
        f"      tokens: {','.join(map(str, tokens))}",
    ]
    (root / f"sweep{points}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_outputs(root: Path, points: int) -> None:
    """Make the outputs of a finished study of files alone."""
    with composer(root) as hydra:
        composed = hydra.points([f"experiments=sweep{points}", f"paths.outputs={root / 'outputs'}"])
    facts = make_facts([(point.name, point.config) for point in composed])
    heldout = facts.layout.data(facts.plan.points[0].data_fingerprint) / "heldout"
    heldout.mkdir(parents=True)
    for source in ("prose", "code"):
        (heldout / f"{source}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    write_study(facts, "0" * 40, dirty=False)
    names: dict[str, str] = {}
    for node in facts.plan.nodes.values():
        make_stage(facts, node, names)


def make_stage(facts: Facts, node: Node, names: dict[str, str]) -> None:
    """Make one finished stage, with a checkpoint at each target and at its half; `names` keeps each suite's id."""
    directory = facts.layout.stage(node.id)
    half = node.stage.start_tokens + node.tokens // 2
    for tokens in sorted({*node.targets, half} if len(node.targets) == 1 else node.targets):
        checkpoint = directory.checkpoint(tokens // 1000)
        checkpoint.mkdir(parents=True)
        manifest = {
            "stage": node.id,
            "step": tokens // 1000,
            "tokens": tokens,
            "data_fingerprint": node.stage.data_fingerprint,
            "heldout_fingerprint": "0" * 16,
            "files": {"optimizer.safetensors": {"bytes": 0, "sha256": ""}},
            "sequences": tokens // 200,
            "annealed": tokens == max(node.targets),
            "params": 120_000,
            "params_non_embedding": 100_000,
            "flops": 6e5 * tokens,
            "counts": {"prose": {"drawn_tokens": tokens, "distinct_tokens": tokens}},
            "numerics": {"device": "cpu", "threads": 1},
            "commit": "0" * 40,
            "dirty": False,
            "host": "elsewhere",
            "time": START,
        }
        (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        for suite in facts.plan.evaluation.suites.values():
            if suite.name not in names:
                precision = facts.plan.evaluation.precision
                names[suite.name] = checkpoint_evaluation_id(checkpoint, suite, precision, facts.layout)
            name = names[suite.name]
            documents = {"prose": [{"doc_id": i, "value": 0.5} for i in range(200)]}
            scores = {"bits_per_byte,none": 1.0, "bits_per_byte_stderr,none": 0.01}
            results = {f"heldout_{source}": scores for source in ("prose", "code")}
            result = {"eval_id": name, "results": results, "date": START}
            write_result(result_path(checkpoint, suite.name, name), result, documents)
    directory.status.write_text('{"state": "finished"}', encoding="utf-8")
    begin, every = node.stage.start_tokens, max(1, node.tokens // 100)
    rows = [row_of(number, begin + number * every) for number in range(1, 101)]
    directory.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def row_of(step: int, tokens: int) -> dict[str, float]:
    """Make one row as a training writes it."""
    columns = {"train/loss": 4.0 + 1 / step, "train/loss/prose": 4.1 + 1 / step, "train/loss/code": 3.9 + 1 / step}
    columns |= {"train/learning_rate": 1e-3 / 3, "train/gradient_norm": 1 / step, "train/tokens_per_second": 8e3 + step}
    return {"step": step, "tokens": tokens, "time": START + step / 7, **columns, "train/memory_bytes": 300_000_000}


def load(way: str, study: str, root: Path) -> None:
    """Load a study's frame three times in a process of its own, and print the fastest and the first."""
    code = (
        "import sys, time; from analysis import experiment_store; from analysis.load import load_study\n"
        "if sys.argv[1] == 'mlflow': experiment_store.read_tables = lambda *_: None\n"
        "for _ in range(3):\n"
        "    before = time.perf_counter(), time.process_time(); rows = len(load_study(sys.argv[2], sys.argv[3]))\n"
        "    print(rows, time.perf_counter() - before[0], time.process_time() - before[1])"
    )
    uri = f"sqlite:///{root / 'outputs' / 'mlflow.db'}"
    command = [sys.executable, "-c", code, way, study, uri]
    text = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    found = [line.split() for line in text.splitlines()]
    for name, each in (("first", found[:1]), ("again", found[1:])):
        wall, used = min(float(line[1]) for line in each), min(float(line[2]) for line in each)
        print(f"{f'load_study, {way}, {name}':<32}{wall:>10.2f}{used:>14.2f}   {found[0][0]} rows", flush=True)


def keep_rows(steps: int, folder: Path, rounds: int) -> None:
    """Write the rows of a long stage as a table, and read one metric of both files."""
    stage = Layout(folder).stage(f"rows{steps}")
    stage.checkpoint(steps).mkdir(parents=True)
    (stage.checkpoint(steps) / "manifest.json").write_text("{}", encoding="utf-8")
    rows = [row_of(step, step * 2000) for step in range(1, steps + 1)]
    stage.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sent = sum(is_sent(number, 0, ()) for number in range(1, steps + 1))
    for name, work in (
        ("read metrics.jsonl", lambda: read_stage_rows(folder, stage.id, ["train/loss"])),
        ("write metrics.parquet", lambda: write_table(stage)),
        ("read metrics.parquet", lambda: read_stage_rows(folder, stage.id, ["train/loss"])),
    ):
        found: list[tuple[float, float]] = []
        for _ in range(rounds):
            wall, used = time.perf_counter(), time.process_time()
            work()
            found.append((time.perf_counter() - wall, time.process_time() - used))
        print(f"{f'{name}, {steps:,}':<32}{min(w for w, _ in found):>10.2f}{min(u for _, u in found):>14.2f}")
    sizes = stage.metrics.stat().st_size / 1e6, stage.metrics_table.stat().st_size / 1e6
    print(f"{steps:,} rows: {sent:,} are sent; metrics.jsonl {sizes[0]:.2f} MB, metrics.parquet {sizes[1]:.2f} MB")


def measure(name: str, arguments: list[str], options: argparse.Namespace, root: Path) -> None:
    """Run a command some times and print its line."""
    found = [run([sys.executable, "-m", "workbench.cli", *arguments], root) for _ in range(options.rounds)]
    wall, used = min(each.wall_seconds for each in found), min(each.processor_seconds for each in found)
    peak = max(each.peak_megabytes for each in found)
    print(f"{name:<32}{wall:>10.2f}{used:>14.2f}{peak:>10.0f}", flush=True)
    if options.profile is not None:
        run([sys.executable, "-m", "cProfile", "-o", str(options.profile), "-m", "workbench.cli", *arguments], root)


def run(command: list[str], root: Path) -> Measured:
    """Run one command to its end."""
    began = time.perf_counter()
    with (root / "printed.txt").open("w") as printed:
        environment = os.environ | {"WORKBENCH_OUTPUTS": str(root / "outputs")}
        process = subprocess.Popen(command, stdout=printed, cwd=PROJECT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    main()
