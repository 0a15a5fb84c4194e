import io
import math
import re

import numpy as np
import pandas as pd
import pytest

from analysis.ablation.blocks import _runs
from analysis.columns import known_errors, require_numbers, truth, truths
from analysis.figures import token_scaling_figure
from analysis.fitting import fit_law
from analysis.frames import select_loss
from analysis.laws import Chinchilla
from analysis.paired import compare_sizes
from analysis.report import summary_table
from analysis.report.page_blocks import _lead
from analysis.report.study_kinds import baseline_runs, pooled_variants
from analysis.tasks import task_curves

BITS = "heldout/prose/bits_per_byte"


def test_an_error_of_zero_is_not_known():
    given = [0.01, 0.0, -0.0, -0.1, math.nan, math.inf, None]
    assert known_errors(given).tolist() == pytest.approx([0.01, *[math.nan] * 6], nan_ok=True)
    assert known_errors(0.02) == 0.02
    assert np.isnan(known_errors(0))


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        *[(value, True) for value in (True, np.True_, 1, 1.0, np.int8(1), "true", "True", " YES ", "1")],
        *[(value, False) for value in (False, np.False_, 0, 0.0, np.float32(0), "false", "FALSE", "No", "0")],
        *[(value, None) for value in (None, math.nan, np.nan, pd.NA, pd.NaT)],
    ],
)
def test_truth_values(value, meaning):
    assert truth(value) is meaning


@pytest.mark.parametrize("value", ["maybe", "", "nan", "t", "2", 2, -1, 0.5, np.int64(3), [True]])
def test_what_is_neither_true_nor_false_is_refused(value):
    frame = pd.DataFrame({"annealed": pd.Series([True, value], dtype=object, index=["a", "b"])})
    shown = value.item() if isinstance(value, np.generic) else value
    words = f"column annealed, row b: {shown!r} is neither true nor false: write true, false, yes, no, 1 or 0"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        truths(frame, "annealed")


@pytest.mark.parametrize("kind", ["object", "boolean", "bool", "int64", "float64", "str", "category"])
def test_columns_of_every_kind(kind):
    values = ["yes", "no", "yes"] if kind in ("str", "category") else [True, False, True]
    frame = pd.DataFrame({"annealed": pd.Series(values).astype(kind)})
    assert truths(frame, "annealed").tolist() == [True, False, True]
    assert truths(frame.iloc[:0], "annealed").tolist() == []


def test_what_is_missing_counts_as_false():
    for gap in (None, math.nan, pd.NA):
        frame = pd.DataFrame({"annealed": pd.Series([True, gap, "true"], dtype=object)})
        assert truths(frame, "annealed").tolist() == [True, False, True]
    assert truths(pd.DataFrame({"annealed": pd.array([True, None], "boolean")}), "annealed").tolist() == [True, False]


def test_a_number_as_text_is_refused():
    with pytest.raises(ValueError, match="tokens holds '16', which is not a number"):
        require_numbers(pd.DataFrame({"tokens": ["16", "2"]}), ("tokens",))


def test_two_sizes_are_not_ordered_as_text():
    documents = pd.DataFrame({"model": ["a", "b"], "params_non_embedding": ["16", "2"], "annealed": "yes", "tokens": 1})
    with pytest.raises(ValueError, match="params_non_embedding holds '16', which is not a number"):
        compare_sizes(documents)


def points_drawn(frame):
    return token_scaling_figure(frame, BITS)[1]["role"].tolist()


READERS = [
    lambda frame: fit_law(Chinchilla(), frame.assign(loss=frame["value"]), starts=2).excluded,
    lambda frame: select_loss(frame, BITS)[["checkpoint", "loss"]],
    lambda frame: summary_table(frame),
    lambda frame: task_curves(frame)[["curve", "points", "marks"]],
    lambda frame: _runs(frame, "model", None)["checkpoint"],
    lambda frame: pooled_variants(frame),
    lambda frame: baseline_runs(frame.loc[(frame["tokens"] == 250_000) & (frame["model"] == "m1")])["checkpoint"],
    lambda frame: _lead(frame),
    points_drawn,
]


@pytest.mark.parametrize("read", READERS)
def test_every_reader_takes_text_for_what_it_says(law_frame, read):
    """As a CSV that was edited by hand gives it: all rows counted as cooled down."""
    frame = law_frame.loc[law_frame["seed_init"] == 0].reset_index(drop=True)
    expected = read(frame)
    words = np.where(frame["annealed"], "yes", "No")
    text = pd.read_csv(io.StringIO(frame.assign(annealed=words).to_csv(index=False)))
    assert set(text["annealed"]) == {"yes", "No"}
    found = read(text)
    same = found.equals(expected) if isinstance(expected, (pd.DataFrame, pd.Series)) else found == expected
    assert same, (found, expected)
    with pytest.raises(ValueError, match=r"column annealed, row \d+: 'perhaps' is neither true nor false"):
        read(frame.assign(annealed="perhaps"))
