import numpy as np
import pandas as pd
import pytest

from analysis.frames import check_frame, select_loss, upto_lowest

BITS = "heldout/prose/bits_per_byte"
COLUMNS = ("params", "tokens", "loss")


@pytest.fixture
def plain():
    return pd.DataFrame({"params": [1e5, 1e6, 1e7], "tokens": [1e7, 1e8, 1e9], "loss": [4.0, 3.0, 2.0]})


def test_selected_rows_are_annealed_and_what_is_left_out_is_named(law_frame):
    scored = law_frame.index[law_frame["annealed"]][:3]
    law_frame.loc[scored, "value"] = np.nan
    rows = select_loss(law_frame, BITS)
    assert rows["annealed"].all()
    assert len(rows) == 32 - 3
    assert rows.attrs["excluded"] == ("32 rows not annealed", "3 rows not evaluated")
    assert (rows["params"] == rows["params_non_embedding"]).all()
    assert (rows["params_all"] == rows["params"] + 1000).all()
    assert list(rows["loss"]) == list(rows["value"])
    assert {"run_id", "checkpoint", "trajectory", "commit"} <= set(rows)


def test_size_convention_is_chosen(law_frame):
    rows = select_loss(law_frame, BITS, size="params")
    assert (rows["params"] == rows["params_non_embedding"] + 1000).all()
    with pytest.raises(ValueError, match="size 'tokens' is not a convention"):
        select_loss(law_frame, BITS, size="tokens")


def test_unknown_metric_and_mixed_studies_are_refused(law_frame):
    with pytest.raises(ValueError, match=f"metric 'loss' is not in the frame, which has: {BITS}"):
        select_loss(law_frame, "loss")
    law_frame.loc[0, "study"] = "other"
    with pytest.raises(ValueError, match="mixes the studies law, other"):
        select_loss(law_frame, BITS)


def test_clean_frame_passes_whole(plain):
    rows, excluded = check_frame(plain, COLUMNS)
    assert excluded == ()
    pd.testing.assert_frame_equal(rows, plain)


def test_missing_column_is_named(plain):
    with pytest.raises(ValueError, match="lacks the column 'tokens'; it has: params, loss"):
        check_frame(plain.drop(columns="tokens"), COLUMNS)


def test_nan_infinite_and_duplicate_rows_are_counted(plain):
    frame = pd.concat([plain, plain.iloc[[0]], plain.assign(loss=[np.nan, np.inf, 2.5])], ignore_index=True)
    rows, excluded = check_frame(frame, COLUMNS)
    assert excluded == ("1 duplicate row", "1 row without loss (NaN)", "1 row with loss (infinite)")
    assert list(rows["loss"]) == [4.0, 3.0, 2.0, 2.5]
    assert rows.attrs["excluded"] == excluded


def test_rows_that_an_earlier_step_left_out_stay_named(law_frame):
    _, excluded = check_frame(select_loss(law_frame, BITS), COLUMNS)
    assert excluded == ("32 rows not annealed",)


@pytest.mark.parametrize(("column", "value"), [("tokens", 0), ("loss", -1.0)])
def test_values_that_have_no_logarithm_are_refused(plain, column, value):
    plain.loc[1, column] = value
    with pytest.raises(ValueError, match=rf"{column} is {value:g} in 1 row"):
        check_frame(plain, COLUMNS)
    assert len(check_frame(plain, COLUMNS, positive=False)[0]) == 3


def test_one_run_is_refused(plain):
    with pytest.raises(ValueError, match="1 row left: at least 2"):
        check_frame(plain.iloc[:1], COLUMNS)
    plain.loc[:1, "loss"] = np.nan
    with pytest.raises(ValueError, match=r"1 row left \(2 rows without loss \(NaN\)\)"):
        check_frame(plain, COLUMNS)


def test_text_and_two_values_of_a_checkpoint_are_refused(plain):
    with pytest.raises(ValueError, match="loss holds 'N/A'"):
        check_frame(plain.assign(loss=[1.0, "N/A", 2.0]), COLUMNS)
    with pytest.raises(ValueError, match="checkpoint 'c' has several rows"):
        check_frame(plain.assign(checkpoint="c", metric="m"), COLUMNS)


def test_mixed_studies_are_refused(plain):
    with pytest.raises(ValueError, match="mixes the studies a, b"):
        check_frame(plain.assign(study=["a", "b", "a"]), COLUMNS)


def test_rows_of_which_cooling_is_not_known_are_left_out(law_frame):
    law_frame["annealed"] = law_frame["annealed"].astype(object)
    law_frame.loc[law_frame.index[law_frame["annealed"].astype(bool)][:2], "annealed"] = [np.nan, None]
    rows = select_loss(law_frame, BITS)
    assert len(rows) == 30
    assert rows.attrs["excluded"] == ("32 rows not annealed", "2 rows without annealed (NaN)")


def test_numbers_as_text_are_refused_and_missing_ones_named(plain):
    """Text ended in a TypeError, and pandas' own missing values in a StopIteration."""
    with pytest.raises(ValueError, match=r"params holds '100000\.0', which is not a number"):
        check_frame(plain.assign(params=plain["params"].astype(str)), COLUMNS)
    gap = plain["params"].where(plain.index > 0)
    for params in (gap.astype("Int64"), gap.astype("Float64"), gap.astype(object).where(plain.index > 0, None)):
        rows, excluded = check_frame(plain.assign(params=params), COLUMNS)
        assert excluded == ("1 row without params (NaN)",)
        assert rows["params"].dtype == np.float64
    counts = pd.Series([np.int64(1), np.int64(2), 3], dtype=object)
    assert len(check_frame(plain.assign(params=counts), COLUMNS)[0]) == 3


def test_a_study_beside_rows_of_none_is_refused(plain):
    with pytest.raises(ValueError, match="mixes the study a with 2 rows that name no study"):
        check_frame(plain.assign(study=["a", None, np.nan]), COLUMNS)
    assert len(check_frame(plain.assign(study=None), COLUMNS)[0]) == 3


def test_what_lies_past_the_lowest_loss_is_named():
    frame = pd.DataFrame(
        {
            "trajectory": ["a"] * 4 + ["b"] * 2 + ["c", None],
            "tokens": [4e5, 1e5, 2e5, 8e5, 1e5, 2e5, 1e5, 1e5],
            "loss": [2.11, 3.0, 2.1, 2.5, 2.9, 2.0, np.nan, 2.0],
        },
        index=[0, 0, 1, 1, 2, 2, 3, 3],
    )
    frame.attrs = {"excluded": ("1 row not evaluated",), "metric": BITS}
    rows = upto_lowest(frame)
    kept = [("a", 4e5), ("a", 1e5), ("a", 2e5), ("b", 1e5), ("b", 2e5)]
    assert list(zip(rows["trajectory"], rows["tokens"], strict=True)) == kept
    assert list(rows.index) == list(range(5))
    unknown = "2 rows without tokens, loss or trajectory (NaN)"
    past = "1 row past the lowest loss of their trajectory"
    assert rows.attrs == {"excluded": ("1 row not evaluated", unknown, past), "metric": BITS}
    exact = upto_lowest(frame, tolerance=0.0)
    assert list(zip(exact["trajectory"], exact["tokens"], strict=True)) == kept[1:]
    with pytest.raises(ValueError, match="lacks the column 'trajectory'"):
        upto_lowest(frame.drop(columns="trajectory"))
