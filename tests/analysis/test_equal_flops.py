"""Points against a baseline at the same FLOPs."""

import numpy as np
import pandas as pd
import pytest

from analysis.equal_flops import compare_at_equal_flops

METRIC = "heldout/prose/bits_per_byte"


def make_frame():
    """A baseline that falls by 0.1 for each factor of e, two seeds, and another way at twice the FLOPs a token."""
    rows = [
        ("plain", 1e6, tokens, 6e6 * tokens, 3.0 - 0.1 * np.log(tokens) + 0.01 * seed, True, seed)
        for tokens in (1e5, 4e5)
        for seed in (-1, 1)
    ]
    rows += [("plain", 1e6, 3e5, 18e11, 9.9, False, 0), ("large", 9e6, 1e5, 6e12, 1.0, True, 0)]
    rows += [("other", 1e6, tokens, 12e6 * tokens, 1.5, True, 0) for tokens in (1e5, 4e5)]
    names = ["model", "params_non_embedding", "tokens", "flops", "value", "annealed", "seed_init"]
    return pd.DataFrame(rows, columns=pd.Index(names)).assign(metric=METRIC, study="one")


def test_the_baseline_is_interpolated_in_log_flops():
    table = compare_at_equal_flops(make_frame(), METRIC, baseline="plain")
    assert table["model"].tolist() == ["other", "other"]  # of the baseline's size alone
    expected = 3.0 - 0.1 * np.log(2e5)
    assert table["baseline"].tolist() == pytest.approx([expected, np.nan], nan_ok=True)
    assert table["difference"].iloc[0] == pytest.approx(1.5 - expected)


def test_a_baseline_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="models that have: large, other, plain"):
        compare_at_equal_flops(make_frame(), METRIC, baseline="m0_1")
