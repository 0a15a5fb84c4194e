"""What a launch says of each of its points: only those fail on whose way something failed."""

import json

import pytest

from workbench.forecast.study_facts import make_facts
from workbench.launch.outcome import Failure, Outcome, describe_outcome, point_error
from workbench.launch.slurm.queue_view import study_states
from workbench.study.causes import DIVERGED, EVALUATION, PARENT
from workbench.study.stage_states import is_worth_repeating
from workbench.train.checkpoint import find_checkpoint

TOO_FAST = "optimizer.learning_rate=1e-3,1e30"


def errors_of(facts, outcome):
    """Error of each point by its name, as the launcher gives it to Hydra."""
    found = {}
    for point in facts.plan.points:
        stage, tokens = point.chain[-1]
        found[point.name] = point_error(
            point, outcome, trained=find_checkpoint(facts.layout.stage(stage), tokens) is not None
        )
    return found


def fresh(facts):
    return make_facts([(point.name, point.config) for point in facts.plan.points])


def test_only_the_point_that_diverges_fails(make_study, run_in_threads):
    facts = make_study("tokens=2560", TOO_FAST)
    outcome, _ = run_in_threads(facts)
    good, bad = errors_of(facts, outcome).items()
    assert good == ("optimizer.learning_rate=0.001", None)
    trunk = facts.plan.points[1].chain[0][0]
    assert f"its parent stage m0_03 trunk {trunk} failed: NonFiniteLossError: step" in str(bad[1])
    assert bad[1].point == bad[0]
    causes = [failure.cause for failure in outcome.failures]
    assert causes == [DIVERGED, PARENT], "a stage that failed is not trained once more for its child's sake"


def test_the_advice_about_divergence_is_the_rate(make_study, run_in_threads):
    facts = make_study("tokens=2560", "optimizer.learning_rate=1e30", "seed=0,1")
    outcome, _ = run_in_threads(facts)
    outcome.incomplete = ["seed=0", "seed=1"]
    lines = describe_outcome(outcome, 2)
    assert "2 of 2 points are not complete: seed=0; seed=1" in lines
    assert "lower optimizer.learning_rate" in lines[-1]
    assert not any("launch" in line for line in lines)
    states = study_states(fresh(facts), None)
    assert [state.cause for state in states] == [DIVERGED, PARENT] * 2
    assert [state.state for state in states] == ["failed", "planned"] * 2
    assert not any(is_worth_repeating(state) for state in states)
    status = json.loads(facts.layout.stage(states[0].stage).status.read_text())
    assert status["error_class"] == "NonFiniteLossError"


def test_a_trunk_that_fails_later_takes_no_shorter_point_with_it(make_study, run_in_threads, monkeypatch):
    facts = make_study("tokens=2560,10240")
    fail_at_step(monkeypatch, 20)
    outcome, _ = run_in_threads(facts)
    short, long = errors_of(facts, outcome).values()
    assert short is None
    assert "trunk" in str(long)


def fail_at_step(monkeypatch, step):
    from workbench.train import loop
    from workbench.train.step import NonFiniteLossError

    real = loop.StageRun._step

    def diverge(self, model, state):
        if state.step + 1 == step:
            raise NonFiniteLossError(step, float("nan"), 1.0, range(8))
        return real(self, model, state)

    monkeypatch.setattr(loop.StageRun, "_step", diverge)


def test_one_of_several_seeds(make_study, run_in_threads, monkeypatch):
    from workbench.train import loop
    from workbench.train.step import NonFiniteLossError

    facts = make_study("tokens=2560", "seed=0,1,2")
    real = loop.StageRun._step

    def diverge(self, model, state):
        if self.stage.stream.seed == 1:
            raise NonFiniteLossError(1, float("nan"), 1.0, range(8))
        return real(self, model, state)

    monkeypatch.setattr(loop.StageRun, "_step", diverge)
    outcome, _ = run_in_threads(facts)
    assert [name for name, error in errors_of(facts, outcome).items() if error] == ["seed=1"]


def test_evaluations_that_fail_concern_the_points_whose_way_leads_past_them(make_study, run_in_threads, monkeypatch):
    from workbench.evaluate.reconcile import EvaluationError, Evaluator

    def refuse(self, checkpoint, suite, following=None):
        raise EvaluationError("task 'x' has no documents")

    monkeypatch.setattr(Evaluator, "evaluate", refuse)
    facts = make_study("tokens=2560,5120")
    outcome, _ = run_in_threads(facts, evaluate=True)
    assert {failure.cause for failure in outcome.failures} == {EVALUATION}
    assert len(outcome.failures) == 4, "each checkpoint that could not be scored is named"
    short, long = errors_of(facts, outcome).values()
    assert "at 2,560 tokens" in str(short)
    assert "at 5,120 tokens" in str(long)
    state = study_states(fresh(facts), None)[0]
    assert state.state == "trained"
    assert "the last attempt: embedded of" in state.note
    assert "no documents" in state.note


def test_a_stop_is_no_failure_of_the_points_that_are_there(make_study):
    facts = make_study("tokens=2560")
    [point] = facts.plan.points
    outcome = Outcome(killed=True)
    assert "stopped before its last checkpoint" in str(point_error(point, outcome, trained=False))
    assert point_error(point, outcome, trained=True) is None
    assert "continues from the last checkpoints" in describe_outcome(outcome, 1)[-1]


@pytest.mark.parametrize("tokens", [None, 2560, 2816])
def test_an_evaluation_beyond_a_points_branch_is_not_its_own(make_study, tokens):
    [point] = make_study("tokens=2560").plan.points
    stage, end = point.chain[-1]
    failure = Failure("evaluate", stage, "m0_03 cooldown", "EvaluationError: no", EVALUATION, tokens)
    failed = point_error(point, Outcome([failure]), trained=True) is not None
    assert failed == (tokens is None or tokens <= end)
