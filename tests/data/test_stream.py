from __future__ import annotations

import itertools
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from workbench.config.schema import MixtureSegment, StreamConfig, StreamSource, from_dict, to_dict
from workbench.data.mixture import Mixture
from workbench.data.permutation import Permutation
from workbench.data.stream import Stream

CONTEXT = 16


class Arrays:
    """A store of plain arrays: token value = position, source b's from a million on."""

    fingerprint = "f" * 16

    def __init__(self, a: int = 1000, b: int = 300) -> None:
        self.sources = {
            "a": np.arange(a * CONTEXT + 1, dtype=np.uint32),
            "b": 1_000_000 + np.arange(b * CONTEXT + 1, dtype=np.uint32),
        }


def make_config(mixture=None, a=None, b=None, seed=0, fingerprint=Arrays.fingerprint) -> StreamConfig:
    sources = {"a": a or StreamSource(None, None), "b": b or StreamSource(None, None)}
    return StreamConfig(fingerprint, CONTEXT, seed, sources, mixture or [MixtureSegment(0, {"a": 7, "b": 3})])


RAMPED = [
    MixtureSegment(0, {"a": 7, "b": 2, "c": 1}),
    MixtureSegment(701, {"a": 1, "b": 1, "c": 5}, ramp_sequences=399),
    MixtureSegment(1500, {"b": 0.123, "c": 0.877}),
    MixtureSegment(1777, {"a": 1, "b": 1, "c": 1}, ramp_sequences=1000),
]


def weights_at(i: int) -> list[Fraction]:
    """Weights of RAMPED over [i, i + 1], written down independently: shares, and lines between them."""
    shares = [[Fraction(7, 10), Fraction(2, 10), Fraction(1, 10)], [Fraction(1, 7), Fraction(1, 7), Fraction(5, 7)]]
    shares += [[Fraction(0), Fraction(123, 1000), Fraction(877, 1000)], [Fraction(1, 3)] * 3]
    middle = Fraction(2 * i + 1, 2)
    if i < 701:
        return shares[0]
    if i < 1100:
        u = (middle - 701) / 399
        return [(1 - u) * x + u * y for x, y in zip(shares[0], shares[1], strict=True)]
    if i < 1500:
        return shares[1]
    if i < 1777:
        return shares[2]
    if i < 2777:
        u = (middle - 1777) / 1000
        return [(1 - u) * x + u * y for x, y in zip(shares[2], shares[3], strict=True)]
    return shares[3]


def test_every_prefix_stays_within_the_number_of_sources_of_its_weights_ramps_included():
    mixture = Mixture(RAMPED, ("a", "b", "c"))
    chosen, ordinals = mixture.assign(0, 4000)
    counts, integral = [0, 0, 0], [Fraction(0)] * 3
    for i, (k, ordinal) in enumerate(zip(chosen.tolist(), ordinals.tolist(), strict=True)):
        assert ordinal == counts[k]
        counts[k] += 1
        integral = [x + w for x, w in zip(integral, weights_at(i), strict=True)]
        assert sum(integral) == i + 1
        assert all(abs(c - w) < 3 for c, w in zip(counts, integral, strict=True)), i
        assert all(c - w < 1 for c, w in zip(counts, integral, strict=True)), i
        if i % 97 == 0:
            assert mixture.counts(i + 1) == counts
            assert mixture.integral(i + 1) == integral


def greedy(shares: list[Fraction], stop: int) -> list[int]:
    deficits, chosen = [Fraction(0)] * len(shares), []
    for _ in range(stop):
        deficits = [d + w for d, w in zip(deficits, shares, strict=True)]
        k = max(range(len(shares)), key=lambda k: (deficits[k], -k))
        deficits[k] -= 1
        chosen.append(k)
    return chosen


@pytest.mark.parametrize("weights", [[7, 3], [1, 1, 1], [0.694, 0.273, 0.033], [5, 0, 3], [997, 2, 4]])
def test_random_access_is_the_greedy_order_beyond_its_period(weights):
    names = tuple("abc"[: len(weights)])
    total = sum(Fraction(repr(w)) for w in weights)
    expected = greedy([Fraction(repr(w)) / total for w in weights], 9000)
    segments = [MixtureSegment(0, dict(zip(names, weights, strict=True)))]
    whole, _ = Mixture(segments, names).assign(0, 9000)
    assert whole.tolist() == expected
    late = Mixture(segments, names)  # asked for a late piece first
    chosen, ordinals = late.assign(8100, 50)
    assert chosen.tolist() == expected[8100:8150]
    before = Counter(expected[:8100])
    assert ordinals[0] == before[expected[8100]]
    assert late.counts(8100) == [before[k] for k in range(len(names))]


def test_a_billionth_sequence_costs_nothing():
    mixture = Mixture([MixtureSegment(0, {"a": 7, "b": 3})], ("a", "b"))
    assert mixture.counts(10**12) == [7 * 10**11, 3 * 10**11]
    started = time.perf_counter()
    mixture.assign(10**15, 32)
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([MixtureSegment(5, {"a": 1})], "start at sequence 0"),
        ([MixtureSegment(0, {"a": 1}), MixtureSegment(10, {"b": 1}, 10), MixtureSegment(15, {"a": 1})], "sequence 15"),
        ([MixtureSegment(0, {"a": 1}), MixtureSegment(10, {"z": 1})], "'z'"),
    ],
)
def test_impossible_mixtures_are_refused(segments, message):
    with pytest.raises(ValueError, match=message):
        Mixture(segments, ("a", "b"))


@pytest.mark.parametrize("size", [*range(1, 70), 1000, 4097, 65537])
def test_a_permutation_meets_every_item_once(size):
    items = Permutation(size, "key")(np.arange(size))
    assert sorted(items.tolist()) == list(range(size))


def test_a_permutation_looks_random():
    size = 40_000
    x, y = Permutation(size, "1")(np.arange(size)), Permutation(size, "2")(np.arange(size))
    assert abs(np.corrcoef(x, np.arange(size))[0, 1]) < 0.02
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.02
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 0.02
    assert (x == y).sum() < 10
    cells, _, _ = np.histogram2d(x[:-1], x[1:], bins=20)
    expected = (size - 1) / 400
    chi = ((cells - expected) ** 2 / expected).sum()
    assert 400 - 5 * np.sqrt(800) < chi < 400 + 5 * np.sqrt(800)


def test_a_sequence_is_a_window_of_its_source():
    stream = Stream(Arrays(), make_config())
    for i in (0, 1, 17, 900):
        tokens, source = stream.sequence(i)
        assert tokens.dtype == np.int64
        assert tokens.shape == (CONTEXT + 1,)
        assert (np.diff(tokens) == 1).all()
        assert (tokens[0] % 1_000_000) % CONTEXT == 0
        assert (tokens[0] >= 1_000_000) == (stream.source_names[source] == "b")


def test_the_first_thousand_sequences_do_not_depend_on_ranks_or_on_where_one_stopped():
    config = make_config([MixtureSegment(0, {"a": 7, "b": 3}), MixtureSegment(300, {"a": 1, "b": 1}, 200)])
    whole, index = Stream(Arrays(), config).batch(0, 1000)
    for ranks in (1, 2, 4):
        rows = [None] * 1000
        for rank in range(ranks):
            stream = Stream(Arrays(), config)
            for start in range(0, 1000, 40):
                tokens, _ = stream.batch(start, 40)
                for row in range(rank, 40, ranks):
                    rows[start + row] = tokens[row]
        assert (np.array(rows) == whole).all()
    for stop in (1, 299, 300, 301, 499, 500, 731):
        tokens, sources = Stream(Arrays(), config).batch(stop, 1000 - stop)
        assert (tokens == whole[stop:]).all()
        assert (sources == index[stop:]).all()


def test_a_config_read_back_with_its_keys_in_another_order_is_the_same_stream():
    config = make_config()
    values = to_dict(config)
    values["sources"] = dict(reversed(values["sources"].items()))
    values["mixture"][0]["weights"] = dict(reversed(values["mixture"][0]["weights"].items()))
    tokens, _ = Stream(Arrays(), config).batch(0, 100)
    again, _ = Stream(Arrays(), from_dict(StreamConfig, values)).batch(0, 100)
    assert (tokens == again).all()


def test_every_epoch_is_all_windows_in_an_order_of_its_own():
    stream = Stream(Arrays(a=50, b=20), make_config([MixtureSegment(0, {"a": 1})]))
    _, windows = stream.windows(0, 200)
    epochs = windows.reshape(4, 50).tolist()
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_other_seeds_are_other_orders():
    first, _ = Stream(Arrays(), make_config(seed=0)).batch(0, 50)
    second, _ = Stream(Arrays(), make_config(seed=1)).batch(0, 50)
    assert (first != second).any(axis=1).mean() > 0.9


def test_smaller_unique_budgets_are_nested_in_larger_ones():
    drawn = {}
    for budget in (100, 400, 999, None):
        unique = None if budget is None else budget * CONTEXT + 3
        config = make_config([MixtureSegment(0, {"a": 1})], a=StreamSource(unique, None))
        _, windows = Stream(Arrays(), config).windows(0, 3000)
        drawn[budget] = set(windows.tolist())
        assert len(drawn[budget]) == (budget or 1000)
    assert drawn[100] < drawn[400] < drawn[999] < drawn[None]


def test_a_budget_above_what_is_there_is_the_stream_without_budget():
    free, _ = Stream(Arrays(), make_config()).batch(0, 200)
    ample, _ = Stream(Arrays(), make_config(a=StreamSource(10**9, None))).batch(0, 200)
    assert (free == ample).all()


@pytest.mark.parametrize("stop", [0, 1, 37, 250, 1001])
def test_counts_are_those_of_the_sequences_really_drawn(stop):
    stream = Stream(Arrays(a=60, b=200), make_config(b=StreamSource(31 * CONTEXT, None)))
    seen: dict[str, Counter[int]] = {"a": Counter(), "b": Counter()}
    if stop:
        tokens, index = stream.batch(0, stop)
        for row, k in zip(tokens, index, strict=True):
            seen[stream.source_names[k]][int(row[0])] += 1
    for name, counts in stream.counts(stop).items():
        repeats = seen[name]
        assert counts.drawn_tokens == repeats.total() * CONTEXT
        assert counts.distinct_tokens == len(repeats) * CONTEXT
        assert counts.max_repeats == max(repeats.values(), default=0)
        assert counts.epochs == pytest.approx(repeats.total() / {"a": 60, "b": 31}[name])


def test_repetition_beyond_max_epochs_is_refused_with_both_numbers():
    stream = Stream(Arrays(), make_config(b=StreamSource(40 * CONTEXT, 1.5)))
    stop = next(i for i in itertools.count() if stream.counts(i)["b"].drawn_tokens > 60 * CONTEXT)
    stream.check(stop - 1)
    with pytest.raises(ValueError, match=rf"'b' would give {61 * CONTEXT} tokens.* {60 * CONTEXT} at most"):
        stream.check(stop)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (make_config(fingerprint="0" * 16), "0000"),
        (make_config(a=StreamSource(CONTEXT - 1, None)), "unique_tokens=15"),
        (StreamConfig("f" * 16, CONTEXT, 0, {"x": StreamSource()}, [MixtureSegment(0, {"x": 1})]), "'x'"),
        (StreamConfig("f" * 16, 10**6, 0, {"a": StreamSource()}, [MixtureSegment(0, {"a": 1})]), "1000000"),
    ],
)
def test_streams_without_their_data_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Stream(Arrays(), config)


def test_a_batch_is_cheap_against_a_training_step():
    stream = Stream(Arrays(a=50_000, b=20_000), make_config())
    times = []
    for start in range(0, 6400, 32):
        started = time.perf_counter()
        stream.batch(start, 32)
        times.append(time.perf_counter() - started)
    assert sorted(times)[len(times) // 2] < 0.002  # 0.2 ms measured; a step takes 10 ms and more
