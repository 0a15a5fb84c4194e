"""Inputs that are listed at once and fetched when they are read: files of data sets of the hub, and files at URLs."""

from __future__ import annotations

from workbench.config.schema import SourceConfig
from workbench.data.hub_listing import list_hub_files
from workbench.data.object_store import list_objects
from workbench.data.remote_files import RemoteFile, format_of


def list_remote(source: SourceConfig) -> tuple[RemoteFile, ...]:
    """List the files of a source whose `is_remote` is true, sorted by name.

    Raises
    ------
    ValueError
        See `workbench.data.hub_listing.list_hub_files` and `workbench.data.object_store.list_objects`.
    """
    if source.files is None:
        return list_objects(source.path, source.kind)
    found = list_hub_files(source.path, source.revision, tuple(source.files))
    if source.where is not None and format_of(found[0].name) == "text":
        raise ValueError(
            f"source where={source.where!r}: {found[0].name} is a text, which has no fields: leave where out"
        )
    return found


def remote_kind(source: SourceConfig, name: str) -> str:
    """Kind of source that reads a file of a source whose `is_remote` is true."""
    return source.kind if source.files is None else format_of(name) or "text"
