"""Parts of files that are not here: opened when they are read, and what of a parquet file belongs to a range of its bytes."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from workbench.config.schema import SourceConfig
from workbench.data.corpus.shards import Part
from workbench.data.hub import resolve_revision
from workbench.data.hub_download import fetch_hub_file
from workbench.data.inputs import show
from workbench.data.object_store import open_object
from workbench.data.readers import open_parquet
from workbench.data.remote_files import RemoteFile


def open_remote(part: Part, source: SourceConfig) -> Path:
    """Give the file of a part as a path that the readers open: of the hub the fetched file, of a URL one read in place.

    Raises
    ------
    ValueError
        It cannot be fetched, or is not what it was when it was planned.
    """
    file = RemoteFile(part.path, part.file_bytes, part.content)
    if source.files is None:
        return open_object(file)
    return fetch_hub_file(source.path, resolve_revision(source.path, source.revision), file)


def find_row_groups(path: Path, part: Part) -> Part:
    """Give a part of a parquet file with row groups in place of bytes: each group is in the part where it begins.

    Groups whose bytes lie in another order than they are numbered count from the last byte at which one of them or before
    them begins, so that a part has neighbours alone, and no group is in two parts.

    Raises
    ------
    ValueError
        The file is no parquet file, or has no row.
    """
    with open_parquet(path) as file:
        begins = list(accumulate((_first_byte(file.metadata.row_group(i)) for i in range(file.num_row_groups)), max))
    if not begins:
        raise ValueError(f"{show(path)} is empty: it has no row")
    inside = [i for i, place in enumerate(begins) if part.begin <= place < part.end]
    return replace(part, begin=inside[0], end=inside[-1] + 1) if inside else replace(part, begin=0, end=0)


def _first_byte(group: Any) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return min(
        column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset for column in columns
    )
