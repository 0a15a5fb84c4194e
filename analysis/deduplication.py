"""Trainings on one corpus with and without its near duplicates: settings, thresholds, and differences paired by seed.

A search for near duplicates by MinHash with b bands of r values finds a pair of Jaccard similarity s with the probability
1 - (1 - s^r)^b, which rises steepest about the similarity (1/b)^(1/r); this is its threshold.

References
----------
Leskovec, Rajaraman and Ullman 2014, "Mining of Massive Datasets", sections 3.4.2 and 3.4.3; Broder 1997, "On the resemblance
and containment of documents".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis.columns import truths
from analysis.data_records import Record
from analysis.overrides import base_models, override_of, refuse_pooled

NEAR = "data.corpus.near_duplicates"
"""Override that says how near duplicates are looked for; null leaves them in."""
KEPT = "kept"
"""Label of a training on a corpus with its near duplicates."""
_DEFAULTS = {"bands": 14, "rows": 8}
"""What a search has where an override does not say it, as in `workbench.config.schema.near_duplicates`."""


@dataclass(frozen=True)
class Search:
    """A search for near duplicates, as an override names it."""

    bands: int
    """Bands; 0 where near duplicates are kept."""
    rows: int
    """MinHash values in a band."""

    @property
    def threshold(self) -> float:
        """Jaccard similarity about which pairs begin to be found; 1 where near duplicates are kept."""
        return (1 / self.bands) ** (1 / self.rows) if self.bands else 1.0

    @property
    def label(self) -> str:
        """Threshold, bands and rows, or `kept`."""
        return f"{self.threshold:.2f} ({self.bands} x {self.rows})" if self.bands else KEPT


def read_search(text: str) -> Search:
    """Read an override's value, such as `null`, `{}` or `{bands:8,rows:18}`.

    Raises
    ------
    ValueError
        It checks the true similarity, so that bands and rows are not its threshold, or is none of these.
    """
    if text == "null":
        return Search(0, 0)
    given = dict[str, str](re.findall(r"(\w+) *: *([^,{}]+)", text))
    if not re.fullmatch(r"\{.*\}", text) or given.get("verify", "false").strip() != "false":
        raise ValueError(f"{NEAR}={text}: the threshold is known of null, and of bands and rows without verify")
    return Search(*(int(given.get(name, default)) for name, default in _DEFAULTS.items()))


def searches(frame: pd.DataFrame) -> pd.Series:
    """Search behind each row of a frame.

    Raises
    ------
    ValueError
        A row's points name no search, or several, or one without a known threshold.
    """
    return override_of(frame, NEAR).map(read_search)


def scored_rows(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Cooled-down, scored rows of one metric with the columns `search`, `threshold` and `model` (without the search).

    Raises
    ------
    ValueError
        There is none, or rows differ by another override than search, model, budget and seeds.
    """
    rows = frame.loc[(frame["metric"] == metric) & truths(frame, "annealed") & frame["value"].notna()]
    if rows.empty:
        raise ValueError(f"metric {metric!r} was evaluated on no cooled-down checkpoint")
    refuse_pooled(rows, (NEAR,), "a comparison of near duplicates")
    found = searches(rows)
    return rows.assign(search=found, threshold=[search.threshold for search in found], model=base_models(rows))


def deduplication_table(
    frame: pd.DataFrame, metric: str, records: Mapping[str, Record] | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Compare trainings at each threshold with those on the corpus with its near duplicates, paired by seed.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of a study that names several searches (`NEAR`).
    metric
        Its name, such as `heldout/prose/bits_per_byte`.
    records
        As `analysis.data_records.load_data_records` gives them; None or those that are missing leave the corpus's columns empty.
    level
        Level of the intervals.

    Returns
    -------
    DataFrame
        One row per model, budget and search, the corpus with its near duplicates first: model, tokens (trained on), search,
        threshold (Jaccard), documents, removed (near duplicates) and stored_tokens of the corpus, epochs (tokens trained on
        over distinct ones), seeds, mean and stderr (metric's unit, over seeds), difference (from the first, mean over the
        seeds that both have), low and high (its paired t interval).

    Raises
    ------
    ValueError
        As `scored_rows`.
    """
    rows = scored_rows(frame, metric)
    table: list[dict[str, Any]] = []
    for model, tokens in sorted({(str(m), int(t)) for m, t in zip(rows["model"], rows["tokens"], strict=True)}):
        line = rows.loc[(rows["model"] == model) & (rows["tokens"] == tokens)]
        kept = _by_seed(line.loc[line["threshold"] == 1.0])
        for threshold in sorted(set(line["threshold"]), reverse=True):
            here = line.loc[line["threshold"] == threshold]
            values = _by_seed(here)
            table.append(
                {
                    "model": model,
                    "tokens": tokens,
                    "search": here["search"].iloc[0].label,
                    "threshold": float(threshold),
                    **_corpus(here, records or {}),
                    "epochs": float(here["epochs"].mean()),
                    "seeds": len(values),
                    "mean": float(values.mean()),
                    "stderr": standard_error(values.to_numpy()),
                    **(_differences((values - kept).dropna(), level) if threshold < 1.0 else _NO_DIFFERENCE),
                }
            )
    return pd.DataFrame(table)


def standard_error(values: NDArray[np.float64]) -> float:
    """Compute the standard error of a mean, in the unit of the values (runs,); NaN for one value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


_NO_DIFFERENCE: dict[str, float] = {"difference": math.nan, "low": math.nan, "high": math.nan}


def _by_seed(rows: pd.DataFrame) -> pd.Series:
    seeds = pd.MultiIndex.from_arrays([rows["seed_init"], rows["seed_data"]])
    return pd.Series(rows["value"].to_numpy(dtype=np.float64), index=seeds)


def _differences(pairs: pd.Series, level: float) -> dict[str, float]:
    """Mean of paired differences and its t interval."""
    if pairs.empty:
        return _NO_DIFFERENCE
    mean, count = float(pairs.mean()), len(pairs)
    reach = float(stats.t.ppf((1 + level) / 2, count - 1)) * standard_error(pairs.to_numpy()) if count > 1 else math.nan
    return {"difference": mean, "low": mean - reach, "high": mean + reach}


def _corpus(rows: pd.DataFrame, records: Mapping[str, Record]) -> dict[str, Any]:
    """Count what the corpus of these rows holds and what was taken out, where its record is there."""
    record = records.get(str(rows["data_fingerprint"].iloc[0]))
    if record is None:
        return dict.fromkeys(("documents", "removed", "stored_tokens"))
    sources = list(record["sources"].values())
    return {
        "documents": sum(facts.get("kept", facts["documents"]) for facts in sources),
        "removed": sum(facts["dropped"].get("near_duplicate", 0) for facts in sources),
        "stored_tokens": sum(facts["tokens"] for facts in sources),
    }
