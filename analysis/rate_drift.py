"""How far the best learning rate moves with a model's size, under each parametrisation of a study.

A parametrisation transfers where the best rate of a small model is that of a large one: where it does not drift.
"""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from analysis.columns import truths
from analysis.frames import EXCLUDED
from analysis.noise import seed_variance
from analysis.overrides import override_of
from analysis.rates import RATE, best_rates

PARAMETRISATION = "model.parametrisation"


def seed_noise(frame: pd.DataFrame, metric: str) -> float | None:
    """Estimate the standard deviation of a metric between seeds, pooled over the cooled-down points of a study.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.
    metric
        Its name.

    Returns
    -------
    float or None
        In the metric's unit; None where every point has one seed.
    """
    rows = frame.loc[(frame["metric"] == metric) & truths(frame, "annealed") & frame["value"].notna()]
    spread = float(seed_variance(rows, metric, "metric")["sd"].iloc[0])
    return spread if spread > 0 else None


def transferred_rates(
    frame: pd.DataFrame, metric: str, *, rate: str = RATE, noise: float | None = None, draws: int = 1000
) -> pd.DataFrame:
    """Best learning rate of each size under each parametrisation.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study whose points name the rate and the parametrisation.
    metric
        The loss, such as `heldout/prose/bits_per_byte`.
    rate
        Override that was swept.
    noise
        Standard deviation of the loss between seeds, in the metric's unit; None takes `seed_noise`.
    draws
        Draws of the noise.

    Returns
    -------
    DataFrame
        As `analysis.rates.best_rates`, one row per parametrisation and size, with the column `parametrisation` first.

    Raises
    ------
    ValueError
        As `best_rates`; or a size has several token counts.
    """
    noise = seed_noise(frame, metric) if noise is None else noise
    names = override_of(frame, PARAMETRISATION)
    parts: list[pd.DataFrame] = []
    excluded: list[str] = []
    for name in sorted(set(names), reverse=True):  # `standard` before the others
        best = best_rates(frame.loc[names == name], metric, rate=rate, batch=None, noise=noise, draws=draws)
        if best["model"].duplicated().any():
            raise ValueError(f"{name} has several token counts of {best['model'].iloc[0]}: select the rows of one")
        parts.append(best.drop(columns="batch_sequences").assign(parametrisation=name))
        excluded += [f"{name}: {reason}" for reason in best.attrs[EXCLUDED]]
    table = pd.concat(parts, ignore_index=True)
    table = table.loc[:, ["parametrisation", *(column for column in table.columns if column != "parametrisation")]]
    table.attrs[EXCLUDED] = tuple(excluded)
    return table


def rate_drift(best: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Ratio of the largest size's best rate to the smallest's, for each parametrisation.

    With s the standard deviation of a log best rate under redrawn noise (`spread`), the interval is
    exp(log ratio +- z sqrt(s_small^2 + s_large^2)); a ratio of 1 is transfer without drift.

    Parameters
    ----------
    best
        As `transferred_rates` gives it.
    level
        Level of the interval.

    Returns
    -------
    DataFrame
        parametrisation, smallest and largest (models), ratio, low, high (NaN where the noise is unknown), exponent (of
        the best rate against parameters without embeddings, between the two). Of a parametrisation with fewer than two
        sizes whose best rate lies inside those tried, all numbers are NaN.
    """
    rows: list[dict[str, object]] = []
    z = float(stats.norm.ppf((1 + level) / 2))
    for name, sizes in best.groupby("parametrisation", sort=False):
        known = sizes.loc[sizes["best_rate"].notna()].sort_values("params")
        if len(known) < 2:
            rows.append({"parametrisation": name, "smallest": "", "largest": ""})
            continue
        first, last = known.iloc[0], known.iloc[-1]
        drift = math.log(last["best_rate"] / first["best_rate"])
        reach = z * math.hypot(first["spread"], last["spread"])
        facts: dict[str, object] = {"smallest": first["model"], "largest": last["model"], "ratio": math.exp(drift)}
        if math.isfinite(reach):
            facts |= {"low": math.exp(drift - reach), "high": math.exp(drift + reach)}
        exponent = drift / math.log(last["params"] / first["params"])
        rows.append({"parametrisation": name, "exponent": exponent} | facts)
    columns = ["parametrisation", "smallest", "largest", "ratio", "low", "high", "exponent"]
    return pd.DataFrame(rows).reindex(columns=columns)
