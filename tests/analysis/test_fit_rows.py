import numpy as np
import outputs_tree
import pandas as pd
import pytest

from analysis.fitting import Fit, fit_law, replay
from analysis.frames import select_loss
from analysis.laws import Chinchilla, PowerLaw, TaskError

BITS = "heldout/prose/bits_per_byte"
TRUTH = {"E": 1.8, "A": 400.0, "alpha": 0.34, "B": 1500.0, "beta": 0.36}


@pytest.fixture
def rows(law_frame):
    return select_loss(law_frame, BITS)


def make_rows(noise=0.01, seed=0, sizes=6, budgets=6, seeds=1):
    """Runs on Chinchilla's law with log-normal noise."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(np.geomspace(1e8, 1e10, sizes), np.geomspace(2e9, 2e11, budgets), np.arange(seeds))
    params, tokens = (values.ravel() for values in grid[:2])
    loss = Chinchilla().predict(TRUTH, {"params": params, "tokens": tokens})
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * np.exp(noise * rng.normal(size=len(loss)))})


def test_known_coefficients_are_recovered(rows):
    fit = fit_law(Chinchilla(), rows, holdout=1e6, starts=30)
    assert fit.params == pytest.approx(outputs_tree.LAW, rel=1e-3)
    assert fit.sizes == (30_000, 100_000, 300_000)
    assert fit.n == 24
    assert fit.holdout.n == 8
    assert set(fit.holdout.inputs["params"]) == {1_000_000}
    assert fit.holdout_error < 1e-5
    assert fit.minima[0].share > 0.3
    assert fit.excluded == ("32 rows not annealed",)
    assert not fit.multimodal
    assert "one minimum; " in fit.describe()


def test_residuals_are_logs_of_measured_over_predicted():
    frame = make_rows(noise=0)
    frame.loc[4, "loss"] *= 1.1
    fit = fit_law(Chinchilla(), frame, starts=20)
    assert fit.residuals[4] == pytest.approx(np.log(1.1), rel=0.01)


def test_outlier_moves_huber_little_and_mse_much(rows):
    rows.loc[3, "loss"] *= 1.2
    huber = fit_law(Chinchilla(), rows, starts=30)
    square = fit_law(Chinchilla(), rows, objective="mse", starts=30)
    assert huber.params["alpha"] == pytest.approx(outputs_tree.LAW["alpha"], rel=0.02)
    assert abs(square.params["alpha"] / outputs_tree.LAW["alpha"] - 1) > 0.05


def test_held_out_error_is_stated_with_its_sign_and_beside_baselines(rows):
    rows.loc[rows["params"] == 1_000_000, "loss"] *= 1.05
    fit = fit_law(Chinchilla(), rows, holdout=1e6, starts=30)
    held = fit.holdout
    assert held.signed_error == pytest.approx(1 / 1.05 - 1, abs=1e-3)
    assert held.largest_error == pytest.approx(1 - 1 / 1.05, abs=1e-3)
    assert held.extrapolation == pytest.approx(1e6 / 3e5)
    assert set(held.baselines) == {"nearest run", "log-linear"}
    nearest = [
        outputs_tree.bits_per_byte(3e5, d) / outputs_tree.bits_per_byte(1e6, d) / 1.05 - 1 for d in rows["tokens"]
    ]
    assert held.baselines["nearest run"] == pytest.approx((np.mean(nearest), np.abs(nearest).max()))
    assert "8 largest runs held out (params up to 3.33 times the fitted): error -4.76%" in fit.describe()


def test_seed_noise_is_measured_where_runs_are_repeated():
    frame = make_rows(noise=0.01, seeds=20)
    held = fit_law(Chinchilla(), frame, holdout=1e10, starts=20).holdout
    assert held.seed_noise == pytest.approx(0.01, rel=0.1)
    alone = fit_law(Chinchilla(), make_rows(), holdout=1e10, starts=20).holdout
    assert alone.seed_noise is None
    assert "seed noise not known" in alone.describe()


def test_other_data_are_no_seeds():
    """The same sizes and budgets once more on other text, 10% worse, and on text repeated four times, 5% worse."""
    frame = make_rows().assign(data_fingerprint="a", unique_tokens=lambda rows: rows["tokens"])
    other = frame.assign(loss=frame["loss"] * 1.1, data_fingerprint="b")
    repeated = frame.assign(loss=frame["loss"] * 1.05, unique_tokens=frame["tokens"] / 4)
    fit = fit_law(Chinchilla(), pd.concat([frame, other]), holdout=1e10, starts=20)
    assert fit.holdout.seed_noise is None
    assert any(flag.startswith("the rows are from 2 data sets (data_fingerprint)") for flag in fit.flags)
    assert replay(fit) == fit
    fit = fit_law(Chinchilla(), pd.concat([frame, repeated]), holdout=1e10, starts=20)
    assert fit.holdout.seed_noise is None
    assert any("rows agree in params and tokens and differ in unique_tokens" in flag for flag in fit.flags)
    assert "data" not in " ".join(fit_law(Chinchilla(), frame, starts=20).flags)


def test_the_order_of_rows_says_nothing_of_the_nearest_run():
    """Of repeated runs the first in the frame counted."""
    frame = make_rows(noise=0.01, seeds=2)
    found = [fit_law(Chinchilla(), rows, holdout=1e10, starts=5).holdout.baselines for rows in (frame, frame[::-1])]
    assert found[0]["nearest run"] == pytest.approx(found[1]["nearest run"], rel=1e-12)


def test_holdout_by_another_column_and_wrong_ones():
    frame = make_rows()
    fit = fit_law(Chinchilla(), frame, holdout={"tokens": 2e11}, starts=20)
    assert (fit.holdout.by, fit.holdout.n, fit.n) == ("tokens", 6, 30)
    with pytest.raises(ValueError, match="holds out no row: the rows have params at most 1e"):
        fit_law(Chinchilla(), frame, holdout=1e12)
    with pytest.raises(ValueError, match="leaves no row to fit"):
        fit_law(Chinchilla(), frame, holdout=1.0)
    with pytest.raises(ValueError, match="holdout='depth' is not a column"):
        fit_law(Chinchilla(), frame, holdout={"depth": 3})


def test_two_sizes_are_not_identifiable(rows):
    few = rows[rows["params"] > 50_000]
    fit = fit_law(Chinchilla(), few, holdout=1e6)
    assert not fit.identifiable
    assert "not identifiable: 2 sizes" in fit.describe()
    assert "with 8 held out" in fit.describe()
    with pytest.raises(ValueError, match="not identifiable"):
        fit.predict(few)
    one = few[few["params"] == few["params"].min()]
    assert "not identifiable: 1 size, " in fit_law(Chinchilla(), one).describe()
    assert fit_law(Chinchilla(), few, holdout=1e6, fixed={"E": outputs_tree.LAW["E"]}, starts=20).identifiable


def test_fixed_numbers_stay(rows):
    fit = fit_law(Chinchilla(), rows, fixed={"alpha": outputs_tree.LAW["alpha"]}, starts=20)
    assert fit.params["alpha"] == outputs_tree.LAW["alpha"]
    assert fit.params == pytest.approx(outputs_tree.LAW, rel=1e-4)
    assert "alpha = " in fit.describe()
    assert "(fixed)" in fit.describe()


def test_weights_of_zero_share_count_as_little_as_told():
    frame = make_rows(noise=0)
    frame["weight"] = 1.0
    frame.loc[0, ["loss", "weight"]] = [9.0, 1e-12]
    fit = fit_law(Chinchilla(), frame, objective="mse", weights="weight", starts=20)
    assert fit.params == pytest.approx(TRUTH, rel=1e-4)
    assert fit_law(Chinchilla(), frame, objective="mse", weights=[*frame["weight"]], starts=20).params == fit.params


def test_several_objectives_find_the_truth_of_exact_rows():
    frame = make_rows(noise=0)
    for objective in ("huber_log", "mse", "mae"):
        fit = fit_law(Chinchilla(), frame, objective=objective, starts=30)
        assert fit.params == pytest.approx(TRUTH, rel=1e-3), objective


def test_record_survives_json_and_replays_bit_for_bit(rows, tmp_path):
    rows = rows.assign(loss=rows["loss"] * np.exp(0.01 * np.random.default_rng(0).normal(size=len(rows))))
    fit = fit_law(Chinchilla(), rows, holdout=1e6, starts=20, bootstrap=20)
    stored = Fit.load(fit.save(tmp_path / "a" / "fit.json"))
    assert stored == fit
    again = replay(stored)
    assert again == fit
    assert again.replicates == fit.replicates
    np.testing.assert_array_equal(again.predict(rows), fit.predict(rows))


def test_a_fit_without_numbers_survives_too(rows):
    fit = fit_law(Chinchilla(), rows[rows["params"] > 50_000], holdout=1e6)
    assert Fit.from_json(fit.to_json()) == fit
    assert replay(fit) == fit


def test_starts_may_be_given(rows):
    fit = fit_law(Chinchilla(), rows, starts=[outputs_tree.LAW])
    assert fit.params == pytest.approx(outputs_tree.LAW, rel=1e-6)
    assert Fit.from_json(fit.to_json()) == fit
    with pytest.raises(ValueError, match="a start lacks 'B'"):
        fit_law(Chinchilla(), rows, starts=[{"E": 1.0, "A": 1.0, "alpha": 0.3, "beta": 0.3}])


def test_wrong_arguments_are_refused_in_a_line():
    frame = make_rows()
    for arguments, message in (
        ({"objective": "r2"}, "objective 'r2' is unknown; choose one of huber_log, mse, mae"),
        ({"delta": 0.0}, "delta=0.0 must be above 0"),
        ({"starts": 0}, "starts=0 must be at least 1"),
        ({"bootstrap": -1}, "bootstrap=-1 must be 0 or at least 2"),
        ({"fixed": {"gamma": 1.0}}, "fixed='gamma' is not a parameter"),
        ({"fixed": {"alpha": 9.0}}, "fixed alpha = 9 lies outside 0 to 3"),
        ({"fixed": TRUTH}, "nothing is left to fit"),
        ({"target": "error"}, "lacks the column 'error'"),
        ({"group": "run"}, "group='run' is not a column"),
        ({"weights": "w"}, "weights='w' is not a column"),
        ({"weights": [1.0]}, "weights has 1 numbers for 36 rows"),
        ({"weights": [0.0] * 36}, "weights is 0 in 36 rows"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            fit_law(Chinchilla(), frame, **arguments)
        assert "\n" not in str(caught.value)


def test_bad_frames_are_refused_or_named():
    frame = make_rows()
    with pytest.raises(ValueError, match="lacks the column 'tokens'"):
        fit_law(Chinchilla(), frame.drop(columns="tokens"))
    with pytest.raises(ValueError, match="tokens is 0 in 1 row"):
        fit_law(Chinchilla(), frame.assign(tokens=[0.0, *frame["tokens"][1:]]))
    with pytest.raises(ValueError, match="mixes the studies"):
        fit_law(Chinchilla(), frame.assign(study=["a", *["b"] * 35]))
    with pytest.raises(ValueError, match="1 row left"):
        fit_law(Chinchilla(), frame.iloc[:1])
    holed = pd.concat([frame.assign(loss=[np.nan, *frame["loss"][1:]]), frame.iloc[[5]]])
    fit = fit_law(Chinchilla(), holed, starts=5)
    assert fit.excluded == ("1 duplicate row", "1 row without loss (NaN)")
    assert fit.n == 35
    assert "left out: 1 duplicate row; 1 row without loss (NaN)" in fit.describe()


def test_rows_that_are_not_cooled_down_are_left_out_and_named():
    """They entered silently where a frame did not come from select_loss."""
    frame = make_rows()
    frame["annealed"] = [*[False] * 3, np.nan, *[True] * 32]
    fit = fit_law(Chinchilla(), frame, starts=5)
    assert fit.n == 32
    assert fit.excluded == ("3 rows not annealed", "1 row without annealed (NaN)")
    curve = pd.DataFrame({"loss": np.linspace(2, 4, 36), "error": np.linspace(0.3, 0.7, 36)})
    assert fit_law(TaskError(), curve.assign(annealed=False), target="error", starts=5).n == 36
    with pytest.raises(ValueError, match="the frame mixes the metrics a, b"):
        fit_law(Chinchilla(), make_rows().assign(metric=["a", *["b"] * 35]), starts=5)


def test_prediction_needs_its_columns():
    fit = fit_law(PowerLaw(), make_rows(), starts=10)
    with pytest.raises(ValueError, match="lacks the column 'tokens'"):
        fit.predict({"params": [1.0]})
    with pytest.raises(ValueError, match="no bootstrap replicates: fit with bootstrap=1000"):
        fit.predict({"tokens": [1e9]}, interval=0.95)


def test_a_missing_column_is_named_beside_the_frames_own_alone():
    rows = pd.DataFrame({"params": [1e6, 1e7], "loss": [3.0, 2.0]})
    with pytest.raises(ValueError, match=r"lacks the column 'tokens'; it has: params, loss$"):
        fit_law(Chinchilla(), rows)


def test_a_number_of_starts_may_be_numpys(rows):
    assert fit_law(Chinchilla(), rows, starts=np.int64(5)).settings.starts == 5
