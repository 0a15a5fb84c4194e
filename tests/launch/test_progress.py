"""The time a run says is left: from measured speeds, corrected by what the work so far took."""

import pytest

from workbench.forecast.estimate import Estimate
from workbench.launch.local.progress import TimeLeft

TODO = {"small": 1000, "large": 1000}


def make_estimate(training, evaluation=None, **more):
    return Estimate(0.0, 0, 2, training, 0, evaluation or {}, **more)


def test_at_the_start_it_is_the_estimate():
    left = TimeLeft(make_estimate({"small": 20.0, "large": 80.0}, {"large": 20.0}, fixed_seconds=7.0), TODO)
    assert left.seconds(0.5, {}, {}) == 60.0
    assert left.seconds(0.5, {"small": 1}, {}) == pytest.approx(60.0, rel=0.01)


def test_a_token_of_a_large_model_counts_for_more():
    left = TimeLeft(make_estimate({"small": 20.0, "large": 80.0}), TODO)
    assert left.seconds(10.0, {"small": 1000}, {}) == pytest.approx(40.0)


def test_a_machine_slower_than_measured_corrects_it():
    left = TimeLeft(make_estimate({"small": 20.0, "large": 80.0}), TODO)
    assert left.seconds(40.0, {"small": 1000}, {}) == pytest.approx(160.0)


def test_evaluations_count():
    left = TimeLeft(make_estimate({"small": 20.0, "large": 80.0}, {"small": 50.0, "large": 50.0}), TODO)
    assert left.seconds(50.0, TODO, {}) == pytest.approx(50.0)
    assert left.seconds(75.0, TODO, {"small": 0.5, "large": 0.5}) == pytest.approx(25.0)


def test_a_chain_that_must_be_trained_in_turn_bounds_it():
    left = TimeLeft(make_estimate({"small": 20.0, "large": 80.0}, chain_seconds=80.0), TODO)
    assert left.seconds(0.0, {}, {}) == 80.0


def test_the_scores_of_the_chains_last_checkpoint_come_behind_it():
    work = make_estimate({"small": 20.0, "large": 80.0}, {"large": 10.0}, chain_seconds=100.0, critical_seconds=105.0)
    assert TimeLeft(work, TODO).seconds(0.0, {}, {}) == 105.0


@pytest.mark.parametrize("estimate", [None, make_estimate(None)])
def test_without_speeds_it_is_unknown_until_a_twentieth_is_done(estimate):
    left = TimeLeft(estimate, TODO)
    assert left.seconds(5.0, {"small": 10}, {}) is None
    assert left.seconds(5.0, {"small": 500}, {}) == pytest.approx(15.0)


def test_nothing_left_is_no_time():
    left = TimeLeft(make_estimate({"small": 0.0, "large": 0.0}), {"small": 0, "large": 0})
    assert left.seconds(3.0, {}, {}) == 0.0
