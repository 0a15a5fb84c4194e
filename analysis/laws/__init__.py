"""Scaling laws, each a class with its equation, analytic gradient, parameters and units.

======================  =============================================================================
`Chinchilla`            L(N, D) = E + A/N^alpha + B/D^beta; `tied=True` for one exponent
`DataConstrained`       the same with repeated tokens and excess parameters worth less
`PowerLaw`              y = E + K/x^gamma, with and without E
`TaskError`             error = eps - k exp(-gamma L)
`TaskAccuracy`          accuracy = chance + (top - chance) / (1 + exp(k (L - L0)))
======================  =============================================================================

A new law is one subclass of `Law` and its line in `LAWS`. `analysis.fitting.fit_law` fits any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.laws.base import Array, Inputs, Law, Parameter
from analysis.laws.loss_laws import Chinchilla, DataConstrained, PowerLaw
from analysis.laws.task_laws import TaskAccuracy, TaskError

__all__ = [
    "LAWS",
    "Array",
    "Chinchilla",
    "DataConstrained",
    "Inputs",
    "Law",
    "Parameter",
    "PowerLaw",
    "TaskAccuracy",
    "TaskError",
    "make_law",
]

LAWS: dict[str, type[Law]] = {law.name: law for law in (Chinchilla, DataConstrained, PowerLaw, TaskError, TaskAccuracy)}
"""Laws by the name that stored fits carry."""


def make_law(name: str, settings: Mapping[str, Any] | None = None) -> Law:
    """Build a law from its name and settings, as `Law.settings` writes them.

    Raises
    ------
    ValueError
        There is no such law.
    """
    if name not in LAWS:
        raise ValueError(f"no law {name!r}; there are: {', '.join(LAWS)}")
    return LAWS[name](**(settings or {}))
