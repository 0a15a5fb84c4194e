"""What Hydra hears of each point of a local run: the error of the point that failed, and of no other."""

import pytest

from workbench.config.compose import composer
from workbench.forecast.study_facts import make_facts
from workbench.launch.local import run_study
from workbench.launch.outcome import Failure, Outcome, PointError, describe_outcome
from workbench.study.causes import DIVERGED


def test_hydra_names_the_point_that_failed(overrides, experiments, monkeypatch, capsys):
    sweep = [*overrides, "tokens=2560", "seed=0,1,2"]
    with composer(experiments) as hydra:
        facts = make_facts([(point.name, point.config) for point in hydra.points(sweep)])
        bad = facts.plan.points[1]
        failure = Failure("train", bad.chain[0][0], "m0_03 trunk", "NonFiniteLossError: step 3", DIVERGED)
        monkeypatch.setattr(run_study, "run_study_locally", lambda *_, **__: Outcome([failure]))
        trained = {point.chain[-1][0]: "checkpoint" for point in facts.plan.points if point is not bad}
        monkeypatch.setattr("workbench.train.checkpoint.find_checkpoint", lambda stage, _: trained.get(stage.id))
        with pytest.raises(
            PointError, match=r"point seed=1: its parent stage m0_03 trunk \w+ failed: NonFinite"
        ) as raised:
            hydra.multirun(sweep)
    said = capsys.readouterr().err
    assert "seed=1" in said
    assert "seed=0" not in said
    assert raised.value.outcome.incomplete == ["seed=1"]
    assert "1 of 3 points are not complete: seed=1" in describe_outcome(raised.value.outcome, 3)
