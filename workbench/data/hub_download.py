"""Files of a data set of the hub on this machine: fetched when they are read, and compared with what the hub listed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from workbench.data.corpus.full_disk import free_bytes, is_full, no_space_elsewhere
from workbench.data.fingerprint import hash_file
from workbench.data.hub import HubOutOfReachError
from workbench.data.hub_errors import advise, explain, is_silence
from workbench.data.out_of_reach import is_out_of_reach
from workbench.data.remote_files import RemoteFile
from workbench.data.unpack import one_line


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
        The hub refuses it, or it has other bytes than were listed; the message says what to do.
    workbench.data.hub.HubOutOfReachError
        The hub does not answer.
    workbench.data.corpus.full_disk.NoSpaceError
        The disk of the hub's cache is full.
    """
    import huggingface_hub
    from huggingface_hub.utils import silent_tqdm  # many workers fetch at a time, and the corpus has a line of its own

    bar: Any = silent_tqdm
    try:
        place = Path(
            huggingface_hub.hf_hub_download(path, file.name, repo_type="dataset", revision=commit, tqdm_class=bar)
        )
    except Exception as error:  # of many classes, also the HTTP client's
        failure = _understand(path, file, error)
        if failure is None:
            raise
        raise failure from error
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
            raise ValueError(_describe_refusal(path, file, error)) from error
    except Exception:  # whatever the HTTP client calls a hub out of reach; all may be in the cache
        return


def _understand(path: str, file: RemoteFile, error: Exception) -> Exception | None:
    """Give what to raise for an error of a fetch; None where nothing is known that says more than the error itself."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    cache = Path(constants.HF_HUB_CACHE)
    if is_full(error) or (_is_of_library(error) and free_bytes(cache) < file.size):
        return no_space_elsewhere(
            f"{file.name} of data set {path!r} in the hub's cache",
            file.size,
            cache,
            "make room, or set HF_HUB_CACHE to a folder of a larger disk",
        )
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it says why
    if isinstance(error, PermissionError):
        return ValueError(
            f"the hub's cache cannot be written: {one_line(error)}; set HF_HUB_CACHE to a folder of yours"
        )
    offline = isinstance(error, OfflineModeIsEnabled)
    if offline or is_out_of_reach(error) or _is_of_library(error):
        said = f"the hub is out of reach and does not give {file.name} of data set {path!r}: {explain(error, path)}"
        return HubOutOfReachError(said, may_pass=not offline)
    if isinstance(error, HfHubHTTPError | EntryNotFoundError | ValueError):
        return ValueError(_describe_refusal(path, file, error))
    return None


def _is_of_library(error: Exception) -> bool:
    """Whether it is an error of a transfer that has no class of its own: content cut short, or whatever hf_xet meets."""
    from huggingface_hub.errors import FileMetadataError, XetDownloadError

    is_short = isinstance(error, OSError) and type(error) is OSError and error.errno is None
    return is_short or isinstance(error, FileMetadataError | XetDownloadError | RuntimeError)


def _describe_refusal(path: str, file: RemoteFile, error: Exception) -> str:
    return f"the hub does not give {file.name} of data set {path!r}: {advise(error, path)}"


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
