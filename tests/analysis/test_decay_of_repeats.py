"""What a report says of repeated data: the decay of known data is found, and what the cut decides is shown."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.report.decay_of_repeats import decay_by_cut, fit_decay


def test_decay_of_one_size_is_found():
    """R_D of known data, at one size."""
    tokens = np.repeat([125e3, 250e3, 500e3, 1e6, 2e6, 4e6], 3)
    unique = np.minimum(tokens, np.tile([125e3, 500e3, 4e6], 6))
    effective = unique * (1 + 6.0 * (1 - np.exp(-(tokens / unique - 1) / 6.0)))
    rows = pd.DataFrame({"params": 1e5, "tokens": tokens, "unique_tokens": unique, "loss": 1.5 + 350 / effective**0.44})
    fit = fit_decay(rows.drop_duplicates())
    assert fit.params["R_D"] == pytest.approx(6.0, rel=1e-2)
    assert fit.params["E"] == pytest.approx(1.5, rel=1e-2)


def test_what_the_cut_decides_is_shown():
    """On a law that holds, every cut finds its R_D; where long runs overfit, the cut that takes them all does not."""
    rows = []
    for params in (1e5, 2e5, 4e5):
        for pool in (125e3, 250e3, 500e3, 1e6):
            for epochs in (1, 2, 4, 8, 16):
                effective = pool * (1 + 6.0 * (1 - math.exp(-(epochs - 1) / 6.0)))
                loss = 1.0 + 60 / params**0.42 + 350 / effective**0.44
                rows.append({"params": params, "tokens": pool * epochs, "unique_tokens": pool, "loss": loss})
    frame = pd.DataFrame(rows)
    frame["trajectory"] = frame["params"].astype(str) + frame["unique_tokens"].astype(str)
    table = decay_by_cut(frame, bootstrap=20).set_index("rows")
    assert list(table["points"]) == [60, 60, 60, 48, 36]
    assert table["R_D"].tolist() == pytest.approx([6.0] * 5, rel=2e-2)
    assert set(table["misfit"]) == {""}
    frame.loc[frame["tokens"] / frame["unique_tokens"] == 16, "loss"] *= 1.3
    table = decay_by_cut(frame, bootstrap=20).set_index("rows")
    assert table.loc["all", "R_D"] < 5
    assert "the loss rises again" in table.loc["all", "misfit"]
    assert table.loc["up to the lowest loss", "R_D"] == pytest.approx(6.0, rel=2e-2)
    assert table.loc["up to 4 epochs", "points"] == 36
