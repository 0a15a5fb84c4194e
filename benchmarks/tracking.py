"""Training with publishing beside it against the same training without: what tracking costs.

    python tests/tracking/servers.py outputs/servers &                   # or a server of one's own
    python benchmarks/tracking.py --uri http://127.0.0.1:PORT --rounds 5

Each round trains the same stages twice, in turn first with and first without, from the same prepared data.
Beside the one that is tracked a second process publishes its study, as a launch's publisher does, only more
often. A step's time is that between two rows of `metrics.jsonl`, so that start-up counts for neither; the
processor's seconds are those of the training process and tell more than wall time on a machine that others use.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from workbench.config.compose import composer
from workbench.forecast.study_facts import Facts, make_facts, prepare_data
from workbench.launch.snapshot import freeze_study
from workbench.study.layout import Layout
from workbench.tracking import spool

SPAWN = multiprocessing.get_context("spawn")
STUDY = "tracking_benchmark"


def main() -> None:
    """Measure and print a line of JSON a round, and one of the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every-seconds", type=float, default=5.0, help="between two publishings")
    parser.add_argument("overrides", nargs="*", default=["model=m0_3", "tokens=2000000"])
    options = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare_data(make_study(Path(folder), options.overrides, "prepare"), print)
        for number in range(options.rounds):
            found: dict[str, dict[str, float]] = {}
            for tracked in (number % 2 == 0, number % 2 == 1):
                root = Path(folder) / f"round{number}_{'tracked' if tracked else 'plain'}"
                root.mkdir()
                (root / "data").symlink_to(data)
                # Each tracked run is an experiment of its own, which starts empty.
                facts = freeze_study(make_study(root, options.overrides, f"{STUDY}_{time.time_ns()}"))
                found["with" if tracked else "without"] = run(facts, options if tracked else None)
            rounds.append({f"{key}_{name}": value for name, each in found.items() for key, value in each.items()})
            print(json.dumps(rounds[-1]))
    summary = {"rounds": len(rounds), "every_seconds": options.every_seconds, "overrides": options.overrides}
    for kind in ("seconds", "median_step_seconds", "processor_seconds"):
        ratios = [each[f"{kind}_with"] / each[f"{kind}_without"] for each in rounds]
        summary[f"ratio_{kind}"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    print(json.dumps(summary))


def make_study(root: Path, overrides: list[str], study: str) -> Facts:
    """Compose one point under an outputs' root of its own; checkpoints every 5 s make its rows publishable."""
    with composer() as hydra:
        mine = [*overrides, f"study={study}", f"paths.outputs={root}", "checkpoint.interval_seconds=5"]
        return make_facts([(point.name, point.config) for point in hydra.points(mine)])


def run(facts: Facts, tracking: argparse.Namespace | None) -> dict[str, float]:
    """Train every stage in a process; where it is tracked, publish from another one, and once at the end."""
    root, study, stages = facts.layout.root, facts.plan.study, list(facts.plan.nodes)
    over = SPAWN.Event()
    publisher = None
    if tracking is not None:
        arguments = (root, study, tracking.uri, tracking.every_seconds, over)
        publisher = SPAWN.Process(target=publish, args=arguments)
        publisher.start()
    used = SPAWN.SimpleQueue()
    trainer = SPAWN.Process(target=train, args=(root, stages, used))
    trainer.start()
    trainer.join()
    assert trainer.exitcode == 0
    over.set()
    if publisher is not None:
        publisher.join()
        assert publisher.exitcode == 0
    return step_times(facts) | {"processor_seconds": used.get()}


def step_times(facts: Facts) -> dict[str, float]:
    """Seconds of all steps but each stage's first, and the median of one."""
    steps: list[float] = []
    for stage in facts.plan.nodes:
        times = [row[spool.TIME] for row in spool.read_rows(facts.layout.stage(stage).path)]
        steps += [after - before for before, after in itertools.pairwise(times)]
    return {"seconds": sum(steps), "median_step_seconds": statistics.median(steps), "steps": len(steps)}


def train(root: Path, stages: list[str], used) -> None:
    """Train each stage after the one it begins from; hand back the seconds of processor it took."""
    from workbench.train.whole_stage import train_stage

    before = time.process_time()
    for stage in stages:
        train_stage(Layout(root), stage)
    used.put(time.process_time() - before)


def publish(root: Path, study: str, uri: str, every_seconds: float, over) -> None:
    """Publish until training is over, and then once more; say how much was sent."""
    from workbench.tracking.mlflow import publish_study

    rows = count = 0
    while True:
        last = over.wait(every_seconds)
        rows += publish_study(Layout(root), study, uri).rows
        count += 1
        if last:
            print(json.dumps({"publishings": count, "rows": rows}))
            return


if __name__ == "__main__":
    main()
