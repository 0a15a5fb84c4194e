"""The mixture found at any place against the mixture drawn in turn, choice for choice; and what large ones cost."""

from __future__ import annotations

import random
import time
from fractions import Fraction

import numpy as np
import pytest

from tests.data.simulated_mixture import SimulatedMixture
from workbench.config.schema import MixtureSegment
from workbench.data import largest_deficit
from workbench.data.mixture import Mixture

THIRDS = {"a": 1, "b": 1, "c": 1}
SEVEN = {"a": 0.41, "b": 0.237, "c": 0.123456, "d": 0.1, "e": 0.06, "f": 0.05, "g": 0.019544}
OTHER_SEVEN = {"a": 0.02, "b": 0.31, "c": 0.333333, "d": 0.2, "e": 0.01, "f": 0.076667, "g": 0.05}
RAMP = 100_000_000_000 // 2048
PHASE = 2_000_000_000_000 // 2048


def random_weights(rng: random.Random, names: str) -> dict[str, float]:
    """Weights of every sort: few digits or many, integers, some of them without weight."""
    sort = rng.choice(["tenths", "digits", "integers", "thousandths", "equal"])
    made = {
        "tenths": lambda: rng.randrange(10) / 10,
        "digits": lambda: round(rng.random(), 4),
        "integers": lambda: rng.randrange(10**5),
        "thousandths": lambda: rng.randrange(1000) / 1000,
        "equal": lambda: 1,
    }[sort]
    weights = {name: made() for name in names if rng.random() < 0.8}
    return weights if sum(weights.values()) > 0 else {names[-1]: 1}


def random_segments(rng: random.Random, names: str) -> list[MixtureSegment]:
    segments, free = [MixtureSegment(0, random_weights(rng, names))], rng.randrange(1, 3000)
    for _ in range(rng.randrange(4)):
        ramp = rng.choice([0, 0, rng.randrange(1, 50), rng.randrange(50, 20_000)])
        segments.append(MixtureSegment(free, random_weights(rng, names), ramp))
        free += ramp + rng.randrange(1, 4000)
    return segments


@pytest.mark.parametrize("seed", range(60))
def test_choices_are_those_of_drawing_in_turn(seed):
    rng = random.Random(seed)
    names = "abcdefgh"[: rng.randrange(1, 9)]
    segments, stop = random_segments(rng, names), 40_000
    chosen, ordinals = SimulatedMixture(segments, tuple(names)).assign(0, stop)
    before = np.concatenate([[[0] * len(names)], (chosen[:, None] == np.arange(len(names))).cumsum(axis=0)])
    mixture = Mixture(segments, tuple(names))
    for _ in range(15):
        start = rng.randrange(stop - 1)
        count = rng.randrange(1, min(700, stop - start) + 1)
        mine = mixture if rng.random() < 0.7 else Mixture(segments, tuple(names))
        found, found_ordinals = mine.assign(start, count)
        assert found.dtype == found_ordinals.dtype == np.int64
        assert (found == chosen[start : start + count]).all()
        assert (found_ordinals == ordinals[start : start + count]).all()
        assert mine.counts(start) == before[start].tolist()
        if rng.random() < 0.5:  # the batch that follows
            again = min(count, stop - start - count)
            if again:
                assert (mixture.assign(start + count, again)[0] == chosen[start + count : start + count + again]).all()


@pytest.mark.parametrize("seed", range(20))
def test_states_that_do_not_meet_are_drawn_from_the_last_one_known(seed, monkeypatch):
    monkeypatch.setattr(largest_deficit, "_WINDOWS", (1, 2))
    monkeypatch.setattr(largest_deficit, "_LONGEST_PERIOD", 1)
    monkeypatch.setattr(largest_deficit, "_SNAPSHOT", 1000)
    test_choices_are_those_of_drawing_in_turn(seed)


@pytest.mark.parametrize("seed", range(10))
def test_weights_whose_denominators_exceed_64_bits(seed):
    rng = random.Random(seed)
    first, second = ({name: rng.randrange(180_000, 200_000) for name in "abcde"} for _ in range(2))
    segments = [MixtureSegment(0, first), MixtureSegment(11, second, 99_999_989)]
    chosen, _ = SimulatedMixture(segments, tuple("abcde")).assign(0, 30_500)
    for start in (500, 5_000, 25_000, 30_400):
        assert (Mixture(segments, tuple("abcde")).assign(start, 80)[0] == chosen[start : start + 80]).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_place_far_inside_a_long_ramp_is_the_one_drawn_in_turn(seed):
    rng = random.Random(seed)
    names = tuple("abcdefg")
    segments = [
        MixtureSegment(0, {name: rng.randrange(1, 10**5) for name in names}),
        MixtureSegment(5, {name: rng.randrange(1, 10**5) for name in names}, RAMP),
    ]
    chosen, _ = SimulatedMixture(segments, names).assign(150_000, 300)
    assert (Mixture(segments, names).assign(150_000, 300)[0] == chosen).all()


@pytest.mark.parametrize(
    "segments",
    [
        [MixtureSegment(0, {"a": 0.7, "b": 0.3}), MixtureSegment(1000, {"a": 0.1, "b": 0.9}, RAMP)],
        [MixtureSegment(0, THIRDS), MixtureSegment(77, {"a": 0.7, "b": 0.2, "c": 0.1}, RAMP)],
        [MixtureSegment(0, {"a": 1}), MixtureSegment(PHASE, {"a": 0.75, "b": 0.15, "c": 0.1}, RAMP)],
        [MixtureSegment(0, SEVEN), MixtureSegment(PHASE, OTHER_SEVEN, RAMP)],
        [MixtureSegment(0, SEVEN), MixtureSegment(100, {**OTHER_SEVEN, "a": 0, "g": 0}, RAMP)],
        [MixtureSegment(0, dict.fromkeys("abc", 0.333333) | {"c": 0.333334})],
        [MixtureSegment(0, dict.fromkeys("abcdefg", 1)), MixtureSegment(100, SEVEN, RAMP)],
    ],
    ids=["two", "thirds", "from_one", "seven", "seven_to_five", "millionths", "sevenths"],
)
def test_a_hundred_billion_tokens_of_ramp_behind_two_trillion_cost_less_than_a_second(segments):
    names = tuple("abcdefg")
    began = time.process_time()
    mixture = Mixture(segments, names)
    end = segments[-1].start_sequence + segments[-1].ramp_sequences
    for stop in (end // 3, end // 2 + 1, max(end - 1, 0), end + PHASE, 2 * PHASE + 17):
        counts, integral = mixture.counts(stop), mixture.integral(stop)
        assert sum(counts) == stop
        assert all(-6 < c - w < 1 for c, w in zip(counts, integral, strict=True))
        assert mixture.assign(stop, 1024)[0].size == 1024
        assert sum(mixture.counts(stop + 1024)) == stop + 1024
    assert time.process_time() - began < 1


def test_two_sources_are_the_rounded_integral():
    mixture = Mixture([MixtureSegment(0, {"a": 2, "b": 1}), MixtureSegment(40, {"b": 1}, 999)], ("a", "b"))
    for stop in (0, 1, 2, 39, 41, 500, 1038, 1039, 2000):
        rounded = int(mixture.integral(stop)[0] + Fraction(1, 2))
        assert mixture.counts(stop) == [rounded, stop - rounded]


def test_sources_beyond_the_most_that_are_searched_are_drawn_in_turn():
    rng = random.Random(0)
    names = tuple("abcdefghijklmnopq")
    segments = [
        MixtureSegment(0, {n: rng.randrange(1, 50_000) for n in names}),
        MixtureSegment(9, dict.fromkeys(names, 1), 9000),
    ]
    chosen, _ = SimulatedMixture(segments, names).assign(0, 6000)
    assert (Mixture(segments, names).assign(5000, 1000)[0] == chosen[5000:]).all()


@pytest.mark.parametrize("seed", range(12))
def test_deficits_keep_the_two_bounds_that_possible_states_are_found_by(seed):
    rng = random.Random(seed)
    names = "abcdefgh"[: rng.randrange(2, 9)]
    segments, stop = random_segments(rng, names), 3000
    mixture, K = Mixture(segments, tuple(names)), len(names)
    for i in range(0, stop, 7):
        deficits = [w - c for w, c in zip(mixture.integral(i), mixture.counts(i), strict=True)]
        assert min(deficits) >= Fraction(1, K) - 1
        largest = sorted(deficits, reverse=True)
        for j in range(1, K + 1):
            assert sum(largest[:j]) <= j * sum(Fraction(1, m) for m in range(j + 1, K + 1))
