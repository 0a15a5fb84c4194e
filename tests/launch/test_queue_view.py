"""What Slurm says of a study, in the words of `workbench status`."""

import json
from dataclasses import replace

import pytest

from workbench.evaluate.suite import EvaluationError
from workbench.forecast.study_facts import make_facts
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.claim import Claim
from workbench.launch.slurm.commands import JobState, SlurmError
from workbench.launch.slurm.ledger import Entry, Ledger, read_ledger
from workbench.launch.slurm.queue_view import log_tail, study_states

TOKENS = "tokens=10240,20480"


def entry(stage, state, targets=(8192,), kind="train", job="7", reason=""):
    claim = Claim(kind, str(targets[-1]), stage, tuple(targets), f"wb-{job}", 0, "small", job)
    return Entry(claim, None if state is None else JobState(job, state, reason))


@pytest.fixture
def states(make_study):
    facts = make_study(TOKENS)
    trunk, short, long = facts.plan.nodes

    def make(*entries):
        found = study_states(facts, Ledger(tuple(entries)))
        return {"trunk": found[0], "short": found[1], "long": found[2]}

    make.ids = {"trunk": trunk, "short": short, "long": long}
    return make


def test_without_jobs_everything_is_planned(states):
    assert {state.state for state in states().values()} == {"planned"}


def test_queued_and_running(states):
    ids = states.ids
    found = states(
        entry(ids["trunk"], "RUNNING", job="7"),
        entry(ids["trunk"], "PENDING", (16384,), job="8", reason="Dependency"),
        entry(ids["short"], "PENDING", (10240,), job="9", reason="Dependency"),
    )
    assert (found["trunk"].state, found["trunk"].jobs) == ("running", ("7",))
    assert (found["short"].state, found["short"].note) == ("queued", "waits for its parent")
    assert found["long"].state == "planned"


def test_a_failed_parent_explains_its_cancelled_children(states):
    ids = states.ids
    found = states(
        entry(ids["trunk"], "OUT_OF_MEMORY", job="7"),
        entry(ids["trunk"], "CANCELLED", (16384,), job="8"),
        entry(ids["short"], "CANCELLED", (10240,), job="9"),
        entry(ids["long"], "CANCELLED", (20480,), job="10"),
    )
    assert (found["trunk"].state, found["trunk"].note) == ("failed", "job 7: OUT_OF_MEMORY")
    for name in ("short", "long"):
        assert found[name].state == "cancelled"
        assert f"parent {ids['trunk']} failed" in found[name].note


def test_cancelled_by_the_user(states):
    found = states(entry(states.ids["trunk"], "CANCELLED", reason="by 1000"))
    assert (found["trunk"].state, found["trunk"].note) == ("cancelled", "job 7 was cancelled by 1000")


@pytest.mark.parametrize("reason", ["", "None", "Dependency"])
def test_a_cancelled_job_that_the_queue_still_lists_has_no_word_on_who_did_it(states, reason):
    """The queue gives what the job was waiting for; who cancelled it is in the accounting alone."""
    found = states(entry(states.ids["trunk"], "CANCELLED", reason=reason))
    assert (found["trunk"].state, found["trunk"].note) == ("cancelled", "job 7 was cancelled")


def test_a_job_nobody_remembers_leaves_it_to_the_files(states):
    assert states(entry(states.ids["trunk"], slurm.UNKNOWN))["trunk"].state == "planned"
    assert states(entry(states.ids["trunk"], None))["trunk"].state == "planned"


def test_a_trained_stage_is_finished_only_when_it_is_evaluated(make_study, run_local):
    facts = make_study("tokens=10240")
    run_local(facts, evaluate=False)
    facts = make_facts([(point.name, point.config) for point in facts.plan.points])
    trunk = next(iter(facts.plan.nodes))
    assert {state.state for state in study_states(facts, None)} == {"trained"}
    scoring = Ledger((entry(trunk, "RUNNING", kind="evaluate", job="5"),))
    first, second = study_states(facts, scoring)
    assert (first.state, first.jobs, second.state) == ("evaluating", ("5",), "trained")
    assert second.note == "1 evaluations missing; `workbench evaluate` does them"


def test_the_running_stage_tells_step_speed_and_time_left(make_study):
    facts = make_study("tokens=10240")
    trunk = next(iter(facts.plan.nodes))
    row = {"step": 16, "tokens": 4096, "time": 1.0, "train/tokens_per_second": 1024.0}
    facts.layout.stage(trunk).metrics.write_text(json.dumps(row) + '\n{"step": 17, "tok')
    state = study_states(facts, Ledger((entry(trunk, "RUNNING"),)))[0]
    assert (state.step, state.tokens_per_second, state.seconds_left) == (16, 1024.0, 4.0)


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A `squeue` and a `sacct` that print what the test says."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def say(queue="", accounting="", error=""):
        for name, text in (("squeue", queue), ("sacct", accounting)):
            (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
            if error:
                (folder / name).write_text(f"#!/bin/sh\necho '{error}' >&2\nexit 1\n")
            (folder / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    say()
    return say


def test_the_ledger_asks_the_queue_first_and_accounting_for_the_rest(make_study, squeue):
    from workbench.launch.slurm import claim as claims

    facts = make_study(TOKENS)
    for number, stage in enumerate(facts.plan.nodes):
        made = Claim("train", "1", stage, (1,), "wb-1", number, "small")
        claims.take(facts.layout, made)
        if number:
            claims.set_job(facts.layout, made, f"7_{number}")
    squeue(
        queue="7_0|PENDING|wb-1|Resources",
        accounting="JobID|State\n7_1|CANCELLED by 0\n7_2|COMPLETED\n7_0|PENDING",
    )
    ledger = read_ledger(facts.plan, facts.layout)
    assert [(e.state.id, e.state.state, e.live) for e in sorted(ledger.entries, key=lambda e: e.claim.index)] == [
        ("7_0", "PENDING", True),
        ("7_1", "CANCELLED", False),
        ("7_2", "COMPLETED", False),
    ]
    assert ledger.live_jobs() == ["7_0"]


def test_silence_is_never_an_empty_queue(squeue, monkeypatch):
    monkeypatch.setattr(slurm, "_PATIENCE_SECONDS", 0.1)
    squeue(error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    with pytest.raises(SlurmError, match="Unable to contact"):
        slurm.call(["squeue"], patience=1.5)
    squeue(error="Invalid user: nobody")
    with pytest.raises(SlurmError, match="Invalid user"):
        slurm.list_queue()


def test_without_accounting_ended_jobs_are_unknown(squeue):
    squeue(error="Slurm accounting storage is disabled")
    assert slurm.ask_accounting(["7"]) == {}
    assert slurm.job_states(["7"], {})["7"].state == slurm.UNKNOWN


def test_a_job_that_only_accounting_holds_for_alive_is_forgotten(squeue):
    squeue(accounting="JobID|State\n7|RUNNING\n8|PENDING\n9|FAILED")
    states = slurm.job_states(["7", "8", "9"], {})
    assert [states[job].state for job in "789"] == [slurm.UNKNOWN, slurm.UNKNOWN, "FAILED"]


def test_the_log_of_a_failed_stage(make_study):
    facts = make_study("tokens=10240")
    trunk = next(iter(facts.plan.nodes))
    failed = entry(trunk, "FAILED")
    facts.layout.stage(trunk).log.write_text("\n".join(f"line {n}" for n in range(20)))
    errors = facts.layout.batch(failed.claim.token) / "7_0_log.err"
    errors.parent.mkdir(parents=True)
    errors.write_text("Traceback\nValueError: no\n")
    tail = log_tail(facts.layout, trunk, Ledger((replace(failed),)))
    assert tail[-1] == "ValueError: no"
    assert len(tail) == 8


def test_a_failed_job_says_what_its_stage_said(states, make_study):
    """Slurm knows no more than that a job failed: the advice needs the class of the stage's own error."""
    from workbench.study.causes import DIVERGED, MEMORY, OTHER, PARENT
    from workbench.study.stage_states import is_worth_repeating
    from workbench.train.attempt_status import write_status

    ids = states.ids
    trunk = make_study(TOKENS).layout.stage(ids["trunk"])
    assert states(entry(ids["trunk"], "TIMEOUT"))["trunk"].cause == OTHER
    write_status(trunk, "failed", "NonFiniteLossError: step 3", error_class="NonFiniteLossError")
    found = states(entry(ids["trunk"], "FAILED"), entry(ids["short"], "CANCELLED", (10240,), job="9"))
    assert (found["trunk"].cause, found["trunk"].note) == (DIVERGED, "job 7: FAILED; NonFiniteLossError: step 3")
    assert found["short"].cause == PARENT
    assert not any(is_worth_repeating(state) for state in found.values())
    killed = states(entry(ids["trunk"], "OUT_OF_MEMORY"))["trunk"]
    assert (killed.cause, is_worth_repeating(killed)) == (MEMORY, True)
    assert states(entry(ids["trunk"], slurm.UNKNOWN))["trunk"].cause == DIVERGED
    assert states(entry(ids["trunk"], "CANCELLED", reason="by 0"))["trunk"].cause is None


def test_evaluations_that_cannot_be_counted_do_not_hide_the_states(make_study, monkeypatch, caplog):
    def fails(facts):
        raise EvaluationError("task 'mine': data file 'x.json' is not there")

    facts = make_study("tokens=10240")
    monkeypatch.setattr("workbench.launch.slurm.queue_view.pending_evaluations", fails)
    assert {state.state for state in study_states(facts, None)} == {"planned"}
    assert "evaluations are not counted: task 'mine': data file 'x.json' is not there" in caplog.text
