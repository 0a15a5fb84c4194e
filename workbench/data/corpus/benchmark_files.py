"""Texts of benchmarks, read from jsonl files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from workbench.data.fingerprint import hash_file


@dataclass(frozen=True)
class BenchmarkTexts:
    """Texts of benchmark documents; B documents, by task and then by number, and T texts."""

    documents: tuple[tuple[str, int], ...]
    """(B,) Task and number of each document."""
    texts: tuple[str, ...]
    """(T,)."""
    owners: tuple[int, ...]
    """(T,) Position in `documents` of the one that each text is of."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, sorted."""
        return tuple(sorted({task for task, _ in self.documents}))


def benchmark_files(path: Path) -> list[Path]:
    """List the `.jsonl` files of benchmark texts at a path, which is one or a folder with them in it at any depth.

    Raises
    ------
    ValueError
        There is none.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"))
    if not files:
        raise ValueError(f"no .jsonl file of benchmark texts at {path}: write them with `workbench benchmark-texts`")
    return files


def benchmark_hashes(path: Path) -> list[str]:
    """SHA-256 of each file of benchmark texts, sorted: what a fingerprint has of them, wherever they lie.

    Raises
    ------
    ValueError
        There is none.
    """
    return sorted(hash_file(file) for file in benchmark_files(path))


def read_benchmark_texts(path: Path) -> BenchmarkTexts:
    """Read benchmark texts.

    Lines with the same task and `document` are of one document; a line without `document` is one by itself, with its number
    among its task's lines.

    Raises
    ------
    ValueError
        There is no file, or no text in them; a line is not a benchmark text; one task is in two files, as where two suites
        wrote it (its documents' numbers would then mean two things); a task has lines with and without `document`.
    """
    found: dict[tuple[str, int], list[str]] = {}
    file_of: dict[str, Path] = {}
    numbered: dict[str, bool] = {}
    for file in benchmark_files(path):
        lines: dict[str, int] = {}
        with file.open(encoding="utf-8") as rows:
            for i, row in enumerate(rows):
                task, number, text = _read_line(row, f"{file}, line {i + 1}")
                if file_of.setdefault(task, file) != file:
                    raise ValueError(f"texts of task {task!r} are in {file_of[task]} and in {file}: keep one of them")
                if numbered.setdefault(task, number is not None) != (number is not None):
                    raise ValueError(f"{file}, line {i + 1}: task {task!r} has lines with and without `document`")
                within = lines.get(task, 0)
                lines[task] = within + 1
                found.setdefault((task, within if number is None else number), []).append(text)
    if not found:
        raise ValueError(f"no benchmark text in {path}: its files are empty")
    documents = tuple(sorted(found))
    pairs = [(text, i) for i, document in enumerate(documents) for text in found[document]]
    return BenchmarkTexts(documents, tuple(text for text, _ in pairs), tuple(i for _, i in pairs))


def _read_line(row: str, where: str) -> tuple[str, int | None, str]:
    """Task, number and text of one line."""
    try:
        line = json.loads(row)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {row.strip()[:60]!r}") from error
    if not isinstance(line, dict):
        raise ValueError(f"{where}: not an object with `task` and `text`: {row.strip()[:60]!r}")
    task, text, number = line.get("task"), line.get("text"), line.get("document")
    if not isinstance(task, str) or not isinstance(text, str):
        raise ValueError(f"{where}: `task` and `text` must be text, not {task!r} and {text!r}")
    if " + " in task:
        raise ValueError(f"{where}: {task!r} cannot be a task's name: ' + ' joins names in counts")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise ValueError(f"{where}: `document` must be a whole number, not {number!r}")
    return task, number, text
