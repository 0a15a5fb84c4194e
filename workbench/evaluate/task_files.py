"""Task files in lm-eval's format: where they are, and what they say; read as YAML, without importing lm-eval."""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import yaml

_TASK_LINE = re.compile(r"^[\"']?task[\"']?[ \t]*:[ \t]*(\S.*)$", re.MULTILINE)
_PLAIN = re.compile(r"""(["']?)([^\s"'#]+)\1(?:\s+#.*)?\s*""")


class EvaluationError(RuntimeError):
    """An evaluation failed; one line that names the task or checkpoint and the reason."""


def folder_files(folder: Path) -> dict[str, list[Path]]:
    """Files that each task of a folder is in.

    Raises
    ------
    EvaluationError
        A file is no YAML.
    """
    found: dict[str, list[Path]] = {}
    for path in _yaml_files(folder):
        task = _parse(path).get("task")
        if isinstance(task, str | int) and not isinstance(task, bool):
            found.setdefault(str(task), []).append(path.resolve())
    return found


def group_tasks(folder: Path, name: str) -> str:
    """Tasks of a group of a folder, in words; empty where it has no such group."""
    for path in _yaml_files(folder):
        config = _parse(path)
        if config.get("group") == name and isinstance(config.get("task"), list):
            return ", ".join(str(task.get("task")) if isinstance(task, dict) else str(task) for task in config["task"])
    return ""


@functools.cache
def lm_eval_files() -> dict[str, list[Path]]:
    """Files that each of lm-eval's own tasks is in."""
    # A plain search of 14,000 files takes 0.2 s; lm-eval's own index parses them all, 5-7 s.
    found: dict[str, list[Path]] = {}
    for path in sorted(lm_eval_tasks().rglob("*.yaml")):
        for written in _TASK_LINE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(_scalar(written), []).append(path)
    return found


def lm_eval_tasks() -> Path:
    """Folder of lm-eval's own tasks."""
    package = importlib.util.find_spec("lm_eval")
    assert package is not None
    assert package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "tasks").resolve()


def read_task(path: Path, root: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a task's file with its includes; its own keys win, and functions are named by their place under `root`.

    Raises
    ------
    EvaluationError
        A file is not there, is no YAML, or includes itself.
    """
    if path in seen:
        raise EvaluationError(f"{path} includes itself")
    config = _parse(path, Path(os.path.relpath(path.parent, root)).as_posix())
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged |= read_task((path.parent / include).resolve(), root, (*seen, path))
    return merged | config


def _parse(path: Path, place: str = "") -> dict[str, Any]:
    """Read a task's file, `!function` references kept as text, by their place under the root."""
    try:
        config = copy.deepcopy(_load(path.read_text(encoding="utf-8"), place))
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return config if isinstance(config, dict) else {}


@functools.lru_cache(4096)
def _load(text: str, place: str) -> Any:
    """Load YAML: a study asks for the same few files' contents once for every checkpoint, and loading takes 10 ms."""

    class Loader(yaml.SafeLoader):
        """A loader of its own, since constructors belong to the class."""

    Loader.add_constructor("!function", lambda loader, node: f"!function {place}:{node.value}")
    return yaml.load(text, Loader)


def _yaml_files(folder: Path) -> list[Path]:
    hidden = ("__pycache__", ".")
    found = sorted(folder.rglob("*.yaml"))
    return [path for path in found if not any(part.startswith(hidden) for part in path.relative_to(folder).parts)]


def _scalar(written: str) -> str:
    """Text of what stands behind a key on its line: without quotes and comment."""
    plain = _PLAIN.fullmatch(written)
    try:
        return plain[2] if plain else str(yaml.safe_load(written))
    except yaml.YAMLError:
        return written
