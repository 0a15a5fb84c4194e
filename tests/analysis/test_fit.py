import numpy as np
import outputs_tree
import pytest
from scipy.optimize import check_grad

from analysis.fit import Fit, fit_law
from analysis.laws import Chinchilla

BITS = "heldout/prose/bits_per_byte"


def test_gradient_is_the_derivative():
    law = Chinchilla()
    params, tokens = np.array([3e4, 1e6]), np.array([2e5, 4e6])
    theta = law.to_theta(outputs_tree.LAW)
    for index in range(2):
        error = check_grad(
            lambda t, i=index: law.log_predict(t, params, tokens)[0][i],
            lambda t, i=index: law.log_predict(t, params, tokens)[1][i],
            theta,
        )
        assert error < 1e-6


def test_prediction_is_the_equation():
    law = Chinchilla()
    theta = law.to_theta(outputs_tree.LAW)
    assert law.to_params(theta) == pytest.approx(outputs_tree.LAW)
    log_loss, _ = law.log_predict(theta, np.array([3e5]), np.array([1e6]))
    assert np.exp(log_loss[0]) == pytest.approx(outputs_tree.bits_per_byte(3e5, 1e6), rel=1e-12)


def test_known_coefficients_are_recovered(law_frame):
    fit = fit_law(Chinchilla(), law_frame, metric=BITS, starts=30)
    assert fit.params == pytest.approx(outputs_tree.LAW, rel=1e-3)
    assert fit.sizes == (30_000, 100_000, 300_000)
    assert fit.n == 24
    assert len(fit.holdout) == 8
    assert {run.params for run in fit.holdout} == {1_000_000}
    assert fit.holdout_error < 1e-5
    assert fit.share_of_starts > 0.3


def test_outlier_moves_huber_little(law_frame):
    one = law_frame.index[law_frame["annealed"]][3]
    law_frame.loc[one, "value"] *= 1.2
    fit = fit_law(Chinchilla(), law_frame, metric=BITS, starts=30)
    assert fit.params["alpha"] == pytest.approx(outputs_tree.LAW["alpha"], rel=0.02)


def test_held_out_error_is_stated_with_its_sign(law_frame):
    largest = law_frame["params_non_embedding"] == 1_000_000
    law_frame.loc[largest, "value"] *= 1.05
    fit = fit_law(Chinchilla(), law_frame, metric=BITS, starts=30)
    assert fit.holdout_error == pytest.approx(0.05 / 1.05, abs=1e-3)
    assert "8 largest runs held out: error -4.76%" in fit.describe()


def test_two_sizes_are_not_identifiable(law_frame):
    few = law_frame[law_frame["params_non_embedding"] > 50_000]
    fit = fit_law(Chinchilla(), few, metric=BITS)
    assert not fit.identifiable
    assert "not identifiable: 2 sizes" in fit.describe()
    with pytest.raises(ValueError, match="not identifiable"):
        fit.predict(np.array([1.0]), np.array([1.0]))


def test_a_law_without_size_is_flagged(law_frame):
    flat = law_frame.copy()
    flat["value"] = [outputs_tree.bits_per_byte(1e5, tokens) for tokens in flat["tokens"]]
    fit = fit_law(Chinchilla(), flat, metric=BITS, starts=30)
    assert any("at a bound" in flag for flag in fit.flags) or fit.params["A"] * 30_000 ** -fit.params["alpha"] < 0.01


def test_record_survives_json_bit_for_bit(law_frame, tmp_path):
    fit = fit_law(Chinchilla(), law_frame, metric=BITS, starts=5)
    assert Fit.from_json(fit.save(tmp_path / "a" / "fit.json").read_text()) == fit


def test_wrong_input_is_refused(law_frame):
    with pytest.raises(ValueError, match="metric 'loss' is not in the frame"):
        fit_law(Chinchilla(), law_frame, metric="loss")
    law_frame.loc[0, "value"] = -1.0
    with pytest.raises(ValueError, match=r"has a value of -1\.0"):
        fit_law(Chinchilla(), law_frame, metric=BITS)
