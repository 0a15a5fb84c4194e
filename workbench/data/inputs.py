"""The files that a source's `path` stands for, and those beside them that are not read."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from workbench.config.schema import SourceConfig

PACKED_SUFFIXES = (".gz", ".zst")
SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet",),
    "arrow": (".arrow",),
    "tokens": (".bin", ".npy"),
    "text": (".txt", ".md", ".rst", ".tex", ".py", ".html"),
}
"""Endings of the files that a kind reads in a folder; those of jsonl and text also with one of `PACKED_SUFFIXES`."""

_SKIPPED_NAMES = 20


@dataclass(frozen=True)
class Inputs:
    """What was found at a source's `path`."""

    paths: tuple[Path, ...]
    """The files that are read, sorted."""
    skipped: tuple[str, ...]
    """Names of what is there and not read, relative to the path and sorted; a folder's name ends with a slash."""


def show(path: Path | str) -> str:
    """Path on one line: what cannot be printed is escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)[1:-1]


def find_inputs(source: SourceConfig) -> Inputs:
    """Find the files that a source's `path` stands for: a file, a folder with all folders inside it, or a glob.

    What exists under the very name is not taken for a glob, so names may hold brackets. A named file is read
    whatever its ending is; in a folder the ending decides, and hidden files are left out, as a glob leaves them out.

    Raises
    ------
    ValueError
        There are none.
    OSError
        A folder cannot be listed.
    """
    endings = file_endings(source.kind)
    place, pattern = _split(source.path)
    if pattern:
        matched = sorted(glob.glob(pattern, root_dir=place, recursive=True))  # noqa: PTH207 (for `root_dir`)
        found = [place / name for name in matched if (place / name).is_file()]
        skipped = [f"{name}/" for name in matched if (place / name).is_dir() and "**" not in pattern]
    elif place.is_dir():
        names = list(_walk(place))
        found = [place / name for name in names if _is_read(place, name, endings)]
        skipped = [name for name in names if not _is_read(place, name, endings)]
    else:
        found, skipped = [place] if place.is_file() else [], []
    if not found:
        raise ValueError(f"data source path={source.path!r}: {_why_none(place, pattern, skipped, endings)}")
    return Inputs(tuple(sorted(found)), tuple(skipped))


def count_skipped(source: SourceConfig) -> dict[str, Any]:
    """Count the files at a source's path that are not read, and name the first."""
    from_files = not source.is_remote and source.kind != "huggingface" and not source.kind.startswith("python_")
    names = find_inputs(source).skipped if from_files else ()
    return {"count": len(names), "names": list(names[:_SKIPPED_NAMES])}


def _why_none(place: Path, pattern: str, skipped: list[str], endings: tuple[str, ...]) -> str:
    """Say in words why a path stands for no file."""
    there = f" (there: {some_names(skipped)})" if skipped else ""
    if pattern and not glob.has_magic(pattern):
        return f"{show((place / pattern).absolute())} is not there"
    if pattern:
        return f"nothing in {show(place.absolute())} matches {pattern!r}{there}"
    return f"no {' or '.join(endings)} file there{there}: {show(place.absolute())}"


def some_names(names: tuple[str, ...] | list[str], most: int = 5) -> str:
    """Join the first few names, with the number of the others."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(show, names[:most])) + more


def file_endings(kind: str) -> tuple[str, ...]:
    """List the endings, in lower case, of the files that a kind reads."""
    plain = SUFFIXES[kind]
    return (
        plain
        if kind in ("parquet", "arrow", "tokens")
        else tuple(end + packed for end in plain for packed in ("", *PACKED_SUFFIXES))
    )


def _split(path: str) -> tuple[Path, str]:
    """Split a path into a beginning that exists as it is written and a pattern, "" where all of it exists."""
    for written in (Path(path), _at_home(Path(path))):
        if written.exists():
            return written, ""
    place, parts = Path(), list(_at_home(Path(path)).parts)
    while parts and (place / parts[0]).exists():
        place /= parts.pop(0)
    return place, str(Path(*parts))


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # `~somebody` who has no account here
        return path


def _walk(folder: Path) -> Iterator[str]:
    """Yield names of all files under a folder, through links, each folder once; of hidden folders the name alone."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to where we have been
            folders.clear()
            continue
        seen.add(real)
        inside = Path(root).relative_to(folder)
        yield from (f"{inside / name}/" for name in sorted(folders) if name.startswith("."))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (str(inside / name) for name in sorted(files))


def _refuse(error: OSError) -> NoReturn:
    raise error


def _is_read(folder: Path, name: str, endings: tuple[str, ...]) -> bool:
    last = name.rpartition("/")[2]
    return last.lower().endswith(endings) and not last.startswith(".") and (folder / name).is_file()
