"""Data sets of the Hugging Face hub: which commit a revision is, and the records of that commit."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.config.schema import DataConfig, SourceConfig
from workbench.data.cache import recall, remember
from workbench.data.hub_errors import advise, explain, is_silence
from workbench.data.out_of_reach import OutOfReachError, is_out_of_reach
from workbench.data.readers import text_of
from workbench.data.unpack import one_line

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SECONDS_TO_ANSWER = 10

logger = logging.getLogger(__name__)


class HubOutOfReachError(OutOfReachError):
    """The hub does not answer, and what it said to this user before does not do."""


def is_local(source: SourceConfig) -> bool:
    """Whether a source of kind `huggingface` is a folder on this machine, which `datasets` reads, too."""
    return Path(source.path).is_dir()


def pin_revisions(data: DataConfig) -> DataConfig:
    """Config in which every data set of the hub has a commit as its revision.

    Raises
    ------
    ValueError
        See `resolve_revision`.
    """
    pinned = {
        name: dataclasses.replace(source, revision=resolve_revision(source.path, source.revision))
        for name, source in data.sources.items()
        if source.kind == "huggingface" and not is_local(source)
    }
    return dataclasses.replace(data, sources={**data.sources, **pinned}) if pinned else data


@lru_cache(maxsize=64)
def resolve_revision(path: str, revision: str | None) -> str:
    """Commit (40 hexadecimal digits) that a revision of a data set is now; one that is a commit is taken as it is.

    Branches and tags move, so the hub is asked once per process. Where it does not answer, its last answer to this
    user counts, and a warning names it.

    Raises
    ------
    ValueError
        The hub has no such data set or revision; `HubOutOfReachError` where it does not answer and never did.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        info = huggingface_hub.HfApi().dataset_info(path, revision=revision, timeout=_SECONDS_TO_ANSWER)
    except HFValidationError as error:
        raise ValueError(f"data set {path!r} is neither a folder nor a name on the hub: {one_line(error)}") from error
    except HfHubHTTPError as error:
        if is_silence(error):
            return _last_answer(path, revision, error)
        raise ValueError(
            f"the hub gives no data set {path!r} with revision={revision!r}: {explain(error, path)}"
        ) from error
    except Exception as error:  # whatever the HTTP client calls a hub out of reach
        return _last_answer(path, revision, error)
    if info.sha is None:
        raise ValueError(f"the hub names no commit of data set {path!r}: set its revision to one")
    remember(f"{info.sha} {time.strftime('%Y-%m-%d')}", "revisions", path, revision)
    return info.sha


def kept_commit(path: str, revision: str | None) -> str | None:
    """Commit that a revision was when the hub last said so to this user, without asking it; None where it never did."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    known = recall("revisions", path, revision)
    return None if known is None else known.split()[0]


def _last_answer(path: str, revision: str | None, error: Exception) -> str:
    known = recall("revisions", path, revision)
    if known is None:
        raise HubOutOfReachError(
            f"data set {path!r}: the hub does not answer which commit revision={revision} is "
            f"({one_line(error)[:200]}): set the source's revision to a commit"
        ) from error
    commit, day = known.split()
    logger.warning(
        "the hub does not answer: %s is taken at commit %s, its revision=%s of %s", path, commit, revision, day
    )
    return commit


def read_hub(source: SourceConfig) -> Iterator[str]:
    """Yield the texts of a data set, streamed; raises as `read_hub_records`, and where a record has no text."""
    return (text_of(record, source.text_field, where) for where, record in read_hub_records(source))


def read_hub_records(source: SourceConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield place and record of every row of a data set, streamed.

    Raises
    ------
    ValueError
        `datasets` cannot read it; `HubOutOfReachError` where the hub does not answer.
    """
    import datasets
    import huggingface_hub
    from datasets import config
    from datasets.exceptions import DatasetsError

    commit = None if is_local(source) else resolve_revision(source.path, source.revision)
    number = 0
    try:
        rows = datasets.load_dataset(source.path, source.subset, split=source.split, revision=commit, streaming=True)
        for record in rows:
            number += 1
            yield f"{source.path}, row {number}", record
    except (OSError, ValueError, DatasetsError, RuntimeError) as error:  # the last: it refuses loading scripts
        said = f"data set {source.path} cannot be read after row {number}: {one_line(error)[:500]}"
        if is_out_of_reach(error):
            offline = config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE
            raise HubOutOfReachError(f"{said}; {advise(error, source.path)}", may_pass=not offline) from error
        raise ValueError(said) from error
    if not number:
        raise ValueError(f"data set {source.path} is empty: split {source.split!r} has no row")
