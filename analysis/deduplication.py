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

from analysis.data_records import Record
from analysis.frames import cooled_scores
from analysis.overrides import base_models, override_of, refuse_pooled

NEAR = "data.corpus.near_duplicates"
"""Override that says how near duplicates are looked for; null leaves them in."""
KEPT = "kept"
"""Label of a training on a corpus with its near duplicates."""
_DEFAULTS = {"bands": 14, "rows": 8, "ngram": 5}
"""What a search has where an override does not say it, as in `workbench.config.schema.near_duplicates`."""
_MEANS = ("model", "tokens", "search")
"""What the runs of a mean have in common."""
_WITHOUT_EFFECT = ("verify", "least_similarity")
"""What changes nothing of a search that does not verify, and no search that does is read."""


@dataclass(frozen=True)
class Search:
    """A search for near duplicates, as an override names it; two that drop other documents are not equal."""

    bands: int
    """Bands; 0 where near duplicates are kept."""
    rows: int
    """MinHash values in a band."""
    ngram: int = _DEFAULTS["ngram"]
    """Words in a shingle."""

    @property
    def is_kept(self) -> bool:
        """Whether near duplicates are kept."""
        return not self.bands

    @property
    def threshold(self) -> float:
        """Jaccard similarity of shingles about which pairs begin to be found; 1 where near duplicates are kept.

        Also 1 of a search with one band, and alike of others that differ, such as 4 bands of 1 and 16 of 2.
        """
        return (1 / self.bands) ** (1 / self.rows) if self.bands else 1.0

    @property
    def label(self) -> str:
        """Threshold, bands and rows, and words in a shingle where they are not 5; or `kept`."""
        words = "" if self.ngram == _DEFAULTS["ngram"] else f", {self.ngram}-grams"
        return KEPT if self.is_kept else f"{self.threshold:.2f} ({self.bands} x {self.rows}{words})"

    @property
    def order(self) -> tuple[bool, float, int, int, int]:
        """Sort key: `kept` first, then from the highest threshold to the lowest."""
        return not self.is_kept, -self.threshold, self.ngram, self.bands, self.rows


def read_search(text: str) -> Search:
    """Read an override's value, such as `null`, `{}` or `{bands:8,rows:18}`.

    Raises
    ------
    ValueError
        It checks the true similarity, so that bands and rows are not its threshold, or is none of these, or sets what is
        not known here, by which two searches could not be told apart.
    """
    if text == "null":
        return Search(0, 0)
    given = dict[str, str](re.findall(r"(\w+) *: *([^,{}]+)", text))
    unknown = sorted(set(given) - {*_DEFAULTS, *_WITHOUT_EFFECT})
    if unknown:
        raise ValueError(f"{NEAR}={text}: what {unknown[0]} makes of a search is not known here")
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
        There is none, rows differ by another override than search, model, budget and seeds, or those of one search are
        of several corpora.
    """
    rows = cooled_scores(frame, metric)
    refuse_pooled(rows, (NEAR,), "a comparison of near duplicates")
    found = searches(rows)
    rows = rows.assign(search=found, threshold=[search.threshold for search in found], model=base_models(rows))
    _refuse_several_corpora(rows)
    return rows


def select_search(rows: pd.DataFrame, search: Search) -> pd.DataFrame:
    """Select the rows of `scored_rows` that are of one search."""
    return rows.loc[[other == search for other in rows["search"]]]


def _refuse_several_corpora(rows: pd.DataFrame) -> None:
    """Refuse to take a mean over corpora that differ in something that the points do not say."""
    found: dict[tuple[str, int, str], set[str]] = {}
    for model, tokens, search, data in zip(*(rows[name] for name in _MEANS), rows["data_fingerprint"], strict=True):
        found.setdefault((str(model), int(tokens), search.label), set()).update([data] if isinstance(data, str) else [])
    for (model, tokens, label), corpora in found.items():
        if len(corpora) > 1:
            raise ValueError(
                f"near duplicates {label} of {model} at {tokens:,} tokens would pool the data "
                f"{', '.join(sorted(corpora))}: select the rows of one"
            )


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
        kept = _by_seed(select_search(line, Search(0, 0)))
        for search in sorted(set(line["search"]), key=lambda one: one.order):
            here = select_search(line, search)
            values = _by_seed(here)
            table.append(
                {
                    "model": model,
                    "tokens": tokens,
                    "search": search.label,
                    "threshold": search.threshold,
                    **_corpus(here, records or {}),
                    "epochs": float(here["epochs"].to_numpy(float).mean()),
                    "seeds": len(values),
                    "mean": float(values.mean()),
                    "stderr": standard_error(values.to_numpy()),
                    **(_differences((values - kept).dropna(), level) if not search.is_kept else _NO_DIFFERENCE),
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
