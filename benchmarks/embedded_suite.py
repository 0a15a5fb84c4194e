"""The embedded suite of `make study`: how long its checkpoints are scored, by this checkout and by another in turn.

    python benchmarks/embedded_suite.py outputs token_scaling_laptop
    git worktree add ../before COMMIT
    python benchmarks/embedded_suite.py outputs token_scaling_laptop --before ../before

It takes the last checkpoint of each of the study's models, copies them without their scores, and scores them one after another
in a process of its own, as a study's run does. The first pays for imports, tasks and tokens; the processor's time, since other
work on the machine hardly changes it, and wall time. With `--before`, both checkouts take turns, and bits per byte must agree.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Score by both checkouts in turn and print the medians, or score by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, help="outputs in which the study was run")
    parser.add_argument("study", help="name of the study")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    outputs = options.outputs.resolve()
    if options.only:
        print(json.dumps(score(outputs, options.only, options.threads)))
        return
    checkpoints = last_checkpoints(outputs, options.study)
    checkouts = {"now": PROJECT} | ({"before": options.before.resolve()} if options.before else {})
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in checkouts}
    for _ in range(options.rounds):
        for side, checkout in checkouts.items():
            command = [sys.executable, __file__, str(outputs), options.study, "--threads", str(options.threads)]
            environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(options.threads)}
            environment["TOKENIZERS_PARALLELISM"] = "false"
            printed = subprocess.run(
                [*command, "--only", *map(str, checkpoints)],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
                cwd=checkout,
            ).stdout
            found[side].append(json.loads(printed.splitlines()[-1]))
    print(json.dumps(summary(found, checkpoints), indent=1))


def last_checkpoints(outputs: Path, study: str) -> list[Path]:
    """Return the last checkpoint of each of the study's stages that has checkpoints, by the record of its last launch."""
    from workbench.study.layout import Layout

    plan = Layout(outputs).study_file(study)
    if not plan.is_file():
        sys.exit(f"no study {study!r} in {outputs}: run it first")
    text = plan.read_text(encoding="utf-8")
    ids = sorted(folder.name for folder in (outputs / "stages").iterdir() if folder.name in text)
    found = [sorted((outputs / "stages" / one / "checkpoints").glob("step_*")) for one in ids]
    if not any(found):
        sys.exit(f"no checkpoints of study {study!r} in {outputs}: run it first")
    return [each[-1] for each in found if each]


def score(outputs: Path, checkpoints: list[Path], threads: int) -> dict[str, Any]:
    """Score checkpoints one after another: seconds of each, and the tasks' metrics."""
    started, used = time.perf_counter(), time.process_time()
    from workbench.config.schema import EvaluationConfig, SuiteConfig
    from workbench.evaluate.reconcile import Evaluator
    from workbench.study.layout import Layout

    tasks = ["heldout_{source}", "heldout_{source}_last_word", "heldout_{source}_continuation"]
    evaluation = EvaluationConfig(suites={"embedded": SuiteConfig("embedded", tasks, include_path="embedded")})
    seconds, processor, metrics = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        (layout.root / "data").symlink_to(outputs / "data")
        evaluator = Evaluator(layout, evaluation, threads, "cpu")
        for checkpoint in checkpoints:
            copy = layout.root / checkpoint.relative_to(outputs)
            shutil.copytree(checkpoint, copy, ignore=shutil.ignore_patterns("eval*"))
            result = json.loads(evaluator.evaluate(copy, "embedded").read_text(encoding="utf-8"))
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - used)
            started, used = time.perf_counter(), time.process_time()
            metrics.append(
                {
                    f"{task} {name}": value
                    for task, values in result["results"].items()
                    for name, value in values.items()
                    if isinstance(value, float)
                }
            )
    return {"seconds": seconds, "processor_seconds": processor, "metrics": metrics}


def summary(found: dict[str, list[dict[str, Any]]], checkpoints: list[Path]) -> dict[str, Any]:
    """Medians of the first checkpoint's time and of all others', their ratios, and the largest relative difference of a metric."""
    result: dict[str, Any] = {"checkpoints": [str(Path(*one.parts[-3:])) for one in checkpoints]}
    for kind in ("seconds", "processor_seconds"):
        sums = {
            side: {"first": [one[kind][0] for one in runs], "further": [sum(one[kind][1:]) for one in runs]}
            for side, runs in found.items()
        }
        result[kind] = {
            side: {part: round(statistics.median(values), 2) for part, values in parts.items()}
            for side, parts in sums.items()
        }
        if "before" in sums:
            for part in ("first", "further"):
                ratios = [b / n for b, n in zip(sums["before"][part], sums["now"][part], strict=True)]
                result[f"before over now, {kind}, {part}"] = [
                    round(f(ratios), 2) for f in (statistics.median, min, max)
                ]
    runs = [one["metrics"] for each in found.values() for one in each]
    result["largest_relative_difference"] = max(
        abs(value - one[i][name]) / max(abs(value), 1e-9)
        for one in runs
        for i, metrics in enumerate(runs[0])
        for name, value in metrics.items()
        if name in one[i] and value == value
    )
    return result


if __name__ == "__main__":
    main()
