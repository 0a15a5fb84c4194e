"""A task's score without any skill: the chance level of its accuracies.

A level is that of guessing among the choices, or of always giving the commoner answer where that scores better.
Accuracies normalised by length have the same: a guess knows no lengths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from analysis.metrics import ACCURACIES, HIGHER_IS_BETTER, LOWER_IS_BETTER


@dataclass(frozen=True)
class Chance:
    """A chance level."""

    level: float
    """Score between 0 and 1."""
    source: str
    """Its reason and source."""


def _choices(count: int, source: str) -> Chance:
    return Chance(1 / count, f"{count} choices ({source})")


CHANCE: dict[str, Chance] = {
    "arc_challenge": _choices(4, "Clark et al. 2018; a few questions have 3 or 5"),
    "arc_easy": _choices(4, "Clark et al. 2018; a few questions have 3 or 5"),
    "boolq": Chance(0.6217, "2,033 of 3,270 validation answers are yes (Clark et al. 2019)"),
    "commonsense_qa": _choices(5, "Talmor et al. 2019"),
    "copa": _choices(2, "Roemmele et al. 2011"),
    "hellaswag": _choices(4, "Zellers et al. 2019"),
    "hendrycksTest-*": _choices(4, "Hendrycks et al. 2021"),
    "logiqa": _choices(4, "Liu et al. 2020"),
    "mmlu*": _choices(4, "Hendrycks et al. 2021"),
    "mmlu_pro*": _choices(10, "Wang et al. 2024; some questions have fewer"),
    "openbookqa": _choices(4, "Mihaylov et al. 2018"),
    "piqa": _choices(2, "Bisk et al. 2020"),
    "race": _choices(4, "Lai et al. 2017"),
    "sciq": _choices(4, "Welbl et al. 2017"),
    "social_iqa": _choices(3, "Sap et al. 2019"),
    "winogrande": _choices(2, "Sakaguchi et al. 2020"),
    "wsc": Chance(66 / 104, "66 of 104 validation answers are no (Levesque et al. 2012, in SuperGLUE)"),
    "drop": Chance(0.0, "free answers (Dua et al. 2019)"),
    "gsm8k": Chance(0.0, "free answers (Cobbe et al. 2021)"),
    "humaneval": Chance(0.0, "free programs (Chen et al. 2021)"),
    "lambada*": Chance(0.0, "any word of the language (Paperno et al. 2016)"),
    "nq_open": Chance(0.0, "free answers (Kwiatkowski et al. 2019)"),
    "triviaqa": Chance(0.0, "free answers (Joshi et al. 2017)"),
    "heldout/*/last_word": Chance(0.0, "any word of the language (a task of this project)"),
    "heldout/*/continuation": _choices(4, "a task of this project"),
}
"""By task, with `*` for anything; names as in the frames' metrics."""


def chance_level(metric: str, chance: Mapping[str, float] | None = None) -> Chance | None:
    """Chance level of a metric.

    Parameters
    ----------
    metric
        As `piqa/acc_norm`.
    chance
        The user's own levels, between 0 and 1, by metric or task, with `*` as a wildcard. They take precedence
        over the table `CHANCE`; of several that match, the longest name counts.

    Returns
    -------
    Chance or None
        None where the metric is not an accuracy, or the task is unknown.

    Raises
    ------
    ValueError
        A level given by the user is not between 0 and 1.
    """
    for name, level in (chance or {}).items():
        if not 0 <= level <= 1:
            raise ValueError(f"chance={{{name!r}: {level!r}}}: a level must lie between 0 and 1")
    own = {name: Chance(level, "given") for name, level in (chance or {}).items()}
    found = _longest_match(own, (metric, _task(metric)))
    if found is not None or not set(metric.split("/")) & set(ACCURACIES):
        return found
    return _longest_match(CHANCE, (_task(metric),))


def _task(metric: str) -> str:
    """Task of a metric: the part before its score's name."""
    known = "|".join(map(re.escape, (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)))
    return re.sub(rf"/({known})(/.*)?$", "", metric)


def _longest_match(table: Mapping[str, Chance], names: tuple[str, ...]) -> Chance | None:
    patterns = [pattern for pattern in table if any(fnmatchcase(name, pattern) for name in names)]
    return table[max(patterns, key=len)] if patterns else None
