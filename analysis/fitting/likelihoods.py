"""Laws compared by the likelihood of the same residuals."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.fitting.fit_record import Fit
from analysis.fitting.intervals import group_inflation, inside_box, too_few_groups
from analysis.fitting.profile import log_likelihood


def compare_laws(*fits: Fit) -> pd.DataFrame:
    """Compare fits of the same rows by their normalised likelihood.

    The likelihood is that of the residuals' density with a fitted scale (`analysis.fitting.profile`): normal for `mse`,
    Huber's for `huber_log` and `mae`. AIC = 2 k - 2 log-likelihood, with k the free numbers and the scale; AICc adds 2
    k (k + 1) / (n - k - 1). A weight is exp(-difference / 2), normalised: support relative to the other laws compared,
    no more. Where rows share trunks, log-likelihoods are divided by the inflation c, the largest ratio of a number's
    variance with rows grouped to that with rows independent, in the law with most numbers; n by c as well. Rows that
    repeat one another then add no support. R^2 is reported too but never sufficient: two laws at 0.99 may differ
    tenfold in likelihood.

    Parameters
    ----------
    *fits
        Two or more, of the same rows, objective and delta.

    Returns
    -------
    DataFrame
        One row per law, the most likely first: law, equation, n, k, log_likelihood (nats), aic, aicc, difference (of
        AICc from the best), weight, inflation (c; 1 without groups), rms_error (of log residuals), r2 (of the target),
        holdout_error (largest; NaN without).

    Raises
    ------
    ValueError
        Fewer than two fits, a fit without numbers, fits of different rows or objectives, or rows of too few trunks.

    References
    ----------
    Burnham and Anderson 2002, "Model Selection and Multimodel Inference", eqs. 2.5, 2.8 and
    2.13 (the inflation, there of counts).
    """
    if len(fits) < 2:
        raise ValueError(f"{len(fits)} fits: give at least two to compare")
    _refuse_unlike(fits)
    inflation = _inflation(fits)
    rows = [_row(fit, inflation) for fit in fits]
    least = min(row["aicc"] for row in rows)
    support = np.exp([-0.5 * (row["aicc"] - least) for row in rows])
    table = pd.DataFrame(rows)
    table["law"] = [fit.law for fit in fits]
    table["equation"] = [fit.settings.make_law().equation for fit in fits]
    table["difference"] = table["aicc"] - least
    table["weight"] = support / support.sum()
    order = ["law", "equation", "n", "k", "log_likelihood", "aic", "aicc", "difference", "weight", "inflation"]
    columns = [*order, "rms_error", "r2", "holdout_error"]
    return table.sort_values("aicc", ignore_index=True).loc[:, columns]


def _refuse_unlike(fits: tuple[Fit, ...]) -> None:
    first = fits[0]
    for fit in fits:
        if not fit.identifiable:
            raise ValueError(f"the fit of {fit.law} has no numbers: {'; '.join(fit.flags)}")
        asked = (fit.settings.target, fit.settings.objective, fit.settings.delta)
        wanted = (first.settings.target, first.settings.objective, first.settings.delta)
        if asked != wanted:
            raise ValueError(
                f"fits with different objectives, {wanted} and {asked}, have no common likelihood: use one objective"
            )
        same_rows = (
            fit.data.columns[asked[0]] == first.data.columns[asked[0]]
            and fit.data.weights == first.data.weights
            and fit.data.groups == first.data.groups
        )
        if not same_rows:
            raise ValueError(f"the fits use different rows or groups ({first.n} and {fit.n} rows): fit the same frame")


def _inflation(fits: tuple[Fit, ...]) -> float:
    """How many times each piece of evidence is counted, at least 1."""
    richest = max(fits, key=lambda fit: len(fit.params) - len(fit.settings.fixed))
    data = richest.data
    if too_few_groups(data.n, data.num_groups, len(richest.params) - len(richest.settings.fixed)):
        raise ValueError(f"{data.num_groups} independent groups of rows are too few to tell laws apart: add trunks")
    problem = data.problem(richest.settings)
    theta = problem.law.to_theta(richest.params)
    ratios = group_inflation(problem, theta, inside_box(theta, *richest.settings.box()), data.groups)
    if np.isnan(ratios).any():
        raise ValueError(
            f"the rows leave parameters of {richest.law} undetermined: compare on other rows, or leave this law out"
        )
    return max(float(ratios.max()), 1.0)


def _row(fit: Fit, inflation: float) -> dict[str, float]:
    problem = fit.data.problem(fit.settings)
    value, _ = problem.evaluate(problem.law.to_theta(fit.params)[None])
    likelihood, _ = log_likelihood(problem, float(value[0]))
    k = len(fit.params) - len(fit.settings.fixed) + 1
    aic = 2 * k - 2 * likelihood / inflation
    left = fit.n / inflation - k - 1
    small = 2 * k * (k + 1) / left if left > 0 else np.inf
    target = problem.target
    missed = fit.predict(problem.inputs) - target
    return {
        "n": fit.n,
        "k": k,
        "log_likelihood": likelihood,
        "aic": aic,
        "aicc": aic + small,
        "inflation": inflation,
        "rms_error": float(np.sqrt((fit.residuals**2).mean())),
        "r2": 1 - float((missed**2).sum() / ((target - target.mean()) ** 2).sum()),
        "holdout_error": fit.holdout_error,
    }
