"""A loss that is not finite: it stops the stage, or its update is skipped and counted."""

import json

import pytest
from whole_trainings import assert_same, stop_after, train_all

from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train import loop
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.step import NonFiniteLossError
from workbench.train.whole_stage import train_stage


def test_non_finite_loss_stops_with_step_loss_and_sequences(make_study, monkeypatch):
    facts = make_study()
    trunk = next(iter(facts.plan.nodes))
    steps = []
    original = loop.summed_loss

    def poisoned(model, tokens, **settings):
        steps.append(1)
        total, losses = original(model, tokens, **settings)
        factor = float("nan") if len(steps) == 6 else 1.0
        return total * factor, losses * factor

    monkeypatch.setattr(loop, "summed_loss", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 6: loss nan.*sequences \[40, 48\)"):
        train_stage(facts.layout, trunk)
    status = json.loads(facts.layout.stage(trunk).status.read_text())
    assert status["state"] == "failed"
    assert "step 6" in status["error"]
    assert not facts.layout.stage(trunk).list_checkpoints()


def poison(monkeypatch, steps):
    """Have the loss of these steps be no number."""
    original = loop.train_step

    def poisoned(model, loss_function, *rest, **settings):
        factor = float("nan") if settings["step"] in steps else 1.0

        def loss(tokens):
            total, losses = loss_function(tokens)
            return total * factor, losses * factor

        return original(model, loss, *rest, **settings)

    monkeypatch.setattr(loop, "train_step", poisoned)


def test_skipped_updates_are_counted_in_the_rows(make_study, monkeypatch):
    poison(monkeypatch, {3, 4, 9, 34})
    facts, said, told = make_study("optimizer.non_finite=skip"), [], []
    train_all(facts, Hooks(log=said.append, on_progress=told.append))
    trunk, cooldown = ([*spool.read_rows(facts.layout.stage(i).path)] for i in facts.plan.nodes)
    assert [row["step"] for row in trunk if spool.TRAIN_LOSS not in row] == [3, 4, 9]
    assert [row[spool.TRAIN_SKIPPED_UPDATES] for row in trunk] == [0, 0, 1, *[2] * 5, *[3] * 24]
    assert not {spool.TRAIN_GRADIENT_NORM, spool.source_loss("prose"), spool.source_loss("code")} & trunk[2].keys()
    assert [row[spool.TRAIN_SKIPPED_UPDATES] for row in cooldown] == [3, *[4] * 7]  # the parent's are counted on
    assert [line.split(",")[0] for line in said if "skipped" in line] == [
        f"step {step}: update skipped" for step in (3, 4, 9, 34)
    ]
    assert len(told) == 40
    last = facts.layout.stage(list(facts.plan.nodes)[-1]).list_checkpoints()[-1]
    assert ckpt.verify(last)["skipped_updates"] == 4


def test_a_stage_that_skips_resumes_exactly(fresh, monkeypatch):
    """Stopped before, within and behind updates that are skipped."""
    poison(monkeypatch, {3, 4, 9})
    untouched, stopped = (fresh(name, "optimizer.non_finite=skip") for name in ("untouched", "stopped"))
    train_all(untouched)
    for steps in (2, 1, 1, 5):
        with pytest.raises(StoppedError):
            train_stage(stopped.layout, next(iter(stopped.plan.nodes)), stop_after(steps))
    train_all(stopped)
    assert_same(untouched, stopped)


def test_one_skip_too_many_in_a_row_stops_also_after_a_resume(make_study, monkeypatch):
    poison(monkeypatch, {3, 4, 6, 7, 8})
    facts = make_study("optimizer.non_finite=skip", "optimizer.max_skips_in_a_row=2")
    trunk = next(iter(facts.plan.nodes))
    message = r"step 8: loss nan.*it is update 3 in a row to skip: optimizer\.max_skips_in_a_row=2"
    for stop in (None, stop_after(6), stop_after(1), None):
        with pytest.raises(StoppedError) if stop else pytest.raises(NonFiniteLossError, match=message):
            train_stage(facts.layout, trunk, stop)
    assert [row["step"] for row in spool.read_rows(facts.layout.stage(trunk).path)] == list(range(1, 8))
    assert json.loads(facts.layout.stage(trunk).status.read_text())["state"] == "failed"


def test_a_diverged_training_is_not_skipped_through(make_study):
    facts = make_study("optimizer.non_finite=skip", "optimizer.learning_rate=1e30")
    trunk = next(iter(facts.plan.nodes))
    with pytest.raises(NonFiniteLossError, match="update 6 in a row to skip"):
        train_stage(facts.layout, trunk)
    assert len(spool.read_rows(facts.layout.stage(trunk).path)) < 20
