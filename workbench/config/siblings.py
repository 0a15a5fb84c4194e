"""Points that differ in plain values alone: Hydra composes the first, and the others change its values.

Composing takes Hydra 100 ms, changing a value less than one. What is not sure to give exactly what Hydra gives is not done
here: then the point is composed as any other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from workbench.config.plain import Built

Place = tuple[str | int, ...]
"""Keys, from the root, that lead to a value."""

_NAMES = re.compile(r"[\w-]+(\.[\w-]+)*")


class Siblings:
    """The points of one sweep that set the same plain values, to whatever.

    Parameters
    ----------
    composed
        The first of them, without Hydra's own part; it is changed, so it is not to be used elsewhere.
    keys
        Dotted names of the values that they set.
    others
        Names of what their other settings set, add or delete, but for choices among config groups.
    """

    def __init__(self, composed: DictConfig, keys: Sequence[str], others: Sequence[str]) -> None:
        self._config = composed
        self._values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
        written = OmegaConf.to_container(composed, resolve=False)
        self._linked = [place for place, text in _leaves(written) if isinstance(text, str) and "${" in text]
        self._places = {key: tuple(key.split(".")) for key in keys if _NAMES.fullmatch(key)}
        self._sure = len(self._places) == len(keys) and all(map(self._is_value, self._places.values()))
        self._sure = self._sure and not set(self._linked) & set(self._places.values())
        self._sure = self._sure and not any(_touch(key, other) for key in keys for other in others)
        self._set: dict[str, str] = {}
        self._given: dict[Place, Any] = {}
        self._sections: dict[tuple[Any, ...], Any] = {}
        self.built: Built = {}
        """What `from_dict` has made of parts that several points share."""

    def values(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Plain values of the point with these settings; None where Hydra has to compose it.

        Parts that are alike in several points are one object.
        """
        if not self._sure or not all(map(_is_literal, settings.values())):
            return None
        try:
            changes = self._changes(settings)
        except (OmegaConfBaseException, KeyError, TypeError):
            return None  # whoever composes it will say what is wrong
        return None if changes is None else self._changed(changes)

    def _changes(self, settings: Mapping[str, Any]) -> list[tuple[Place, Any]] | None:
        """Values as the schema converts them, and those of what refers to something, anew."""
        for key, value in settings.items():
            if self._set.get(key) == repr(value):
                continue
            self._set.pop(key, None)
            self._given.clear()
            OmegaConf.update(self._config, key, value)
            self._set[key] = repr(value)
        for place in (*self._places.values(), *self._linked):
            if place not in self._given:
                self._given[place] = self._parent(place)[place[-1]]
        if not all(value is None or isinstance(value, bool | int | float | str) for value in self._given.values()):
            return None
        return list(self._given.items())

    def _changed(self, changes: Sequence[tuple[Place, Any]]) -> dict[str, Any]:
        values = dict(self._values)
        inner: dict[str | int, list[tuple[Place, Any]]] = {}
        for place, value in changes:
            if len(place) == 1:
                values[str(place[0])] = value
            else:
                inner.setdefault(place[0], []).append((place[1:], value))
        for name, inside in inner.items():
            # As they are written, since 1, 1.0 and True are equal keys, as 0.0 and -0.0 are.
            key = (name, *((place, repr(value)) for place, value in inside))
            if key not in self._sections:
                self._sections[key] = _replaced(self._values[str(name)], inside)
            values[str(name)] = self._sections[key]
        return values

    def _is_value(self, place: Place) -> bool:
        """Whether a value is there, and not a part with values of its own, or one left out."""
        try:
            node = cast(Any, self._parent(place))._get_node(place[-1])
        except (OmegaConfBaseException, KeyError, TypeError):
            return False
        return node is not None and not isinstance(node, Container)

    def _parent(self, place: Place) -> DictConfig:
        found: Any = self._config
        for key in place[:-1]:
            found = found[key]
        return found


def _touch(key: str, other: str) -> bool:
    """Whether two settings may change the same value, so that their order counts."""
    return not _NAMES.fullmatch(other) or f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _is_literal(value: Any) -> bool:
    """Whether a setting is a value and nothing that refers to another, or says that one is missing."""
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or isinstance(value, bool | int | float)


def _leaves(values: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(values, dict):
        for key, value in cast(dict[str, Any], values).items():
            yield from _leaves(value, (*place, key))
    elif isinstance(values, list):
        for index, value in enumerate(cast(list[Any], values)):
            yield from _leaves(value, (*place, index))
    else:
        yield place, values


def _replaced(part: Any, changes: Sequence[tuple[Place, Any]]) -> Any:
    """Copy a part with some values changed; what is not changed is shared."""
    copies: dict[Place, Any] = {(): copy.copy(part)}
    for place, value in changes:
        for length in range(1, len(place)):
            inner = place[:length]
            if inner not in copies:
                above = copies[inner[:-1]]
                copies[inner] = above[inner[-1]] = copy.copy(above[inner[-1]])
        copies[place[:-1]][place[-1]] = value
    return copies[()]
