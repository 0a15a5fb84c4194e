"""What a researcher waits for before and beside the trainings: `workbench plan` and `workbench status` of large studies.

    python benchmarks/waits.py
    python benchmarks/waits.py --points 200 2000 10000 --rounds 3

Each `plan` is a process of its own, as it is typed, of a study that sweeps seeds, learning rates and tokens. `status` looks
at outputs whose stages are made of files alone, each with two checkpoints and the results of their evaluations; nothing is
trained. The table has the fastest of the rounds, wall and processor seconds, and the largest memory.
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

from workbench.config.compose import composer
from workbench.evaluate.reconcile import checkpoint_evaluation_id
from workbench.forecast.study_facts import Facts, make_facts
from workbench.launch.snapshot import write_study
from workbench.study.evaluation_files import result_path, write_result
from workbench.study.study_plan import Node

TOKENS = (500_000, 1_000_000, 2_000_000, 4_000_000)
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


def processor() -> str:
    """Name the processor as its system does."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_file(root: Path, points: int) -> None:
    """Write a study's file with so many points: seeds x learning rates x tokens."""
    root.mkdir(parents=True, exist_ok=True)
    seeds = points // (len(RATES) * len(TOKENS))
    lines = [
        "# @package _global_",
        "defaults:",
        "  - override /data: python_tiny",
        "  - override /recipe: wsd",
        f"study: sweep{points}",
        "hydra:",
        "  sweeper:",
        "    params:",
        f"      seed: range({seeds})",
        f"      optimizer.learning_rate: {','.join(map(str, RATES))}",
        f"      tokens: {','.join(map(str, TOKENS))}",
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
    for tokens in sorted({*node.targets, half}):
        checkpoint = directory.checkpoint(tokens // 1000)
        checkpoint.mkdir(parents=True)
        manifest = {
            "stage": node.id,
            "step": tokens // 1000,
            "tokens": tokens,
            "data_fingerprint": node.stage.data_fingerprint,
            "heldout_fingerprint": "0" * 16,
            "files": {"optimizer.safetensors": {"bytes": 0, "sha256": ""}},
        }
        (checkpoint / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        for suite in facts.plan.evaluation.suites.values():
            if suite.name not in names:
                precision = facts.plan.evaluation.precision
                names[suite.name] = checkpoint_evaluation_id(checkpoint, suite, precision, facts.layout)
            name = names[suite.name]
            documents = {"prose": [{"doc_id": i, "value": 0.5} for i in range(200)]}
            result = {"eval_id": name, "results": {"prose": {"bits_per_byte": 1.0}}}
            write_result(result_path(checkpoint, suite.name, name), result, documents)
    directory.status.write_text('{"state": "finished"}', encoding="utf-8")
    directory.metrics.write_text('{"step": 1}\n' * 100, encoding="utf-8")


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
