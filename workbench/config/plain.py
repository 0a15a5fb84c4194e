"""Checks that quote the value, and strict conversion of dataclasses to and from plain values."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from fractions import Fraction
from typing import Any, TypeVar

from workbench.config.secret_urls import refuse_secrets


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise `ValueError` unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Raise `ValueError` unless the value is None, or finite and at least `least`."""
    if value is not None and not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name}={value!r} must be a finite number of at least {least}")


def check_above(name: str, value: float | None, bound: float) -> None:
    """Raise `ValueError` unless the value is None, or finite and above `bound`."""
    if value is not None and not (math.isfinite(value) and value > bound):
        raise ValueError(f"{name}={value!r} must be a finite number above {bound}")


def check_name(name: str, value: str) -> None:
    """Raise `ValueError` unless the value can be part of a file's and a metric's name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value):
        raise ValueError(f"{name}={value!r} must be a plain name: letters, digits, - and _")


def exact_weights(weights: dict[str, float]) -> dict[str, Fraction]:
    """Shares of a mixture as exact fractions that sum to one, zeros left out.

    `{"a": 7, "b": 3}` and `{"a": 0.7, "b": 0.3}` both give 7/10 and 3/10: a number stands for its
    shortest decimal, so relative integers express any ratio exactly.

    Raises
    ------
    ValueError
        A weight is negative or not finite, none is above zero, or the shares' common denominator
        exceeds a million (write them as relative integers instead).
    """
    for name, weight in weights.items():
        check_at_least(f"mixture weight {name}", weight, 0)
    parts = {name: Fraction(repr(weight)) for name, weight in weights.items() if weight > 0}
    total = sum(parts.values(), Fraction(0))
    if not parts:
        raise ValueError(f"mixture weights {weights!r}: none is above zero")
    shares = {name: part / total for name, part in parts.items()}
    if math.lcm(*(share.denominator for share in shares.values())) > 1_000_000:
        raise ValueError(f"mixture weights {weights!r}: write them as relative integers, as 7 and 3")
    return shares


_NUMBER = re.compile(r"([+-]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?)([KMBT]?)")
_SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def whole_number(value: Any, where: str) -> int:
    """Read a whole number as people write it: `1000000`, `1_000_000`, `1e6` or `1M`.

    Parameters
    ----------
    value
        A number, or its text; a final `K`, `M`, `B` or `T` multiplies by a thousand, a million, a billion, a trillion.
    where
        Name of the setting, for the message.

    Raises
    ------
    ValueError
        It is not a whole number; the message quotes the value and says what to write.
    """
    number = _exact(value)
    if number is None and isinstance(value, str) and "," in value:
        raise ValueError(
            f"{where}={value!r} has several values: in a study's file a sweep belongs under hydra.sweeper.params"
        )
    if number is None or number.denominator != 1:
        raise ValueError(
            f"{where}={value!r} must be a whole number: write it as 250000, 250_000, 2.5e5 or 250K "
            "(K, M, B and T are a thousand, a million, a billion and a trillion)"
        )
    return int(number)


def _exact(value: Any) -> Fraction | None:
    """Value of a number or of its text; None if it is neither."""
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, int | float):
        return Fraction(value)
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    return Fraction(found[1].replace("_", "")) * _SUFFIXES[found[2]] if found else None


T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """Convert a dataclass to plain dicts, lists and scalars, ready for YAML or JSON."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


Built = dict[tuple[int, str], tuple[Any, Any]]
"""Values and what was made of them, by the identity of the values and where they are."""


def from_dict(cls: type[T], values: Any, where: str = "", *, as_written: bool = False, built: Built | None = None) -> T:
    """Build the frozen dataclass `cls` from plain values, strictly.

    Parameters
    ----------
    cls
        A dataclass of this module, or a type its fields use.
    values
        The result of `to_dict`, or YAML with the same keys.
    where
        Path of the value, for messages.
    as_written
        Whether the values were written by a person: whole numbers may then be written as `whole_number` reads them, secrets
        are refused, and a dataclass's `check_written` is asked. Values of records are read as they are.
    built
        What was made of parts before, to which what is made now is added: the same object at the same place is not built
        again. Whoever hands it over must not change the values.

    Raises
    ------
    ValueError
        A key is unknown or missing, or a value has the wrong type, and is quoted; or a text that was written by a person holds
        a URL with a password or a signed query, which is hidden.
    """
    return typing.cast(T, _build(cls, values, where, as_written, built))


def _build(kind: Any, value: Any, where: str, as_written: bool, built: Built | None) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _build(next(a for a in arguments if a is not type(None)), value, where, as_written, built)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(
            typing.cast(type, kind), _typed(value, dict, where, as_written), where, as_written, built
        )
    if origin is list:
        items = typing.cast(list[Any], _typed(value, list, where, as_written))
        return [_build(arguments[0], item, f"{where}[{i}]", as_written, built) for i, item in enumerate(items)]
    if origin is dict:
        entries = typing.cast(dict[Any, Any], _typed(value, dict, where, as_written))
        return {
            str(key): _build(arguments[1], item, f"{where}.{key}", as_written, built) for key, item in entries.items()
        }
    if kind is int and as_written:
        return whole_number(value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _typed(value, kind, where, as_written)


def _typed(value: Any, kind: type, where: str, as_written: bool) -> Any:
    if as_written and isinstance(value, str):  # what was recorded before is read as it is
        refuse_secrets(where, value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}={value!r} must be of type {kind.__name__}")
    return value


def _build_dataclass(cls: type, values: dict[str, Any], where: str, as_written: bool, built: Built | None) -> Any:
    class_of = getattr(cls, "class_of", None)
    if class_of is not None:  # the values say which of its subclasses they are of
        cls = class_of(values)
    if built is None or not where:
        return _make(cls, values, where, as_written, built)
    key = (id(values), where)
    if key not in built:
        # With the values, so that no other object gets their identity.
        built[key] = values, _make(cls, values, where, as_written, built)
    return built[key][1]


@functools.cache
def _shape(cls: type) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Types of a dataclass's fields by name, and the names of those that must be given."""
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}, tuple(required)


def _make(cls: type, values: dict[str, Any], where: str, as_written: bool, built: Built | None) -> Any:
    known, required = _shape(cls)
    prefix = f"{where}." if where else ""
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown key {prefix}{unknown[0]}; {cls.__name__} has {', '.join(known)}")
    missing = [name for name in required if name not in values]
    if missing:
        raise ValueError(f"missing key {prefix}{missing[0]}")
    fields = {name: _build(known[name], value, prefix + name, as_written, built) for name, value in values.items()}
    try:
        made = cls(**fields)
        if as_written and hasattr(made, "check_written"):
            made.check_written()
        return made
    except ValueError as error:
        # A part among several of its kind does not know which it is.
        if where.count(".") < 2 or where in str(error):
            raise
        raise ValueError(f"{where}: {error}") from error
