"""Files that are listed before they are fetched: what is known of each, and which ones a source's globs mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workbench.data.inputs import file_endings, some_names

FORMATS = ("jsonl", "parquet", "arrow", "text")
"""Kinds of sources whose files can be read one by one."""
_NEAR_NAMES = 3
_DIGITS = re.compile(r"[0-9]+")


class RemoteFile(NamedTuple):
    """A file that is not on this machine, or not yet."""

    name: str
    """Its name in a data set of the hub, or its URL."""
    size: int
    """Bytes."""
    content: str
    """What changes with its bytes: `sha256:` or `git:` and a hash on the hub; elsewhere `etag:`, `md5:` or `time:`."""


def format_of(name: str) -> str | None:
    """Kind of source that reads files with a name's ending; None where there is none."""
    low = name.lower()
    return next((kind for kind in FORMATS if low.endswith(file_endings(kind))), None)


def match_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Names that match one of some globs, sorted; `*` stays within a folder, `**` is any number of folders."""
    from fsspec.utils import glob_translate

    exact = set(patterns)
    expressions = [re.compile(glob_translate(pattern)) for pattern in patterns]
    return sorted(name for name in names if name in exact or any(each.match(name) for each in expressions))


def fixed_folder(pattern: str) -> str:
    """Give the folder in which all matches of a glob lie: the parts before the first one with a magic character."""
    folders = pattern.split("/")[:-1]
    magic = next((i for i, part in enumerate(folders) if re.search(r"[*?\[]", part)), len(folders))
    return "/".join(folders[:magic])


def outermost(folders: Iterable[str]) -> list[str]:
    """Folders without those that lie in another one of them."""
    kept: list[str] = []
    for folder in sorted(set(folders)):
        if not any(not outer or f"{folder}/".startswith(f"{outer}/") for outer in kept):
            kept.append(folder)
    return kept


def describe_near(names: Iterable[str], patterns: Sequence[str]) -> str:
    """Say what globs would match something, and look like those that match nothing."""
    globs: dict[str, str] = {}
    for name in names:  # one for all files of a folder with the same ending
        folder, _, last = name.rpartition("/")
        known = format_of(last)
        endings = () if known is None else file_endings(known)
        ending = next((end for end in endings if last.lower().endswith(end)), f".{last.rpartition('.')[2]}")
        alike = (f"{folder}/" if folder else "") + f"*{ending}"
        globs.setdefault(_DIGITS.sub("0", alike), alike)  # and one for folders that differ in numbers alone
    if not globs:
        return "there is no file"
    wanted = [pattern for pattern in patterns if not match_names(globs.values(), [pattern])] or list(patterns)
    near = [
        found
        for pattern in wanted
        for found in difflib.get_close_matches(pattern, globs.values(), _NEAR_NAMES, cutoff=0.5)
    ]
    near = list(dict.fromkeys(near)) or sorted(globs.values())
    return f"there is {some_names(near)}"
