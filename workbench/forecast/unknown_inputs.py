"""What a plan can do without, and preparing the data cannot: commits of the hub, and a tokenizer's file."""

from __future__ import annotations

from pathlib import Path

from workbench.config.schema import DataConfig, TokenizerConfig
from workbench.data.hub import HubOutOfReachError, is_local, resolve_revision
from workbench.data.inputs import find_inputs
from workbench.data.remote_inputs import list_remote

_FILE_KINDS = ("jsonl", "parquet", "arrow", "text", "tokens")
"""Kinds of sources that read files of this machine."""


def unknown_inputs(data: DataConfig, tokenizer: TokenizerConfig) -> list[str]:
    """Lines on the inputs of a token store that cannot be named here; empty where all are known.

    Raises
    ------
    ValueError
        The hub answers that it has no such data set or revision, or, where something is unknown, a source's files are not there.
    """
    unknown = [*_unknown_of_hub(data), *_missing_tokenizer(tokenizer)]
    for source in data.sources.values() if unknown else ():  # otherwise the fingerprint looks for them
        if source.kind in _FILE_KINDS and not source.is_remote:
            find_inputs(source)
    return unknown


def _unknown_of_hub(data: DataConfig) -> list[str]:
    """Line on the first data set whose commit or files are not known: each further question would wait for the same silence."""
    for name, source in data.sources.items():
        if source.kind != "huggingface" or is_local(source):
            continue
        what, or_set = "revision", "set each source's revision to a commit, or "
        try:
            resolve_revision(source.path, source.revision)
            what, or_set = "files", ""
            if source.files is not None:
                list_remote(source)
        except HubOutOfReachError:
            return [
                f"data {data.name} is not prepared, and the hub does not answer: {what} not known without the hub, "
                f"beginning with source {name!r} ({source.path}); {or_set}plan again where the hub can be reached"
            ]
    return []


def _missing_tokenizer(tokenizer: TokenizerConfig) -> list[str]:
    if tokenizer.kind != "file" or Path(tokenizer.path or "").expanduser().exists():
        return []
    return [f"tokenizer.path={tokenizer.path!r} is not there: `workbench prepare` and `run` need it"]
