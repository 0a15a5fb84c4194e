"""One lm-eval result file as plain facts, in today's format and in the one before 0.4.

Today's (0.4 and later) names a score `results[task]["acc,none"]` and its error `["acc_stderr,none"]`, groups among
the tasks; before 0.4 it was `results[task]["acc"]` and `["acc_stderr"]`. An error may be the text "N/A".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

ERROR_SUFFIX = "_stderr"
OLD_METRICS = {"ppl": "perplexity"}
"""Metrics that 0.4 renamed without changing them."""
NOT_SCORES = ("name", "alias", "sample_len", "sample_count")
"""Keys of today's format that appear among the scores."""
_HELDOUT_KINDS = ("last_word", "continuation")
_STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d)[-:](\d\d)[-:](\d\d)")


@dataclass(frozen=True)
class Score:
    """One metric of one task."""

    task: str
    """lm-eval's name of the task or group."""
    value: float
    """The result; accuracies between 0 and 1."""
    stderr: float
    """Its standard error over documents; NaN where unknown."""


@dataclass(frozen=True)
class ResultFile:
    """One result file."""

    name: str
    """Its path below the folder that was read."""
    model: str
    """What lm-eval was told to load, such as `EleutherAI/pythia-70m`; else the name of the file's folder."""
    revision: str
    """Revision of it, such as `step1000`; empty where none was given."""
    date: float | None
    """When it was scored, Unix time in seconds, from the file, else from its name; None where unknown."""
    limit: float | None
    """lm-eval's limit of documents per task (a share below 1); None for all of them."""
    shots: Mapping[str, int | None]
    """Few-shot examples of each task; None where unknown."""
    versions: Mapping[str, str]
    """lm-eval's version of each task."""
    tokens: int | None
    """Tokens trained on, where the file has them; files of this project do."""
    eval_id: str
    """Hash of tasks, versions, shots, limit and lm-eval's version; the file's own where it has one."""
    scores: Mapping[str, Score]
    """By metric, as `piqa/acc_norm`."""
    left_out: tuple[str, ...]
    """Metrics whose value is not a number."""

    @property
    def where(self) -> str:
        """Text in which the rules are searched: `<model>@<revision> <name>`."""
        return f"{self.model}@{self.revision} {self.name}"


def metric_name(task: str, key: str) -> str:
    """Name of a score in every frame.

    `piqa`, `acc_norm,none` gives `piqa/acc_norm`; `gsm8k`, `exact_match,strict-match` gives
    `gsm8k/exact_match/strict-match`; `heldout_prose_last_word`, `acc,none` (a task of this project) gives
    `heldout/prose/last_word/acc`. Characters that MLflow refuses become `_`.

    Parameters
    ----------
    task
        lm-eval's name of the task.
    key
        Key of its results, `<metric>,<filter>` or `<metric>`.
    """
    metric, _, score_filter = key.partition(",")
    parts = [task, OLD_METRICS.get(metric, metric)]
    if task.startswith("heldout_"):
        source = task.removeprefix("heldout_")
        kind = next((kind for kind in _HELDOUT_KINDS if source.endswith(f"_{kind}")), None)
        between = [source] if kind is None else [source.removesuffix(f"_{kind}"), kind]
        parts = ["heldout", *between, parts[1]]
    if score_filter not in ("", "none"):
        parts.append(score_filter)
    return "/".join(re.sub(r"[^A-Za-z0-9_.\- ]", "_", part) for part in parts)


def read_result_file(path: Path, name: str | None = None) -> ResultFile | None:
    """Read one JSON file; None where it is valid but holds no lm-eval results.

    Parameters
    ----------
    path
        The file.
    name
        Name to record; None takes the file's name.

    Raises
    ------
    ValueError
        The file cannot be read, is not JSON, or its results are not tables of scores.
    """
    document = _read_object(path)
    if not isinstance(document.get("results"), dict):
        return None
    tables: dict[str, Any] = {**document["results"], **(document.get("groups") or {})}
    if not all(isinstance(table, dict) for table in tables.values()):
        raise ValueError(f"{path}: its results are not a table of scores for each task")
    scores, left_out = _scores(tables)
    config: dict[str, Any] = document.get("config") or {}
    model, revision = _model(document, config, path)
    given: dict[str, Any] = document.get("versions") or {}
    versions = {task: str(version) for task, version in given.items()}
    shots = {task: _shots(document, config, task) for task in tables}
    tokens = document.get("tokens")
    return ResultFile(
        name=name or path.name,
        model=model,
        revision=revision,
        date=_date(document, path),
        limit=config.get("limit"),
        shots=shots,
        versions=versions,
        tokens=tokens if isinstance(tokens, int) else None,
        eval_id=str(document.get("eval_id") or _eval_id(document, config, sorted(tables), versions, shots)),
        scores=scores,
        left_out=left_out,
    )


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else counts as an empty one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): repair it or move it away") from None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def _scores(tables: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Score], tuple[str, ...]]:
    """Scores by metric, and the metrics whose value is not a number."""
    new = any("," in key for table in tables.values() for key in table)
    scores: dict[str, Score] = {}
    left_out: list[str] = []
    for task, key, value, stderr in _cells(tables, new):
        metric, number = metric_name(task, key), _number(value)
        if math.isnan(number):
            left_out.append(metric)
        else:
            scores[metric] = Score(task, number, _number(stderr))
    return scores, tuple(left_out)


def _cells(tables: Mapping[str, Mapping[str, Any]], new: bool) -> Iterator[tuple[str, str, Any, Any]]:
    """Task, key, value and standard error of every score."""
    for task, table in tables.items():
        for key, value in table.items():
            metric, comma, score_filter = key.partition(",")
            is_score = bool(comma) if new else key not in NOT_SCORES and not isinstance(value, dict | list)
            if is_score and metric.strip() and not metric.endswith(ERROR_SUFFIX):
                yield task, key, value, table.get(f"{metric}{ERROR_SUFFIX}{comma}{score_filter}")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _model(document: dict[str, Any], config: dict[str, Any], path: Path) -> tuple[str, str]:
    """Name what lm-eval was told to load, and its revision."""
    arguments: Any = config.get("model_args") or {}
    given: dict[str, Any] = arguments
    if isinstance(arguments, str):
        given = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    names = (document.get("model_name"), *(given.get(key) for key in ("pretrained", "checkpoint", "model", "path")))
    model = next((str(name) for name in names if name), path.resolve().parent.name)
    if given.get("peft"):
        # All adapters of a base share its name.
        model = f"{model}+{given['peft']}"
    return model, str(given.get("revision") or config.get("model_revision") or "")


def _date(document: dict[str, Any], path: Path) -> float | None:
    if isinstance(document.get("date"), int | float):
        return float(document["date"])
    stamp = _STAMP.search(path.name)
    return datetime(*(int(part) for part in stamp.groups()), tzinfo=UTC).timestamp() if stamp else None


def _shots(document: dict[str, Any], config: dict[str, Any], task: str) -> int | None:
    by_task: dict[str, Any] = document.get("n-shot") or {}
    shots = by_task.get(task, config.get("num_fewshot"))
    return shots if isinstance(shots, int) else None


def _eval_id(
    document: dict[str, Any],
    config: dict[str, Any],
    tasks: list[str],
    versions: Mapping[str, str],
    shots: Mapping[str, int | None],
) -> str:
    engine = document.get("lm_eval_version") or document.get("git_hash") or "before 0.4"
    facts = [tasks, versions, shots, config.get("limit"), config.get("model_dtype"), engine]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
