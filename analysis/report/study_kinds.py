"""The kind of study that a frame holds: the one that the study says it is for, else what its rows show.

A frame whose study says `analysis: isoflop` has that in its `attrs`. Where its rows lack what that needs, `lacking` says
so, and the kind is told by the rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from analysis.columns import truths
from analysis.deduplication import NEAR
from analysis.figures.continual import branch_labels, has_branches
from analysis.figures.points import group_by, study_name
from analysis.figures.position import has_positions
from analysis.figures.repetition import repeats_data
from analysis.figures.tuned import split_tuned
from analysis.overrides import override_values
from analysis.rate_drift import PARAMETRISATION
from analysis.rates import RATE
from analysis.report.score_tables import BITS_PER_BYTE, choose_metrics
from analysis.style import count_label

BASELINE = "base"
"""Name of the variant that the others are compared with."""


ANALYSIS = "analysis"
"""Attribute of a frame: the kind that its study says it is for, a key of `ANALYSES`."""


def scored_metrics(frame: pd.DataFrame) -> list[str]:
    """Metrics with at least one evaluation, in a report's order."""
    scored = set(frame.loc[frame["value"].notna(), "metric"])
    return [metric for metric in choose_metrics(frame) if metric in scored]


class Kind(NamedTuple):
    """What a kind of study needs."""

    shows: Callable[[pd.DataFrame], bool]
    """Whether a frame of no declared kind is of this one."""
    suffices: Callable[[pd.DataFrame], bool]
    """Whether a frame has what the kind needs."""
    needs: str
    """The same in words."""


def declared(frame: pd.DataFrame) -> str | None:
    """Kind that the frame's study says it is for, where its rows suffice; else None."""
    name = frame.attrs.get(ANALYSIS)
    return name if name in ANALYSES and ANALYSES[name].suffices(frame) else None


def lacking(frame: pd.DataFrame) -> str:
    """Say what a frame lacks for the kind that its study says it is for; empty where it lacks nothing."""
    name = frame.attrs.get(ANALYSIS)
    if name is None or declared(frame):
        return ""
    if name not in ANALYSES:
        return f"analysis={name} is not one of {', '.join(ANALYSES)}: figures are chosen by the points"
    return (
        f"analysis={name} needs {ANALYSES[name].needs}, which the study lacks so far: figures are chosen by the points"
    )


def _is(frame: pd.DataFrame, kind: str) -> bool:
    chosen = declared(frame)
    return ANALYSES[kind].shows(frame) if chosen is None else chosen == kind


def is_ablation(frame: pd.DataFrame) -> bool:
    """Whether the study compares variants with a baseline."""
    return _is(frame, "ablation")


def is_sweep(frame: pd.DataFrame) -> bool:
    """Whether the study looks for the best learning rates."""
    return _is(frame, "sweep")


def is_transfer(frame: pd.DataFrame) -> bool:
    """Whether the study compares how best learning rates move with size under several parametrisations."""
    return _is(frame, "transfer")


def is_tuned(frame: pd.DataFrame) -> bool:
    """Whether the study tunes what it has pretrained."""
    return _is(frame, "tuning")


def is_continual(frame: pd.DataFrame) -> bool:
    """Whether branches of the study learn one domain after another."""
    return _is(frame, "continual")


def is_repetition(frame: pd.DataFrame) -> bool:
    """Whether the study is of repeated data."""
    return _is(frame, "repetition")


def is_isoflop(frame: pd.DataFrame) -> bool:
    """Whether the study compares sizes at equal compute."""
    return _is(frame, "isoflop")


def is_extended(frame: pd.DataFrame) -> bool:
    """Whether the study is of longer contexts."""
    return _is(frame, "extend")


def is_duplicates(frame: pd.DataFrame) -> bool:
    """Whether the study compares trainings with and without near duplicates in their text."""
    return _is(frame, "duplicates")


def _names_searches(frame: pd.DataFrame) -> bool:
    """Whether points name two searches for near duplicates or more."""
    return len(overrides(frame, NEAR)) >= 2


def _has_tuned(frame: pd.DataFrame) -> bool:
    """Whether stages of other kinds come after pretraining, and it is not for a longer context."""
    return not split_tuned(frame)[0].empty and not has_positions(frame)


def _names_variants(frame: pd.DataFrame) -> bool:
    """Whether points name variants, the baseline among them."""
    names = overrides(frame, "variant")
    return BASELINE in names and len(names) > 1


def _names_rates(frame: pd.DataFrame) -> bool:
    """Whether points name three learning rates or more, and neither variants nor several parametrisations."""
    compared = overrides(frame, "variant") or _names_parametrisations(frame)
    return len(overrides(frame, RATE)) >= 3 and not compared


def _names_parametrisations(frame: pd.DataFrame) -> bool:
    """Whether points name three learning rates or more, and two parametrisations or more."""
    return len(overrides(frame, RATE)) >= 3 and len(overrides(frame, PARAMETRISATION)) >= 2


def _branches_differ(frame: pd.DataFrame) -> bool:
    """Whether branches that share a trunk are trained on different data; where that is unknown, no."""
    return has_branches(frame) and _data_differs(frame)


def _data_differs(frame: pd.DataFrame) -> bool:
    """Whether two branches off one trunk use different prepared data or different weights."""
    branches = frame.assign(branch=branch_labels(frame)).loc[frame["stage"] != frame["trajectory"]]
    for _, rows in branches.groupby("trajectory"):
        data = [_weights(*pair) for pair in zip(rows["data_fingerprint"], rows["mixture"], strict=True)]
        found = rows.assign(data=data).groupby("branch")["data"].agg(frozenset)
        if len(set(found)) > 1:
            return True
    return False


def _weights(data: object, mixture: object) -> str:
    """Describe what a mixture draws, whenever it begins: the sources' shares in each part."""
    parts = json.loads(mixture) if isinstance(mixture, str) else []
    weights: list[dict[str, float]] = [part["weights"] for part in parts]
    shares = [{name: round(one[name] / sum(one.values()), 9) for name in sorted(one)} for one in weights]
    return f"{data} {shares}"


def _names_compute(frame: pd.DataFrame) -> bool:
    """Whether points name two budgets in FLOPs or more."""
    return len(overrides(frame, "flops")) >= 2


def _has_curves(frame: pd.DataFrame) -> bool:
    """Whether a model was scored at two token counts or more."""
    scored = frame.loc[frame["value"].notna()].drop_duplicates(["model", "tokens"])
    return bool(scored["model"].duplicated().any())


def _has_seeds(frame: pd.DataFrame) -> bool:
    """Whether there are two pairs of seeds or more."""
    return len(frame[["seed_init", "seed_data"]].drop_duplicates()) >= 2


def _never(_: pd.DataFrame) -> bool:
    return False


ANALYSES = {
    "token_scaling": Kind(_never, _has_curves, "a model that was scored at two token counts"),
    "isoflop": Kind(_names_compute, _names_compute, "points that name two budgets in FLOPs (flops=)"),
    "repetition": Kind(repeats_data, repeats_data, "a cooled-down run that saw its data more than once"),
    "continual": Kind(_branches_differ, has_branches, "two branches with different recipes off one trunk"),
    "ablation": Kind(_names_variants, _names_variants, f"points that name variants (variant=), {BASELINE} among them"),
    "sweep": Kind(_names_rates, _names_rates, f"points that name three learning rates ({RATE}=), and no variants"),
    "tuning": Kind(_has_tuned, _has_tuned, "a stage that comes after pretraining (then)"),
    "transfer": Kind(
        _names_parametrisations,
        _names_parametrisations,
        f"points that name two parametrisations ({PARAMETRISATION}=) and three learning rates ({RATE}=)",
    ),
    "seeds": Kind(_never, _has_seeds, "two pairs of seeds"),
    "extend": Kind(has_positions, has_positions, "a longer context that was scored by position (evaluation=positions)"),
    "duplicates": Kind(
        _names_searches, _names_searches, f"points that name two searches for near duplicates ({NEAR}=)"
    ),
}
"""Kinds by the names that a study's `analysis` may have (`workbench.config.schema.ANALYSES`)."""


def is_plain(frame: pd.DataFrame) -> bool:
    """Whether a law of N and D alone can describe the cooled-down points: one variant of each size, fresh data."""
    return not (is_special(frame) or pooled_variants(frame) or repeats_data(frame))


def is_special(frame: pd.DataFrame) -> bool:
    """Whether a study varies something other than N and D, so that no law of them is fitted."""
    if declared(frame) == "seeds":
        return True
    special = (is_ablation, is_sweep, is_transfer, is_tuned, is_continual, is_repetition, is_extended, is_duplicates)
    return any(holds(frame) for holds in special)


def pooled_variants(frame: pd.DataFrame) -> str:
    """Name the first size that several variants share, which one law would pool; empty where there is none."""
    cooled = frame.loc[truths(frame, "annealed") & frame["value"].notna()]
    for size, rows in cooled.groupby("params_non_embedding"):
        labels = sorted(set(rows["model"].astype(str)))
        if len(labels) > 1:
            return f"N = {count_label(float(str(size)))} is {len(labels)} variants ({', '.join(labels)})"
    return ""


def baseline_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """Cooled-down rows of an ablation's baseline; all where points name no variants.

    Parameters
    ----------
    frame
        As `analysis.load.load_study` gives it.

    Raises
    ------
    ValueError
        They have several sizes or token counts, or there are none.
    """
    cooled = frame.loc[truths(frame, "annealed")]
    variants = override_values(cooled, "variant")
    rows = cooled.loc[variants == BASELINE] if variants.notna().any() else cooled
    kinds = rows[["params_non_embedding", "tokens"]].drop_duplicates()
    if len(kinds) != 1:
        raise ValueError(f"the baseline has {len(kinds)} combinations of size and token count: exactly one is needed")
    return rows


def slopes_near(scaling: pd.DataFrame, frame: pd.DataFrame) -> dict[str, float]:
    """Slope of each loss against log tokens in one study, at the size and near the budget of another study's baseline.

    Taken between the two cooled-down budgets that lie nearest to it, mean over seeds, of the model with as many
    parameters without embeddings: names are not compared, since any study may change what a name stands for.

    Parameters
    ----------
    scaling
        Tidy frame of a study with several budgets of the size.
    frame
        Tidy frame of a study whose baseline (`baseline_runs`) has one size and one budget.

    Returns
    -------
    dict
        By metric, in the metric's unit per factor e of tokens.

    Raises
    ------
    ValueError
        The baseline has several sizes or budgets, or the first study fewer than two budgets of its size with a value,
        or several variants of it.
    """
    baseline = baseline_runs(frame)
    size, tokens = float(baseline["params_non_embedding"].iloc[0]), float(baseline["tokens"].iloc[0])
    name = f"N = {size:,.0f}"
    slopes: dict[str, float] = {}
    for metric in (name for name in scored_metrics(frame) if name.endswith(f"/{BITS_PER_BYTE}")):
        known = scaling.loc[(scaling["metric"] == metric) & truths(scaling, "annealed") & scaling["value"].notna()]
        same = known.loc[known["params_non_embedding"] == size]
        labels = sorted(set(same["model"].astype(str)))
        if len(labels) > 1:
            raise ValueError(f"{name} is {len(labels)} variants in {study_name(scaling)} ({', '.join(labels)})")
        groups = group_by(same, "tokens")
        nearest = sorted(groups, key=lambda group: abs(math.log(group.x / tokens)))[:2]
        if len(nearest) < 2:
            raise ValueError(f"{len(groups)} budgets of {name} with {metric} in {study_name(scaling)}: two are needed")
        first, second = nearest
        slopes[metric] = (second.mean - first.mean) / math.log(second.x / first.x)
    return slopes


def overrides(frame: pd.DataFrame, name: str) -> set[str]:
    """Values of one override in a frame's points, as text."""
    values = override_values(frame.drop_duplicates("point"), name)
    return {str(value) for value in values if isinstance(value, str)}
