"""What result files lack: rules for names and tokens, and tables of facts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.columns import truth
from analysis.load import FRAME_COLUMNS
from analysis.reference.result_files import ResultFile

REFERENCE_COLUMNS = (*FRAME_COLUMNS, "source")
KEY_COLUMNS = ("model", "revision", "file")
"""Columns of `facts` that identify the results a row describes."""
COUNTS = ("params", "params_non_embedding", "tokens", "unique_tokens", "seed_init", "seed_data")
FACT_COLUMNS = (*COUNTS, "epochs", "flops", "annealed", "commit", "data_fingerprint")
"""What `facts` can provide about them."""

ModelRule = str | Callable[[ResultFile], str]
"""A pattern whose first group is the model's short name, or a function."""
TokenRule = tuple[str, float] | Callable[[ResultFile], float | None]
"""A pattern whose first group is a number, and the tokens per unit of it; or a function."""
Facts = pd.DataFrame | Mapping[str, Mapping[str, Any]]
"""As in `analysis.reference.load_lm_eval`."""
Row = dict[str, Any]


@dataclass(frozen=True)
class FactTable:
    """`facts`, checked."""

    rows: tuple[tuple[Row, Row], ...]
    """What each row describes (values of key columns), and its values; missing cells provide nothing."""
    is_catalogue: bool
    """Whether it may hold models without any file."""


class Checkpoints:
    """Turns result files into rows, and records what the rules and facts did not cover."""

    def __init__(
        self,
        study: str,
        model: ModelRule | None,
        tokens: TokenRule | None,
        facts: FactTable,
    ) -> None:
        self.study, self.model, self.tokens, self.facts = study, model, tokens, facts
        self.places: dict[str, tuple[str, int | None]] = {}
        self.taken: dict[tuple[str, int | None], tuple[str, str]] = {}
        self.sizeless: set[str] = set()
        self.unused = set() if facts.is_catalogue else set(range(len(facts.rows)))

    def rows(self, file: ResultFile) -> list[Row]:
        """Rows of one file."""
        label = self._label(file)
        known = self._facts(file, label)
        count = known.pop("tokens", None)
        tokens = self._tokens(file) if count is None else count
        at = file.revision or ("" if tokens is None else str(tokens))
        checkpoint = f"{file.model}@{at}" if at else file.model
        place = self.places.setdefault(checkpoint, (label, tokens))
        if place != (label, tokens):
            raise ValueError(f"{file.name}: {checkpoint} is {(label, tokens)} here and {place} in another file")
        self._refuse_taken(file, checkpoint, place)
        if "params" not in known and "params_non_embedding" not in known:
            self.sizeless.add(label)
        facts = dict.fromkeys(REFERENCE_COLUMNS) | {"epochs": math.nan, "flops": math.nan, "annealed": False} | known
        facts |= {"study": self.study, "model": label, "tokens": tokens, "checkpoint": checkpoint}
        facts |= dict.fromkeys(("point", "stage", "trajectory"), label)
        facts |= {"source": file.name, "eval_id": file.eval_id, "date": file.date, "limit": file.limit}
        return [
            {**facts, "metric": metric, "value": score.value, "stderr": score.stderr}
            for metric, score in file.scores.items()
        ]

    def notes(self) -> list[str]:
        """List unknown tokens and sizes, and rows of `facts` that match no file.

        Raises
        ------
        ValueError
            The rule for tokens matches no file at all.
        """
        notes: list[str] = []
        unknown = [checkpoint for checkpoint, (_, tokens) in self.places.items() if tokens is None]
        if unknown and self.tokens is not None and len(unknown) == len(self.places):
            raise ValueError(f"tokens={self.tokens!r} matches no file, such as {unknown[0]!r}")
        if unknown:
            notes.append(f"tokens unknown for {len(unknown)} of {len(self.places)} checkpoints, such as {unknown[0]}")
        if self.sizeless:
            notes.append(f"params unknown for {', '.join(sorted(self.sizeless))}")
        for index in sorted(self.unused):
            keys = ", ".join(f"{key} {value}" for key, value in self.facts.rows[index][0].items())
            notes.append(f"facts of {keys} match no file")
        return notes

    def _refuse_taken(self, file: ResultFile, checkpoint: str, place: tuple[str, int | None]) -> None:
        """Refuse two checkpoints of one name at the same tokens, such as `small/hf` and `large/hf`.

        Where tokens are unknown, revisions of one model may coincide, and so may checkpoints that a given rule names
        alike.
        """
        other, model = self.taken.setdefault(place, (checkpoint, file.model))
        label, tokens = place
        if other == checkpoint or (tokens is None and (model == file.model or self.model is not None)):
            return
        at = "unknown" if tokens is None else str(tokens)
        raise ValueError(f"{other} and {checkpoint} are both {label!r} at {at} tokens: tell them apart with model=")

    def _label(self, file: ResultFile) -> str:
        if callable(self.model):
            return self.model(file)
        if self.model is None:
            return file.model.rstrip("/").rsplit("/", 1)[-1]
        found = _search(self.model, file.where, "model")
        if found is None:
            raise ValueError(f"model={self.model!r} is not found in {file.where!r}")
        return found

    def _tokens(self, file: ResultFile) -> int | None:
        if self.tokens is None:
            return file.tokens
        if callable(self.tokens):
            count = self.tokens(file)
            return None if count is None else round(count)
        pattern, factor = self.tokens
        found = _search(pattern, file.where, "tokens")
        try:
            return None if found is None else round(float(found) * factor)
        except ValueError:
            raise ValueError(f"tokens={pattern!r} finds {found!r} in {file.where!r}, which is not a number") from None

    def _facts(self, file: ResultFile, label: str) -> Row:
        mine = {"model": label, "revision": file.revision, "file": file.name}
        matching = [i for i, (keys, _) in enumerate(self.facts.rows) if all(mine[key] == keys[key] for key in keys)]
        self.unused -= set(matching)
        known: Row = {}
        for index in matching:
            for column, value in self.facts.rows[index][1].items():
                if known.setdefault(column, value) != value:
                    raise ValueError(f"facts: {column} of {file.name} is {known[column]!r} and {value!r}")
        return known


def read_facts(facts: Facts | None) -> FactTable:
    """Check `facts` and split it into rows.

    Raises
    ------
    ValueError
        A column is unknown, none is a key, or a value has the wrong type for its column.
    """
    if facts is None:
        return FactTable((), is_catalogue=False)
    is_catalogue = not isinstance(facts, pd.DataFrame)
    if not isinstance(facts, pd.DataFrame):
        facts = pd.DataFrame([{"model": name, **values} for name, values in facts.items()])
    unknown = [str(column) for column in facts.columns if column not in (*KEY_COLUMNS, *FACT_COLUMNS)]
    if unknown:
        raise ValueError(f"facts: unknown column {unknown[0]!r}; there are {', '.join((*KEY_COLUMNS, *FACT_COLUMNS))}")
    if not set(facts.columns) & set(KEY_COLUMNS):
        raise ValueError(f"facts: it has none of the key columns {', '.join(KEY_COLUMNS)}")
    pairs: list[tuple[Row, Row]] = []
    for row in facts.to_dict("records"):
        given = {str(column): value for column, value in row.items() if not pd.isna(value)}
        keys = {column: str(given.pop(column)) for column in KEY_COLUMNS if column in given}
        pairs.append((keys, {column: _fact(column, value) for column, value in given.items()}))
    return FactTable(tuple(pairs), is_catalogue)


def _fact(column: str, value: Any) -> Any:
    try:
        if column in COUNTS:
            return round(float(value))
        if column in ("epochs", "flops"):
            return float(value)
    except ValueError:
        raise ValueError(f"facts: {column}={value!r} is not a number") from None
    if column == "annealed":
        try:
            return truth(value)
        except ValueError as error:
            raise ValueError(f"facts: annealed={error}") from None
    return str(value)


def _search(pattern: str, text: str, name: str) -> str | None:
    try:
        found = re.search(pattern, text)
    except re.error as error:
        raise ValueError(f"{name}={pattern!r} is not a regular expression: {error}") from None
    if found is None:
        return None
    if not found.groups():
        raise ValueError(f"{name}={pattern!r} has no group in brackets for the {name}")
    return found[1]
