"""The files of a data set of the hub at a commit: their names, sizes and hashes, without fetching any."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.config.schema import SourceConfig
from workbench.data.cache import recall, remember
from workbench.data.hub import HubOutOfReachError, kept_commit, resolve_revision
from workbench.data.hub_errors import advise, explain, is_silence
from workbench.data.inputs import some_names
from workbench.data.remote_files import RemoteFile, describe_near, fixed_folder, format_of, match_names, outermost

_SECONDS_TO_ANSWER = 10


@lru_cache(maxsize=64)
def list_hub_files(path: str, revision: str | None, patterns: tuple[str, ...]) -> tuple[RemoteFile, ...]:
    """List the files of a data set that globs mean, at the commit that a revision is now, sorted by name.

    The hub is asked once: what it says of a commit is kept in the user's cache, since a commit does not change. Where it
    does not answer, a list that was kept counts, or that of huggingface_hub's own cache.

    Parameters
    ----------
    path, revision
        As in `workbench.data.hub.resolve_revision`.
    patterns
        Globs of names in the data set.

    Raises
    ------
    ValueError
        There is no such data set or revision, nothing matches, or what matches is not all of one format that is read;
        `HubOutOfReachError` where the hub does not answer and nothing was kept.
    """
    if Path(path).is_dir():
        raise ValueError(
            f"source path={path!r} is a folder of this machine, and files={list(patterns)!r} are of a data set of the hub: "
            "set kind to jsonl, parquet or arrow, and path to the files"
        )
    commit = resolve_revision(path, revision)
    known = _recall(path, commit, patterns)
    if known is not None:
        return known
    listed = {entry.path: entry for entry in _ask(path, commit, outermost(map(fixed_folder, patterns)))}
    names = match_names(listed, patterns)
    silent = [pattern for pattern in patterns if not match_names(names, [pattern])]
    if silent:
        near = describe_near(listed or [entry.path for entry in _ask(path, commit, [""])], silent)
        raise ValueError(f"no file of data set {path!r} at commit {commit} matches files={silent[0]!r}: {near}")
    _check_formats(path, names)
    found = tuple(RemoteFile(name, listed[name].size, _content(listed[name])) for name in names)
    remember(json.dumps(found), "hub_files", path, commit, *patterns)
    return found


def kept_hub_files(source: SourceConfig) -> tuple[RemoteFile, ...] | None:
    """List a source's `files` as `list_hub_files` last did, without asking the hub; None where it never did."""
    commit = kept_commit(source.path, source.revision)
    return None if commit is None else _recall(source.path, commit, tuple(source.files or ()))


def _recall(path: str, commit: str, patterns: tuple[str, ...]) -> tuple[RemoteFile, ...] | None:
    known = recall("hub_files", path, commit, *patterns)
    return None if known is None else tuple(RemoteFile(*facts) for facts in json.loads(known))


def _check_formats(path: str, names: list[str]) -> None:
    """Refuse files of no format that is read, and of several."""
    firsts: dict[str | None, str] = {}
    for name in names:
        firsts.setdefault(format_of(name), name)
    if None in firsts:
        others = [name for name in names if format_of(name) is None]
        raise ValueError(
            f"data set {path!r}: the files match {some_names(others)}, whose endings are of no format that is read (jsonl, "
            "parquet, arrow, text): narrow the source's files"
        )
    if len(firsts) > 1:
        examples = ", ".join(f"{kind} ({name})" for kind, name in firsts.items())
        raise ValueError(
            f"data set {path!r}: the files match several formats, {examples}: narrow the source's files to one"
        )


def _content(entry: Any) -> str:
    return f"git:{entry.blob_id}" if entry.lfs is None else f"sha256:{entry.lfs.sha256}"


def _ask(path: str, commit: str, folders: Iterable[str]) -> list[Any]:
    """Entries of all files in some folders, with `path`, `size`, `lfs` and `blob_id`; none for a folder that is not there."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

    api = huggingface_hub.HfApi()
    found: list[Any] = []
    try:
        # Asked first, since this call, unlike a listing, is not tried again for half a minute where there is no network.
        api.dataset_info(path, revision=commit, timeout=_SECONDS_TO_ANSWER)
        for folder in folders:
            entries = api.list_repo_tree(path, folder or None, recursive=True, revision=commit, repo_type="dataset")
            try:
                found += [entry for entry in entries if hasattr(entry, "blob_id")]
            except RemoteEntryNotFoundError:
                continue
    except Exception as error:  # of many classes, also the HTTP client's
        if isinstance(error, HfHubHTTPError) and not is_silence(error):
            raise ValueError(
                f"the hub does not list data set {path!r} at commit {commit}: {explain(error, path)}"
            ) from error
        return _kept_by_library(path, commit, error)
    return found


def _kept_by_library(path: str, commit: str, error: Exception) -> list[Any]:
    """Give the list that huggingface_hub kept when the whole data set was fetched by it."""
    import huggingface_hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return list(huggingface_hub.get_cached_repo_tree(path, repo_type="dataset", revision=commit))
    except CachedRepoTreeNotFoundError:
        raise HubOutOfReachError(
            f"data set {path!r}: the hub does not answer which files commit {commit} has: {advise(error, path)}"
        ) from error
