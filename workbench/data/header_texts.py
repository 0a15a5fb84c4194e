"""C and C++ headers that the locked packages install: a domain of its own beside prose and Python code.

A header is one document: its text without the comments it opens with (the licence, in most). The other
comments stay, as they do in published collections of source code. Which packages count, and what passes for
source written by people, is as in `workbench.data.python_texts`.
"""

from __future__ import annotations

import re
from pathlib import Path

from workbench.data import counts
from workbench.data.counts import Drop, no_drop
from workbench.data.python_texts import (
    GENERATED,
    HEADER_SUFFIXES,
    SKIPPED_FOLDERS,
    is_code,
    order_by_content,
    read_source,
    recorded_files,
)

SUFFIXES = HEADER_SUFFIXES

_LEADING_COMMENTS = re.compile(r"\A(?:\s+|//[^\n]*(?:\n|\Z)|/\*.*?\*/)+", re.DOTALL)
# torch's build puts the same condition around its headers, above the licence: 2,181 of the 3,196 that pass.
_BUILD_CONDITION = re.compile(
    r"\A#if !defined\(TORCH_STABLE_ONLY\)[^\n]*\n(?P<inside>.*)\n#else\n#error [^\n]*\n#endif[^\n]*\s*\Z", re.DOTALL
)


def list_headers(*packages: str) -> list[tuple[str, str]]:
    """(SHA-256 of the content, path) of every header, of `packages` alone where some are named, as `list_files` orders them."""
    return order_by_content(recorded_files(is_header, packages))


def is_header(name: str) -> bool:
    """Whether a file's name (relative, with slashes) is a header's, outside folders of tests."""
    *folders, last = name.split("/")
    return last.endswith(SUFFIXES) and not SKIPPED_FOLDERS.intersection(folders)


def read_header(path: Path, digest: str | None = None, drop: Drop = no_drop) -> str:
    """Text of one header; empty where it is no UTF-8, generated, or no source written by people: `drop` is told which.

    Raises
    ------
    ValueError
        The file's SHA-256 is not `digest`.
    """
    try:
        text = read_source(path, digest)
    except UnicodeDecodeError:
        drop("code", counts.NOT_UTF8)
        return ""
    except OSError:
        drop("code", counts.UNREADABLE)
        return ""
    if GENERATED.search(text, 0, 2000):
        drop("code", counts.GENERATED)
        return ""
    text = cut_leading_comments(text)
    if not is_code(text):
        drop("code", counts.NOT_CODE if text.strip() else counts.EMPTY)
        return ""
    return text


def cut_leading_comments(text: str) -> str:
    """Text of a header from its first line that is no comment, without a condition that a build put around it."""
    wrapped = _BUILD_CONDITION.match(text)
    inside = wrapped["inside"] if wrapped else text
    return _LEADING_COMMENTS.sub("", inside).strip("\n")
