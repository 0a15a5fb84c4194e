"""A fit's record read back from JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from analysis.fitting.holdout import HeldOut
from analysis.fitting.minima import Minimum
from analysis.fitting.settings import Data, Settings


def read_record(text: str) -> dict[str, Any]:
    """Read the fields of `analysis.fitting.fit_record.Fit` from what its `to_json` wrote."""
    # One NaN object, so that equal records compare equal.
    values: dict[str, Any] = json.loads(text, parse_constant=lambda name: math.nan if name == "NaN" else float(name))
    asked: dict[str, Any] = values["settings"]
    if not isinstance(asked["starts"], int):
        asked["starts"] = tuple(asked["starts"])
    held = values["holdout"]
    parts: dict[str, Any] = {
        "settings": Settings(**asked),
        "data": Data(**_tuples(values["data"])),
        "unseen": Data(**_tuples(values["unseen"])),
        "minima": tuple(Minimum(**minimum) for minimum in values["minima"]),
        "holdout": HeldOut(**_tuples(held)) if held else None,
        "replicates": tuple(tuple(row) for row in values["replicates"]),
        "flags": tuple(values["flags"]),
        "excluded": tuple(values["excluded"]),
    }
    return {**values, **parts}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples, also inside mappings."""
    return {
        key: _tuples(value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
    }
