"""The tasks of a suite, and the id of their evaluation; reads YAML and hashes files, but loads no data set.

A task file is lm-eval's own format. In a folder of ours (or the user's), `{source}` in a task's name
makes the file a template: one task per held-out source of the data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config.schema import SuiteConfig
from workbench.data.fingerprint import hash_file
from workbench.evaluate.task_data import with_contents
from workbench.evaluate.task_files import (
    EvaluationError,
    folder_files,
    group_tasks,
    lm_eval_files,
    lm_eval_tasks,
    read_task,
)

ADAPTER_VERSION = 1
"""Part of every id; raise it when a change in this package changes scores."""

EMBEDDED = Path(__file__).parent / "suites"
"""Task files of the embedded suite."""
OWN_FOLDERS = {
    "embedded": EMBEDDED,
    "conversations": Path(__file__).parent / "conversations_suite",
    "positions": Path(__file__).parent / "position_suite",
}
"""Folders of task files of this project, by what `include_path` calls them."""


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
    """Its file's contents, with includes merged and functions by name."""


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
        A name is not a task, or is one in two files; groups and tags must be named task by task. A file is not valid
        YAML.
    """
    files = lm_eval_files() if suite.include_path is None else folder_files(suite_folder(suite))
    specs: list[TaskSpec] = []
    for name in suite.tasks:
        specs.extend(_resolve_task(suite, name, files, sources))
    return specs


def uses_heldout(suite: SuiteConfig) -> bool:
    """Whether any of a suite's tasks may read held-out text; lm-eval's own never do."""
    return suite.include_path is not None


def scores_whole_texts(suite: SuiteConfig, sources: Sequence[str]) -> bool:
    """Whether any of a suite's tasks asks for the likelihood of whole texts, as bits per byte do.

    Raises
    ------
    EvaluationError
        As `resolve_suite`.
    """
    return any(spec.config.get("output_type") == "loglikelihood_rolling" for spec in resolve_suite(suite, sources))


def suite_folder(suite: SuiteConfig) -> Path:
    """Folder of a suite's task files.

    Raises
    ------
    EvaluationError
        It is not a folder.
    """
    if suite.include_path is None:
        return lm_eval_tasks()
    folder = OWN_FOLDERS.get(suite.include_path) or Path(suite.include_path)
    if not folder.is_dir():
        raise EvaluationError(f"evaluation suite {suite.name!r}: include_path={suite.include_path!r} is not a folder")
    return folder.resolve()


def task_contents(suite: SuiteConfig, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Describe each of a suite's tasks by all that makes its documents, local data files by content.

    Raises
    ------
    EvaluationError
        As `resolve_suite`, or a local data file is not there.
    """
    contents: dict[str, dict[str, Any]] = {}
    for spec in resolve_suite(suite, sources):
        try:
            contents[spec.name] = with_contents(spec.config, _custom_folder(spec, suite)) | _outside_code(spec, suite)
        except ValueError as error:
            raise EvaluationError(f"evaluation suite {suite.name!r}, task {spec.name!r}: {error}") from error
    return contents


def evaluation_id(
    suite: SuiteConfig,
    precision: str,
    heldout_fingerprint: str,
    sources: Sequence[str],
    tokenizer: str | None = None,
    marks: Mapping[str, str] | None = None,
) -> str:
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
    tokenizer
        Digest of the tokenizer, where the questions are token ids, as those of conversations are.
    marks
        What is done otherwise than in results that are older than it, where that changes scores.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    EvaluationError
        A task is unknown, or a local data file is not there.
    """
    parts = {
        "adapter": ADAPTER_VERSION,
        "lm_eval": importlib.metadata.version("lm_eval"),
        "tasks": task_contents(suite, sources),
        "num_fewshot": suite.num_fewshot,
        "limit": suite.limit,
        "precision": precision,
        "heldout": heldout_fingerprint if uses_heldout(suite) else None,
        "code": None if suite.include_path is None else _code_hash(suite_folder(suite)),
        # Absent from ids that are older than suites of conversations.
        **({"conversations": suite.conversations} if suite.conversations else {}),
        **({"tokenizer": tokenizer} if tokenizer else {}),
        **(marks or {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fill_in(value: Any, source: str | None) -> Any:
    """Replace `{source}` in a task's name and its `dataset_kwargs`."""
    if source is None:
        return value
    if isinstance(value, str):
        return value.replace("{source}", source)
    if isinstance(value, list):
        return [fill_in(item, source) for item in value]
    return {key: fill_in(item, source) for key, item in value.items()} if isinstance(value, dict) else value


def _resolve_task(
    suite: SuiteConfig, name: str, files: dict[str, list[Path]], sources: Sequence[str]
) -> list[TaskSpec]:
    if name in files:
        wanted: list[tuple[str, str | None]] = [(name, s) for s in sources] if "{source}" in name else [(name, None)]
    else:
        wanted = [(t, s) for t in files if "{source}" in t for s in sources if fill_in(t, s) == name]
    root = suite_folder(suite)
    if not wanted:
        where = "lm-eval (name the tasks of a group one by one)" if suite.include_path is None else suite.include_path
        group = group_tasks(root, name) if suite.include_path is not None else ""
        reason = f"is a group: name its tasks one by one ({group})" if group else f"is not a task of {where}"
        raise EvaluationError(f"evaluation suite {suite.name!r}: {name!r} {reason}")
    specs = []
    for template, source in wanted:
        path, *others = files[template]
        if others and suite.include_path is not None:
            raise EvaluationError(f"evaluation suite {suite.name!r}: {template!r} is in {path} and in {others[0]}")
        config = read_task(path, root)
        config |= {key: fill_in(config[key], source) for key in ("task", "dataset_kwargs") if key in config}
        specs.append(TaskSpec(fill_in(template, source), path, source, config))
    return specs


def _code_hash(folder: Path) -> dict[str, str]:
    modules = sorted(folder.rglob("*.py"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in modules}


_FUNCTION = re.compile(r"!function ([^:\"]+):([\w.]+)\.\w+")
"""Place of a module under the suite's folder, and its name."""


def _custom_folder(spec: TaskSpec, suite: SuiteConfig) -> Path:
    """Folder of the module whose function makes a task's data set; else that of its file."""
    function = _FUNCTION.fullmatch(str(spec.config.get("custom_dataset")))
    return (suite_folder(suite) / function[1]).resolve() if function else spec.path.parent


def _outside_code(spec: TaskSpec, suite: SuiteConfig) -> dict[str, Any]:
    """Modules of a task's functions that lie outside the suite's folder, as an included file may name them."""
    found: dict[str, str] = {}
    for place, module in _FUNCTION.findall(json.dumps(spec.config, default=str)):
        path = (suite_folder(suite) / place / f"{module.replace('.', '/')}.py").resolve()
        if place.startswith("..") and path.is_file():
            found[f"{place}/{module}"] = hash_file(path)
    return {"outside_code": found} if found else {}
