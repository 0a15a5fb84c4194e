"""The kinds of stages, by name: those of this package, of installed packages, and of a user's own folders.

A kind is a package of three modules: `spec` (its settings, `Settings`, and its stage, `Spec`), `plan` (what it costs, what
it needs, what it leaves on disk) and `run` (its work). `docs/kinds.md` describes them. Kinds are found, in this order, in

1. `workbench/kinds/`,
2. the entry points of the group `workbench.kinds` of installed packages,
3. the folders that the environment variable `WORKBENCH_PLUGINS` lists (`workbench --plugins DIR` sets it): each of their
   folders with a `spec.py` is a kind of that name.

The modules are imported when they are asked for, so that planning waits for no kind's `run`.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

PLUGINS = "WORKBENCH_PLUGINS"
"""Environment variable with folders of kinds, separated as in PATH."""
GROUP = "workbench.kinds"
"""Group of entry points."""
_OURS = Path(__file__).resolve().parents[1] / "kinds"
_PARTS = ("spec", "plan", "run")


@dataclass(frozen=True)
class Kind:
    """One kind of stage."""

    name: str
    """Its name."""
    package: str
    """Dotted name of the package with its three modules."""

    @cached_property
    def spec(self) -> Any:
        """`Spec`, its stage; and `Settings`, what a study's file says of it."""
        return importlib.import_module(f"{self.package}.spec")

    @cached_property
    def plan(self) -> Any:
        """`expand` and what the planner asks; see `workbench.study.kind_plan`."""
        return importlib.import_module(f"{self.package}.plan")

    @cached_property
    def run(self) -> Any:
        """`run`, its work on one stage."""
        return importlib.import_module(f"{self.package}.run")


def find_kind(name: str) -> Kind:
    """Find a kind by its name.

    Raises
    ------
    ValueError
        There is none of that name, two packages or folders give one, or it lacks one of its three modules.
    """
    return _find(name, os.environ.get(PLUGINS, ""))


@cache
def _find(name: str, plugins: str) -> Kind:
    found = _all(plugins)
    if name not in found:
        raise ValueError(
            f"kind={name!r} is not a kind of stage; there are {', '.join(sorted(found))} (`--plugins DIR` or {PLUGINS} "
            "names folders of others)"
        )
    return found[name]


def kind_names() -> list[str]:
    """List the names of all kinds, sorted."""
    return sorted(_all(os.environ.get(PLUGINS, "")))


def plugin_folders() -> list[Path]:
    """Folders of kinds that the environment names.

    Raises
    ------
    ValueError
        One of them is not there.
    """
    folders = [Path(entry).expanduser() for entry in os.environ.get(PLUGINS, "").split(os.pathsep) if entry]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{PLUGINS} (--plugins) names {folder}, which is not a folder")
    return folders


@cache
def _all(plugins: str) -> dict[str, Kind]:
    found = {
        path.parent.name: Kind(path.parent.name, f"workbench.kinds.{path.parent.name}")
        for path in _OURS.glob("*/spec.py")
    }
    for point in entry_points(group=GROUP):
        _add(found, Kind(point.name, point.value))
    for folder in plugin_folders():
        for spec in sorted(folder.glob("*/spec.py")):
            _add(found, Kind(spec.parent.name, _package(spec.parent)))
    return found


def _add(found: dict[str, Kind], kind: Kind) -> None:
    if kind.name in found:
        raise ValueError(
            f"kind {kind.name!r} is given by both {found[kind.name].package} and {kind.package}: rename one"
        )
    found[kind.name] = kind


def _package(folder: Path) -> str:
    """Make a package of a folder, with or without an `__init__.py`, so that its modules may import each other."""
    missing = [f"{part}.py" for part in _PARTS if not (folder / f"{part}.py").is_file()]
    if missing:
        raise ValueError(f"{folder} is no kind of stage: it lacks {', '.join(missing)}")
    name = f"workbench_plugins.{folder.name}"
    for package, place in (("workbench_plugins", None), (name, folder)):
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = [] if place is None else [str(place)]
            sys.modules[package] = module
    return name
