"""A folder of lm-eval result files: which belong together, and which of two results to use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.reference.result_files import ResultFile, read_result_file

Row = dict[str, Any]


def read_folder(path: Path) -> tuple[list[ResultFile], list[str]]:
    """Read the result files of a folder and all below it, and name JSON files that are not results.

    Raises
    ------
    ValueError
        The folder does not exist, a file cannot be read, or none holds a result.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    paths = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    found: list[ResultFile] = []
    others: list[str] = []
    for each in paths:
        name = each.relative_to(path).as_posix() if path.is_dir() else each.name
        file = read_result_file(each, name)
        if file is None:
            others.append(name)
        else:
            found.append(file)
    if not any(file.scores for file in found):
        raise ValueError(f"{path} holds no lm-eval results ({len(paths)} JSON files)")
    notes = [f"{len(others)} JSON files hold no lm-eval results, such as {others[0]}"] if others else []
    return found, notes + [f"{f.name}: no number for {', '.join(f.left_out)}" for f in found if f.left_out]


def with_shots(files: list[ResultFile], shots: int) -> tuple[list[ResultFile], list[str]]:
    """Keep the results of one number of few-shot examples, and count those dropped by file.

    Raises
    ------
    ValueError
        None is left.
    """
    kept: list[ResultFile] = []
    notes: list[str] = []
    for file in files:
        scores = {metric: score for metric, score in file.scores.items() if file.shots[score.task] == shots}
        if len(scores) < len(file.scores):
            notes.append(f"{file.name}: {len(file.scores) - len(scores)} results with other than {shots} shots")
        kept.append(replace(file, scores=scores))
    if not any(file.scores for file in kept):
        raise ValueError(f"shots={shots}: no task was scored with that many examples")
    return kept, notes


def refuse_mixed_shots(files: Iterable[ResultFile]) -> None:
    """Refuse a task that was scored with different numbers of few-shot examples.

    Raises
    ------
    ValueError
        There is one.
    """
    for task, values in _by_task(files, lambda file, task: file.shots[task]).items():
        if len(values) > 1:
            counts = " and ".join(sorted(values))
            raise ValueError(f"{task} was scored with {counts} few-shot examples: choose one with shots=")


def mixed_notes(files: Iterable[ResultFile]) -> list[str]:
    """Note where a task's version or limit of documents differs between files: such results are not comparable."""
    files = list(files)
    notes = _mixed(_by_task(files, lambda file, task: file.versions.get(task, "unknown")), "version")
    notes += _mixed(_by_task(files, lambda file, _: file.limit), "limit")
    limits = sorted({str(file.limit) for file in files if file.limit is not None})
    return notes + [f"kept, but scored on only part of the documents: limit {limit}" for limit in limits]


def _mixed(by_task: dict[str, set[str]], word: str) -> list[str]:
    """One note for all tasks that mix the same values."""
    tasks: dict[str, list[str]] = {}
    for task, values in by_task.items():
        if len(values) > 1:
            tasks.setdefault(" and ".join(sorted(values)), []).append(task)
    return [
        f"kept, but not comparable: {word} {values} of {', '.join(sorted(names))}" for values, names in tasks.items()
    ]


def _by_task(files: Iterable[ResultFile], get: Callable[[ResultFile, str], object]) -> dict[str, set[str]]:
    """Every value of a task over the files, as text."""
    found: dict[str, set[str]] = {}
    for file in files:
        for task in sorted({score.task for score in file.scores.values()}):
            found.setdefault(task, set()).add(str(get(file, task)))
    return found


def latest_rows(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Keep the latest row of each checkpoint and metric, and name the files of the others.

    A result on part of the documents (`limit`) never replaces one on all of them, however recent it is.

    Raises
    ------
    ValueError
        Two rows differ, both on all or both on part of the documents, and one of them has no date.
    """
    kept: dict[tuple[str, str], Row] = {}
    dropped: dict[tuple[str, str], int] = {}
    for row in rows:
        key = row["checkpoint"], row["metric"]
        other = kept.setdefault(key, row)
        if other is row:
            continue
        kept[key], old = _newer(other, row)
        pair = old["source"], kept[key]["source"]
        dropped[pair] = dropped.get(pair, 0) + 1
    notes = [f"{old}: {count} results superseded by {new}" for (old, new), count in dropped.items()]
    return list(kept.values()), notes


def _newer(first: Row, second: Row) -> tuple[Row, Row]:
    """Order two rows of one result, the one to keep first: on all documents, then the later."""
    if (first["limit"] is None) != (second["limit"] is None):
        return (first, second) if first["limit"] is None else (second, first)
    if first["date"] is None or second["date"] is None:
        if first["value"] != second["value"]:
            raise ValueError(
                f"{first['source']} and {second['source']} disagree on {first['metric']} of {first['checkpoint']}, "
                "and no date tells which is later: move one away"
            )
        return first, second
    return (first, second) if first["date"] > second["date"] else (second, first)
