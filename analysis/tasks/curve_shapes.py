"""Task scores against tokens: which curves are at chance, saturated, or falling while training continues.

A score near chance, or one that has stopped changing, says nothing about the law of a task; a score that falls beyond
its noise is a finding, not a reason to drop the point. `task_curves` marks them; it changes no value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from analysis.columns import known_errors, require_numbers, truths
from analysis.frames import EXCLUDED
from analysis.metrics import is_higher_better
from analysis.tasks.chance import chance_level
from analysis.tasks.marks import Plateau, Rules, find_chance, find_fall, find_plateau, make_curve, say_marks

CURVE = ["study", "model", "trajectory", "stage", "curve", "seed_init", "seed_data", "metric"]
FACTS = ["params", "params_non_embedding"]


def task_curves(
    frame: pd.DataFrame,
    metrics: Sequence[str] | None = None,
    *,
    chance: Mapping[str, float] | None = None,
    noise: Mapping[str, float] | float | None = None,
    level: float = 0.95,
    gain: float = 0.01,
    window: float = 4.0,
) -> pd.DataFrame:
    r"""Judge every curve of a score against tokens: at chance, saturated, falling, not monotone.

    A curve is the checkpoints of one stage (a trunk, or a run of others) as `milestones`, or the cooled-down points
    of one model and seeds as `cooled_down`. Each y_i has the variance s_i^2 = (standard error over documents)^2 +
    (noise of the seeds)^2. Scores that are better when lower (perplexities, bits per byte) are judged as -log y.

    - *Not monotone*: for some i < j, (y_i - y_j) / sqrt(s_i^2 + s_j^2) > z(1 - (1 - level) / P) with P the number of
      pairs (Bonferroni). A value below chance counts as chance: skill that was never there cannot be lost. Checkpoints
      are scored on the same documents, which makes differences less noisy than this says, so that falls are missed
      rather than invented.
    - *Saturated*: the weighted slope of y on log2(tokens) over the last factor of `window` in tokens is below `gain`
      per doubling, the upper end of its one-sided interval included; *falling*: that end is below 0. Both need three
      points and a curve that has left chance.
    - *At chance*: no point is above the chance level beyond its noise (one-sided, Bonferroni over the points).

    Parameters
    ----------
    frame
        As `analysis.load.load_study` or `analysis.reference.load_lm_eval` gives it; several studies may be in it.
    metrics
        Names of metrics; None takes all whose direction is known.
    chance
        Levels of the user's own by metric or task, as in `analysis.tasks.chance.chance_level`.
    noise
        Standard deviation over seeds in the metric's unit, one for all or by metric, as
        `analysis.noise.seed_variance` measures it; None counts only the documents' noise.
    level
        Level of each mark on its own: of 100 curves that rise, at most 100 (1 - level) are marked as not monotone.
    gain
        Smallest change per doubling of tokens that counts as rising, in the unit of the score, or as a share of a
        score that is better when lower.
    window
        Factor of tokens at the end of a curve that the slope is measured over.

    Returns
    -------
    DataFrame
        One row per curve: study, model, params, params_non_embedding, trajectory, stage, curve, seed_init, seed_data,
        metric, points (judged), tokens_first, tokens_last, value_last, stderr_last; not_monotone, fall (metric's unit),
        fall_z, fall_from_tokens, fall_to_tokens (of the pair that stands out most); saturated, falling, slope (per
        doubling) and slope_stderr; at_chance, chance and above_chance_from (tokens); and `marks`, the same in words. A
        judgement that cannot be made is None, and `marks` gives the reason. `attrs["excluded"]` counts what is on no
        curve.

    Raises
    ------
    ValueError
        A metric is not in the frame or its direction is unknown, two rows are the same point of a curve, or an
        argument is out of range.

    Notes
    -----
    Standard errors of lm-eval are those of the mean over documents; "N/A" arrives here as NaN, and such points are
    not judged. Neither are those with an error of 0, which is no certainty (`analysis.columns.known_errors`); a share of
    right answers of exactly 0 or 1 takes the largest error of its curve's other points.

    References
    ----------
    Dunn 1961, "Multiple Comparisons Among Means" (Bonferroni's correction); the slope is weighted least squares with
    known variances. Chance levels: the papers in `analysis.tasks.chance.CHANCE`.
    """
    rules = Rules(level, gain, window, noise)
    _check(rules)
    names = _metrics(frame, metrics)
    scored, excluded = _scored(frame, names)
    rows = [_judge(key, points, rules, chance) for key, points in _curves(scored, excluded)]
    columns = [*CURVE, *FACTS, *_COLUMNS]
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    table = table.sort_values(["metric", "params_non_embedding", "curve"], ignore_index=True, kind="stable")
    table.attrs[EXCLUDED] = tuple(excluded)
    return table


_COLUMNS = [
    *("points", "tokens_first", "tokens_last", "value_last", "stderr_last"),
    *("not_monotone", "fall", "fall_z", "fall_from_tokens", "fall_to_tokens"),
    *("saturated", "falling", "slope", "slope_stderr"),
    *("at_chance", "chance", "above_chance_from", "marks"),
]


def _check(rules: Rules) -> None:
    if not 0.5 <= rules.level < 1:
        raise ValueError(f"level={rules.level!r} must be at least 0.5 and below 1, such as 0.95")
    if rules.gain <= 0 or rules.window <= 1:
        raise ValueError(f"gain={rules.gain!r}, window={rules.window!r}: gain must be above 0 and window above 1")


def _metrics(frame: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    known = sorted(set(frame["metric"].dropna()))
    if metrics is None:
        return [metric for metric in known if is_higher_better(metric) is not None]
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"metric {metric!r} is not in the frame, which has: {', '.join(known)}")
        if is_higher_better(metric) is None:
            raise ValueError(f"metric {metric!r}: it is unknown whether higher is better; name other metrics")
    return list(metrics)


def _scored(frame: pd.DataFrame, names: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Rows that can be on a curve, and the number that cannot."""
    rows = frame.loc[frame["metric"].isin(names)]
    require_numbers(rows, ("tokens", "value", "stderr"))
    without = [(rows["value"].isna(), "not evaluated"), (rows["tokens"].isna(), "of unknown tokens")]
    excluded = [f"{int(missing.sum())} results {reason}" for missing, reason in without if missing.any()]
    undirected = sorted({m for m in frame["metric"].dropna() if is_higher_better(m) is None})
    if undirected:
        excluded.append(f"{len(undirected)} metrics whose direction is unknown, such as {undirected[0]}")
    return rows.loc[rows["value"].notna() & rows["tokens"].notna()], excluded


def _curves(scored: pd.DataFrame, excluded: list[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Each curve of at least two points with its identifying values; shorter ones are counted."""
    single = 0
    trunk = ["study", "model", "stage", "metric"]
    milestones = scored.assign(curve="milestones").groupby(trunk, sort=False, dropna=False)
    annealed = scored.loc[truths(scored, "annealed")].assign(curve="cooled_down")
    seeds = ["study", "model", "seed_init", "seed_data", "metric"]
    for groups, shared in ((milestones, CURVE), (annealed.groupby(seeds, sort=False, dropna=False), seeds)):
        for _, points in groups:
            first = points.iloc[0]
            key = {name: first[name] if name in {*shared, "curve"} else None for name in CURVE}
            if points["tokens"].duplicated().any():
                raise ValueError(
                    f"{key['model']}, {key['metric']}: two results at one token count: select one variant's rows"
                )
            if len(points) > 1:
                yield key | {name: first[name] for name in FACTS}, points.sort_values("tokens")
            single += int(len(points) == 1 and key["curve"] == "milestones")
    if single:
        excluded.append(
            f"{single} results are the only one of their stage and metric, which is not a curve of milestones"
        )


def _judge(
    key: dict[str, Any], points: pd.DataFrame, rules: Rules, chance: Mapping[str, float] | None
) -> dict[str, Any]:
    curve = make_curve(key["metric"], points, rules.noise_of(key["metric"]))
    level = chance_level(key["metric"], chance)
    above = find_chance(curve, level, rules)
    fall = find_fall(curve, float("-inf") if level is None else level.level, rules)
    plateau = find_plateau(curve, rules) if above.at_chance is not True else Plateau(None)
    last = points.iloc[-1]
    ends = {"tokens_first": points["tokens"].iloc[0], "tokens_last": last["tokens"]}
    ends |= {"value_last": last["value"], "stderr_last": float(known_errors(last["stderr"])), "points": len(curve.y)}
    marks = say_marks(curve, fall, plateau, above, level, rules)
    return key | ends | asdict(fall) | asdict(plateau) | asdict(above) | {"marks": marks}
