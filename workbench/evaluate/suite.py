"""The tasks of a suite, and the id of their evaluation; reads only YAML, never a data set.

A task file is lm-eval's own format. In a folder of ours (or the user's), `{source}` in a task's name
makes the file a template: one task per held-out source of the data.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workbench.config.schema import SuiteConfig

ADAPTER_VERSION = 1
"""Part of every id; raise it when a change in this package changes scores."""

EMBEDDED = Path(__file__).parent / "suites"
"""Task files of the embedded suite."""

_TASK_LINE = re.compile(r"^task: *[\"']?([^\s\"']+)[\"']? *$", re.MULTILINE)


class EvaluationError(RuntimeError):
    """An evaluation failed; one line that names the task or checkpoint and the reason."""


@dataclass(frozen=True)
class TaskSpec:
    """One task of a suite, before its data is read."""

    name: str
    """Its name in the results."""
    path: Path
    """Its file."""
    source: str | None
    """Held-out source that the template was filled in for; None for a task that is not a template."""
    config: dict[str, Any]
    """Its file's contents, with includes merged, functions by name and no absolute paths."""


def resolve_suite(suite: SuiteConfig, sources: Sequence[str]) -> list[TaskSpec]:
    """Find the tasks of a suite, with templates filled in for each source.

    Parameters
    ----------
    suite
        The suite; its `include_path` is the folder of its task files.
    sources
        Held-out sources of the data.

    Raises
    ------
    EvaluationError
        A name is not a task; groups and tags of lm-eval must be named task by task.
    """
    files = _lm_eval_files() if suite.include_path is None else _folder_files(suite_folder(suite))
    specs: list[TaskSpec] = []
    for name in suite.tasks:
        specs.extend(_resolve_task(suite, name, files, sources))
    return specs


def uses_heldout(suite: SuiteConfig) -> bool:
    """Whether any of a suite's tasks may read held-out text; lm-eval's own never do."""
    return suite.include_path is not None


def suite_folder(suite: SuiteConfig) -> Path:
    """Folder of a suite's task files.

    Raises
    ------
    EvaluationError
        It is not a folder.
    """
    if suite.include_path is None:
        return _lm_eval_tasks()
    folder = EMBEDDED if suite.include_path == "embedded" else Path(suite.include_path)
    if not folder.is_dir():
        raise EvaluationError(f"evaluation suite {suite.name!r}: include_path={suite.include_path!r} is not a folder")
    return folder.resolve()


def evaluation_id(suite: SuiteConfig, precision: str, heldout_fingerprint: str, sources: Sequence[str]) -> str:
    """Id of an evaluation: equal ids mean the same questions, asked and counted in the same way.

    Parameters
    ----------
    suite
        The suite; its name, its folder's location and its batch size are not part of the id.
    precision
        Arithmetic of the evaluation.
    heldout_fingerprint
        Fingerprint of the held-out text; not part of the id of suites that do not read it.
    sources
        Held-out sources of the data.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    EvaluationError
        A task is unknown.
    """
    parts = {
        "adapter": ADAPTER_VERSION,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "tasks": {spec.name: spec.config for spec in resolve_suite(suite, sources)},
        "num_fewshot": suite.num_fewshot,
        "limit": suite.limit,
        "precision": precision,
        "heldout": heldout_fingerprint if uses_heldout(suite) else None,
        "code": None if suite.include_path is None else _code_hash(suite_folder(suite)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fill_in(value: Any, source: str | None) -> Any:
    """Replace `{source}` in a task's name and its `dataset_kwargs`."""
    if source is None:
        return value
    if isinstance(value, str):
        return value.replace("{source}", source)
    return {key: fill_in(item, source) for key, item in value.items()} if isinstance(value, dict) else value


def _resolve_task(suite: SuiteConfig, name: str, files: dict[str, Path], sources: Sequence[str]) -> list[TaskSpec]:
    if name in files:
        wanted: list[tuple[str, str | None]] = [(name, s) for s in sources] if "{source}" in name else [(name, None)]
    else:
        wanted = [(t, s) for t in files if "{source}" in t for s in sources if fill_in(t, s) == name]
    if not wanted:
        where = "lm-eval (name the tasks of a group one by one)" if suite.include_path is None else suite.include_path
        raise EvaluationError(f"evaluation suite {suite.name!r}: {name!r} is not a task of {where}")
    root = suite_folder(suite)
    specs = []
    for template, source in wanted:
        config = _read_task(files[template], root)
        config |= {key: fill_in(config[key], source) for key in ("task", "dataset_kwargs") if key in config}
        specs.append(TaskSpec(fill_in(template, source), files[template], source, config))
    return specs


def _read_task(path: Path, root: Path) -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        """Keeps `!function` references as text, by their path below the root."""

    place = Path(os.path.relpath(path.parent, root)).as_posix()
    Loader.add_constructor("!function", lambda loader, node: f"!function {place}:{node.value}")
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged |= _read_task((path.parent / include).resolve(), root)
    return merged | config


def _folder_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.yaml")):
        for name in _TASK_LINE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, path.resolve())
    return found


@functools.cache
def _lm_eval_files() -> dict[str, Path]:
    # A plain search of 14,000 files takes 0.2 s; lm-eval's own index parses them all, 5-7 s.
    return _folder_files(_lm_eval_tasks())


def _lm_eval_tasks() -> Path:
    package = importlib.util.find_spec("lm_eval")
    assert package is not None
    assert package.submodule_search_locations
    return (Path(package.submodule_search_locations[0]) / "tasks").resolve()


def _code_hash(folder: Path) -> dict[str, str]:
    modules = sorted(folder.rglob("*.py"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in modules}
