"""Two overlapping studies at once, and evaluations that cannot run."""

import json
import time

from warm_commands import Command, run_command

from workbench.study.layout import Layout
from workbench.tracking import spool


def command(overrides, experiments):
    return ["run", "--experiments", experiments, *overrides]


def test_two_runs_at_once_share_the_work(overrides, outputs, experiments, know_speeds):
    """Both end well; no step of the shared trunk is trained, written or published twice."""
    studies = {"first": "tokens=40960,81920", "second": "tokens=40960,163840"}
    commands = [
        command(know_speeds([*overrides, f"study={name}", tokens]), experiments) for name, tokens in studies.items()
    ]
    runs = [Command(each, merge=True) for each in commands]
    while not list(outputs.glob("stages/*/metrics.jsonl")):
        time.sleep(0.02)
    assert [run.poll() for run in runs] == [None, None], "they are under way together"
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
    layout = Layout(outputs)
    plans = {name: json.loads(layout.study_file(name).read_text()) for name in studies}
    shared = set(plans["first"]["stages"]) & set(plans["second"]["stages"])
    assert len(shared) == 2
    assert len(list((outputs / "stages").iterdir())) == 4
    for plan in plans.values():
        for identifier, stage in plan["stages"].items():
            steps = [row["step"] for row in spool.read_rows(layout.stage(identifier).path)]
            first = (stage["stage"]["parent"] or {"tokens": 0})["tokens"] // 256 + 1
            assert steps == list(range(first, first + len(steps)))
            assert steps[-1] * 256 >= stage["stage"]["end_tokens"]


def test_an_unknown_task_is_refused_before_training(overrides, outputs, experiments):
    overrides = [*overrides, "evaluation.suites.embedded.tasks=[no_such_task]"]
    run = run_command(command(overrides, experiments))
    assert run.returncode == 2
    assert "no_such_task" in run.stderr
    assert not (outputs / "stages").exists()


def test_an_evaluation_that_fails_stops_no_training(overrides, outputs, experiments, know_speeds):
    """A hub task without a hub: the stages are trained, and the failure is said."""
    overrides = [*overrides, "evaluation=commonsense", "++evaluation.suites={commonsense:{name:c,tasks:[piqa]}}"]
    asked = command(know_speeds(overrides), experiments)
    run = run_command(asked)
    assert run.returncode == 1, run.stderr
    assert "piqa" in run.stderr
    states = [json.loads(path.read_text())["state"] for path in outputs.glob("stages/*/status.json")]
    assert states == ["finished", "finished"]
