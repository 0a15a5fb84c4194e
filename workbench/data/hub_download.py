"""Files of a data set of the hub on this machine: fetched when they are read, and compared with what the hub listed."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

from workbench.data.fingerprint import hash_file
from workbench.data.hub_errors import advise, explain, is_silence
from workbench.data.remote_files import RemoteFile
from workbench.data.unpack import one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch_hub_file(path: str, commit: str, file: RemoteFile) -> Path:
    """Give a file of a data set, fetched unless it is in the hub's cache.

    Parameters
    ----------
    path, commit
        The data set.
    file
        As it was listed.

    Raises
    ------
    ValueError
        The hub does not give it, the disk of the cache is full, or it has other bytes than were listed; the message says
        what to do.
    """
    import huggingface_hub
    from huggingface_hub.utils import silent_tqdm  # many workers fetch at a time, and the corpus has a line of its own

    bar: Any = silent_tqdm
    try:
        place = Path(
            huggingface_hub.hf_hub_download(path, file.name, repo_type="dataset", revision=commit, tqdm_class=bar)
        )
    except Exception as error:  # of many classes, also the HTTP client's
        raise ValueError(_describe_failure(path, file, error)) from error
    _refuse_other_bytes(place, file)
    return place


def check_access(path: str, commit: str, file: RemoteFile) -> None:
    """Refuse a data set whose files may be listed and not read: before a corpus is begun, and not in its first task.

    Raises
    ------
    ValueError
        The hub refuses the file; where it does not answer, nothing is said.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    if huggingface_hub.try_to_load_from_cache(path, file.name, repo_type="dataset", revision=commit) is not None:
        return
    url = huggingface_hub.hf_hub_url(path, file.name, repo_type="dataset", revision=commit)
    try:
        huggingface_hub.get_hf_file_metadata(url)
    except HfHubHTTPError as error:
        if not is_silence(error):
            raise ValueError(_describe_failure(path, file, error)) from error
    except Exception:  # whatever the HTTP client calls a hub out of reach; all may be in the cache
        return


def _describe_failure(path: str, file: RemoteFile, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, OSError) and (error.errno in _FULL or "No space left" in str(error)):
        return (
            f"no room for {file.name} of data set {path!r} ({file.size / 1e6:,.1f} MB) in the hub's cache {constants.HF_HUB_CACHE}: "
            "make room, or set HF_HUB_CACHE to a folder of a larger disk; what is done is kept, and the same command goes on"
        )
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it says why
    if isinstance(error, PermissionError):
        return f"the hub's cache cannot be written: {one_line(error)}; set HF_HUB_CACHE to a folder of yours"
    said = explain(error, path) if is_silence(error) else advise(error, path)
    return f"the hub does not give {file.name} of data set {path!r}: {said}"


def _refuse_other_bytes(place: Path, file: RemoteFile) -> None:
    """Compare a file with its hash: huggingface_hub itself compares the size of what it fetches, and nothing of what it kept."""
    size = place.stat().st_size
    kind, _, wanted = file.content.partition(":")
    if size == file.size and wanted == (hash_file(place) if kind == "sha256" else _git_hash(place, size)):
        return
    raise ValueError(
        f"{place} has {size} bytes and not the content of the {file.size} that the hub lists ({file.content}): delete "
        f"{place.resolve()}, and start the command again"
    )


def _git_hash(path: Path, size: int) -> str:
    """SHA-1 that git names a file's content by: small files of the hub have no other hash."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
