"""From a tidy frame to the rows that a fit, a table or a figure may use, naming everything left out.

Frames that enter fits have the columns params, tokens, loss, and where they are known unique_tokens, trajectory
(rows of one trajectory are not independent) and flops (6 N D where absent).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.columns import is_plain, numbers, truths

EXCLUDED = "excluded"
"""Key of `DataFrame.attrs` under which `select_loss` lists what it left out."""
SIZES = ("params_non_embedding", "params")
"""Conventions of N."""


def select_loss(frame: pd.DataFrame, metric: str, *, size: str = "params_non_embedding") -> pd.DataFrame:
    """Rows of one metric that may enter a fit: cooled down, and evaluated.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it, of one study.
    metric
        Which metric is the loss L, such as `heldout/prose/bits_per_byte`.
    size
        Column that N is taken from, `params_non_embedding` or `params`: the convention moves the exponents.

    Returns
    -------
    DataFrame
        The frame's columns, with `params` from `size`, `params_all` (embeddings counted), `loss` (the metric's
        value, in its unit) and `value` beside it. `attrs["excluded"]` is a tuple of texts: what was left out and why;
        `attrs["size"]` and `attrs["metric"]` are the arguments.

    Raises
    ------
    ValueError
        The metric or the size is unknown, or the frame holds several studies.

    References
    ----------
    Porian et al. 2024, "Resolving Discrepancies in Compute-Optimal Scaling of Language Models": the convention of N.
    """
    require_columns(frame, ("metric", "value", "annealed", "tokens", "params", "params_non_embedding"))
    refuse_mixed_studies(frame)
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not a convention of N; choose one of {', '.join(SIZES)}")
    known = sorted({name for name in frame["metric"] if isinstance(name, str)})
    if metric not in known:
        raise ValueError(f"metric {metric!r} is not in the frame, which has: {', '.join(known) or 'none'}")
    rows = frame.loc[frame["metric"] == metric]
    cooled, uncooled = annealed_rows(rows)
    scored = cooled.loc[cooled["value"].notna()]
    result = scored.assign(params=scored[size], params_all=scored["params"], loss=scored["value"])
    if "unique_tokens" in result and "epochs" not in result:
        result["epochs"] = result["tokens"] / result["unique_tokens"]
    result = result.reset_index(drop=True)
    unscored = len(cooled) - len(scored)
    excluded = (*uncooled, f"{unscored} {_plural(unscored, 'row')} not evaluated") if unscored else uncooled
    result.attrs = {EXCLUDED: excluded, "metric": metric, "size": size}
    return result


def cooled_scores(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of one metric that were cooled down and evaluated, of whatever kind.

    Parameters
    ----------
    frame
        With the columns metric, annealed and value.
    metric
        Its name.

    Raises
    ------
    ValueError
        There is none.
    """
    rows = frame.loc[(frame["metric"] == metric) & truths(frame, "annealed") & frame["value"].notna()]
    if rows.empty:
        raise ValueError(f"metric {metric!r} was evaluated on no cooled-down checkpoint")
    return rows


def annealed_rows(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows cooled down by their column `annealed`, and what was left out; all where there is no such column.

    A row where this is unknown (NaN) does not count as cooled down. Rows whose column `kinds` names anything beside
    pretraining (a checkpoint from outside, fine-tuning, ...) are left out too: laws of pretraining do not describe them.
    """
    frame, foreign = _pretraining_rows(frame)
    if "annealed" not in frame:
        return frame, foreign
    unknown = frame["annealed"].isna().to_numpy()
    cooled = truths(frame, "annealed")
    counts = ((int((~cooled & ~unknown).sum()), "not annealed"), (int(unknown.sum()), "without annealed (NaN)"))
    found = tuple(f"{count} {_plural(count, 'row')} {reason}" for count, reason in counts if count)
    return frame.loc[cooled], foreign + found


def _pretraining_rows(frame: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows of pretraining from initial weights alone, and what was left out; all where that is not known."""
    if "kinds" not in frame:
        return frame, ()
    own = [not isinstance(kinds, str) or kinds == "pretrain" for kinds in frame["kinds"]]
    count = len(own) - sum(own)
    note = f"{count} {_plural(count, 'row')} not of pretraining alone"
    return (frame.loc[own], (note,)) if count else (frame, ())


def upto_lowest(frame: pd.DataFrame, *, tolerance: float = 0.01) -> pd.DataFrame:
    """Rows up to the lowest loss of their trajectory: what laws that only fall with tokens can describe.

    Data repeated too often, or a learning rate too high for long, make the loss rise again. Rows past the lowest show
    when, and belong in a figure; a law fitted to them is a compromise. Where to cut is a choice that fits depend on.

    Parameters
    ----------
    frame
        Columns tokens, loss and trajectory, as `select_loss` gives them.
    tolerance
        Rows stay up to the last whose loss is within this share of the lowest, so that noise does not decide the cut.

    Returns
    -------
    DataFrame
        The rows kept (index renewed), with the number of the others under `attrs["excluded"]`; rows without a loss,
        tokens or a trajectory (NaN) are left out by name.

    Raises
    ------
    ValueError
        A column is missing.
    """
    columns = ("tokens", "loss", "trajectory")
    require_columns(frame, columns)
    known = frame[list(columns)].notna().to_numpy().all(axis=1)
    rows = frame.loc[known].reset_index(drop=True)
    keep = np.ones(len(rows), dtype=bool)
    tokens, losses = (rows[name].to_numpy(dtype=np.float64) for name in ("tokens", "loss"))
    for trajectory in rows["trajectory"].unique():
        own = (rows["trajectory"] == trajectory).to_numpy(dtype=bool)
        near = own & (losses <= losses[own].min() * (1 + tolerance))
        keep &= ~own | (tokens <= tokens[near].max())
    counts = ((int((~known).sum()), "without tokens, loss or trajectory (NaN)"),)
    counts += ((int((~keep).sum()), "past the lowest loss of their trajectory"),)
    words = [f"{count} {_plural(count, 'row')} {reason}" for count, reason in counts if count]
    rows = rows.loc[keep].reset_index(drop=True)
    rows.attrs = {**frame.attrs, EXCLUDED: (*frame.attrs.get(EXCLUDED, ()), *words)}
    return rows


def check_frame(
    frame: pd.DataFrame, columns: Sequence[str], *, positive: bool = True, minimum: int = 2
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Usable rows, and what was left out.

    Parameters
    ----------
    frame
        Any frame; with a column `study`, of one study.
    columns
        Columns that must be there, numeric and known.
    positive
        Whether their values must be above 0, as logarithms need.
    minimum
        Smallest number of rows that suffices.

    Returns
    -------
    rows, excluded
        The rows kept (index renewed, `attrs` kept), and texts such as "2 rows without loss (NaN)" or
        "1 duplicate row", after those that `select_loss` left in the frame.

    Raises
    ------
    ValueError
        A column is missing or holds no numbers, a value is not above 0, the frame holds several studies, one
        checkpoint has two values, or fewer than `minimum` rows are left.
    """
    require_columns(frame, columns)
    refuse_mixed_studies(frame)
    excluded: list[str] = list(frame.attrs.get(EXCLUDED, ()))
    rows = frame.loc[~frame.astype(str).duplicated()]
    twice = len(frame) - len(rows)
    if twice:
        excluded.append(f"{twice} duplicate {_plural(twice, 'row')}")
    for column in columns:
        values = numbers(rows, column)
        if not is_plain(rows, column):
            rows = rows.assign(**{column: values})
        for wrong, reason in ((np.isnan(values), "NaN"), (np.isinf(values), "infinite")):
            count = int(wrong.sum())
            if count:
                word = "without" if reason == "NaN" else "with"
                excluded.append(f"{count} {_plural(count, 'row')} {word} {column} ({reason})")
        rows = rows.loc[np.isfinite(values)]
        if positive and (rows[column] <= 0).any():
            count, worst = int((rows[column] <= 0).sum()), rows[column].min()
            raise ValueError(
                f"{column} is {worst:g} in {count} {_plural(count, 'row')}: its logarithm needs values above 0"
            )
    _refuse_two_values(rows)
    if len(rows) < minimum:
        why = f" ({'; '.join(excluded)})" if excluded else ""
        raise ValueError(f"{len(rows)} {_plural(len(rows), 'row')} left{why}: at least {minimum} are needed")
    rows = rows.reset_index(drop=True)
    rows.attrs = {**frame.attrs, EXCLUDED: tuple(excluded)}
    return rows, tuple(excluded)


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise `ValueError` if a column is missing, naming those that exist."""
    missing = [column for column in columns if column not in frame]
    if missing:
        there = ", ".join(str(column) for column in frame.columns) or "none"
        raise ValueError(f"the frame lacks the column {', '.join(map(repr, missing))}; it has: {there}")


def refuse_mixed_studies(frame: pd.DataFrame) -> None:
    """Raise `ValueError` if the column `study` names several, or one in some rows and none in others."""
    if "study" not in frame:
        return
    studies = sorted({str(name) for name in frame["study"].dropna()})
    nameless = int(frame["study"].isna().to_numpy().sum())
    if studies and nameless:
        raise ValueError(
            f"the frame mixes the study {studies[0]} with {nameless} {_plural(nameless, 'row')} that name no study; "
            "give the rows of one"
        )
    if len(studies) > 1:
        raise ValueError(f"the frame mixes the studies {', '.join(studies)}; give the rows of one")


def refuse_mixed_metrics(frame: pd.DataFrame) -> None:
    """Raise `ValueError` if the column `metric` names several: their values are not one target."""
    if "metric" not in frame:
        return
    metrics = sorted({str(name) for name in frame["metric"].dropna()})
    if len(metrics) > 1:
        raise ValueError(f"the frame mixes the metrics {', '.join(metrics)}; give the rows of one, as select_loss does")


def _refuse_two_values(rows: pd.DataFrame) -> None:
    """One checkpoint has one value per metric."""
    keys = [name for name in ("checkpoint", "metric", "eval_id") if name in rows]
    if "checkpoint" not in keys:
        return
    known = rows.loc[rows["checkpoint"].notna()]
    twice = known.loc[known.duplicated(keys[:2], keep=False)]
    if len(twice):
        raise ValueError(f"checkpoint {twice['checkpoint'].iloc[0]!r} has several rows of one metric; keep one of them")


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
