"""The overrides in a point's name, in which it differs from the other points, such as `model=m1,tokens=4000000`.

A checkpoint that several points share names them all, joined by `" | "`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import pandas as pd

from analysis.frames import require_columns

SEPARATOR = re.compile(r",(?=[+~\w./@]+=)")
"""Separator between two overrides of a point's name; values may contain commas themselves."""
AXES = ("model", "tokens", "flops", "seed", "seed_init", "seed_data")
"""Overrides that do not make a variant of a model."""
AXES_OF_STAGES = re.compile(r"init(\.(path|revision|tokens))?|then\.[\w-]+\.(at_tokens|tokens|lora\.rank)")
"""Overrides of what comes before and after a recipe that do not: which milestone of a model it is, where a stage begins,
its budget, and what its name says."""
LEFT_OUT = re.compile(r"and \d+ more")
"""What earlier versions put in place of the points that did not fit into one tag."""


def override_of(frame: pd.DataFrame, key: str) -> pd.Series:
    """Value of one override in each row's `point`, as text: `variant=mha` gives `mha` for the key `variant`.

    Parameters
    ----------
    frame
        With the column `point`.
    key
        Name of the override without a leading `+`, such as `variant` or `optimizer.base_learning_rate`.

    Raises
    ------
    ValueError
        A row's points lack the override, or have different values for it.
    """
    values = override_values(frame, key)
    if values.isna().any():
        point = str(frame.loc[values.isna(), "point"].iloc[0])
        if _is_cut(point):
            raise ValueError(
                f"point {point[:60]!r}... names only some of its points: `workbench publish` stores them all"
            )
        found = sorted({_overrides(name).get(key, "") for name in _names(point)})
        raise ValueError(f"point {point!r} has the values {found} for {key!r}: exactly one is needed")
    return values


def override_values(frame: pd.DataFrame, key: str) -> pd.Series:
    """As `override_of`, but missing where a row's points do not name the override or do not agree.

    Parameters
    ----------
    frame, key
        As in `override_of`.
    """
    require_columns(frame, ("point",))
    names = [str(name) for name in frame["point"]]
    values = {name: _shared(name, key) for name in set(names)}
    return pd.Series([values[name] for name in names], index=frame.index, dtype=object)


def label_variants(frame: pd.DataFrame, failed: Iterable[tuple[str, str]] = ()) -> pd.DataFrame:
    """Tell the variants of one model apart: `m1` becomes `m1 optimizer.learning_rate=0.001`, where there are several.

    A variant is given by a point's overrides other than model, budget and seeds that all points of a
    checkpoint have in common.

    Parameters
    ----------
    frame
        With the columns `model` and `point`.
    failed
        Models and names of points that have no row: what tells the others from them is shown too.
    """
    points = [str(point) for point in frame["point"]]
    of_point = {point: _variant(point) for point in set(points)}  # a checkpoint's rows share theirs
    variants = [of_point[point] for point in points]
    found: dict[str, set[str]] = {}
    for model, variant in zip(frame["model"], variants, strict=True):
        found.setdefault(model, set()).add(variant)
    for model, point in failed:
        found.setdefault(model, set()).add(_variant(point))
    labels = [
        f"{model} {variant}".strip() if len(found[model]) > 1 else model
        for model, variant in zip(frame["model"], variants, strict=True)
    ]
    return frame.assign(model=labels)


def natural_order(text: str) -> list[tuple[int, str]]:
    """Return a sort key for text with numbers in it, by size: `r8` before `r32`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


_OrderOfPart = tuple[list[tuple[int, str]], int, float, list[tuple[int, str]]]


def label_order(label: str) -> tuple[str, list[_OrderOfPart]]:
    """Return a sort key for labels as `label_variants` makes them: numbers by size, then words, `null` last.

    Numbers within words count by size too, such as the ranks of `m0_1 chat r8` and `m0_1 chat r32`.
    """
    model, *variants = label.split(" ")
    keys: list[_OrderOfPart] = []
    for variant in variants:
        name, _, value = variant.partition("=")
        try:
            keys.append((natural_order(name), 0, float(value), natural_order(value)))
        except ValueError:
            keys.append((natural_order(name), 2 if value == "null" else 1, 0.0, natural_order(value)))
    return model, keys


def base_models(frame: pd.DataFrame) -> pd.Series:
    """Models without what `label_variants` added.

    Parameters
    ----------
    frame
        With the column `model`.
    """
    return frame["model"].astype(str).str.split(" ").str[0]


def refuse_pooled(frame: pd.DataFrame, known: Collection[str], what: str) -> None:
    """Raise `ValueError` if rows to be pooled differ by an override other than model, budget, seeds and `known`.

    Parameters
    ----------
    frame
        With the columns point and model; rows of one model.
    known
        Names of overrides that may differ.
    what
        What the rows are pooled into, such as `a line of learning rates`, for the message.
    """
    for name in sorted(override_names(frame) - {*AXES, *known}):
        values = sorted({str(value) for value in override_values(frame, name) if isinstance(value, str)})
        if len(values) > 1:
            model = str(frame["model"].iloc[0]).split(" ")[0]
            raise ValueError(f"{what} of {model} would pool {name}={', '.join(values)}: select the rows of one")


def override_names(frame: pd.DataFrame) -> set[str]:
    """Names of all overrides in the points of a frame.

    Parameters
    ----------
    frame
        With the column point.
    """
    points = {point for points in set(frame["point"].astype(str)) for point in _names(points)}
    return {name for point in points for name in _overrides(point)}


def _overrides(point: str) -> dict[str, str]:
    """Values of one point by their names, without a leading `+`."""
    parts = [part.split("=", 1) for part in SEPARATOR.split(point) if "=" in part]
    return {name.lstrip("+"): value for name, value in parts}


def _names(points: str) -> list[str]:
    """Names of a checkpoint's points, as far as they are stored."""
    return [name for name in points.split(" | ") if not LEFT_OUT.fullmatch(name)]


def _is_cut(points: str) -> bool:
    return len(_names(points)) < len(points.split(" | "))


def _shared(points: str, key: str) -> str | None:
    """Value that all points have; None where they differ, or where not all are stored."""
    found = {_overrides(point).get(key) for point in _names(points)}
    return found.pop() if len(found) == 1 and not _is_cut(points) else None


def _variant(points: str) -> str:
    sets = [set(SEPARATOR.split(point)) for point in _names(str(points)) if "=" in point] or [set[str]()]
    common = set.intersection(*sets)
    return " ".join(sorted(o for o in common if "=" in o and not _is_axis(o.split("=")[0].lstrip("+"))))


def _is_axis(name: str) -> bool:
    return name in AXES or AXES_OF_STAGES.fullmatch(name) is not None
