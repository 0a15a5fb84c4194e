"""Learning rates at the ends and in the middle of each shape."""

import pytest

from workbench.config.schema import Schedule
from workbench.train.schedule import learning_rate

DECAYING = {"warmup_tokens": 100, "decay_start_tokens": 1000, "decay_tokens": 400, "final_ratio": 0.1}


def test_warm_up_counts_the_steps_own_tokens():
    schedule = Schedule(peak=2.0, warmup_tokens=100)
    assert [learning_rate(schedule, t, 10) for t in (0, 40, 90, 100, 10**9)] == [0.2, 1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("decay", "middle"), [("linear", 0.55), ("cosine", 0.55), ("sqrt", 0.1 + 0.9 * (1 - 0.5**0.5))]
)
def test_decays(decay, middle):
    schedule = Schedule(peak=1.0, decay=decay, **DECAYING)
    assert learning_rate(schedule, 1000, 10) == 1.0
    assert learning_rate(schedule, 1200, 10) == pytest.approx(middle)
    assert learning_rate(schedule, 1400, 10) == pytest.approx(0.1)
    assert 0.1 < learning_rate(schedule, 1390, 10) < 0.2


def test_tinyllamas_cosine():
    tokens, warmup = 3_000_000_000_000, 2000 * 2_097_152
    schedule = Schedule(4e-4, warmup, "cosine", warmup, tokens - warmup, 0.1)
    assert learning_rate(schedule, warmup - 2_097_152, 2_097_152) == pytest.approx(4e-4)
    assert learning_rate(schedule, tokens, 2_097_152) == pytest.approx(4e-5)
