"""Checkpoints on the Hugging Face hub: what it says of their files, and the files themselves.

It knows the checksum of every large file, so that a plan fetches configs and tokenizers alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.data.cache import recall, remember
from workbench.data.unpack import one_line
from workbench.model.pretrained import INDEX, WEIGHTS_FILE, conversion_command

SMALL = ("*.json", "tokenizer*", "chat_template.jinja", "README.md")
"""Files of a repository that say what it is."""
WEIGHTS = ("*.safetensors",)
"""Files that hold its weights; pickles are not fetched."""
_IGNORED = ("*/*", "consolidated*")
"""Files that match nevertheless: other formats' folders, and Mistral's second copy of its weights."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SECONDS_TO_ANSWER = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFiles:
    """The files of a repository at a commit."""

    commit: str
    """40 hexadecimal digits."""
    files: dict[str, dict[str, Any]]
    """`sha256` and `bytes` of each file of its top folder; `sha256` is None where the hub does not know it, of small ones."""


def fetch(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Folder of the files of a repository that match, fetched unless they are in the hub's cache.

    Raises
    ------
    ValueError
        It is no repository's name, or the hub has no such repository or does not answer.
    """
    _check_name(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_IGNORED))
        )
    except Exception as error:  # of many classes: no network, no such repository, no access
        raise ValueError(
            f"--checkpoint {name}: no such directory, and the hub gave none: {one_line(error)[:300]}"
        ) from error


def fetch_for_plan(name: str, revision: str | None) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Fetch what a plan reads of a repository: its small files, and checksums and sizes of its weights by their names.

    Where the hub does not answer, its last answer to this user counts, and a warning names it; without one, the files
    that are in its cache do, with the weights.

    Raises
    ------
    ValueError
        As `fetch`, or the repository has no safetensors: the message has the command that converts its pickles.
    """
    _check_name(name)
    listed = list_files(name, revision)
    if listed is None:
        return fetch(name, revision, [*SMALL, *WEIGHTS]), {}
    _check_safetensors(name, listed)
    weights = {file: facts for file, facts in listed.files.items() if file.endswith(".safetensors")}
    unknown = [file for file, facts in weights.items() if facts["sha256"] is None]
    known = {file: facts for file, facts in weights.items() if facts["sha256"] is not None}
    return fetch(name, listed.commit, [*SMALL, *unknown]), known


@lru_cache(maxsize=256)
def list_files(name: str, revision: str | None) -> HubFiles | None:
    """List a repository's files as the hub knows them; None where it does not answer and never did.

    Raises
    ------
    ValueError
        The hub has no such repository or revision.
    """
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        known = _last_answer(name, revision)
        if known is not None:  # a commit's files are what they were
            return known
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = huggingface_hub.HfApi().model_info(
            name, revision=revision, files_metadata=True, timeout=_SECONDS_TO_ANSWER
        )
    except HfHubHTTPError as error:
        if error.response.status_code < 500 and error.response.status_code != 429:
            raise ValueError(
                f"the hub gives no checkpoint {name!r} with revision={revision!r}: {one_line(error)[:300]}"
            ) from error
        return _unanswered(name, revision)
    except Exception:  # whatever the HTTP client calls a hub out of reach
        return _unanswered(name, revision)
    if info.sha is None:
        raise ValueError(f"the hub names no commit of {name!r}: set init.revision to one")
    files = {
        file.rfilename: {"sha256": file.lfs.sha256 if file.lfs else None, "bytes": file.size}
        for file in info.siblings or []
        if "/" not in file.rfilename
    }
    listed = HubFiles(info.sha, files)
    for key in (revision, info.sha):
        remember(json.dumps(asdict(listed)), "checkpoints", name, key)
    return listed


def _unanswered(name: str, revision: str | None) -> HubFiles | None:
    known = _last_answer(name, revision)
    if known is not None:
        logger.warning(
            "the hub does not answer: %s is taken at commit %s, the last known of its revision=%s",
            name, known.commit, revision,
        )  # fmt: skip
    return known


def _last_answer(name: str, revision: str | None) -> HubFiles | None:
    text = recall("checkpoints", name, revision)
    return None if text is None else HubFiles(**json.loads(text))


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(
            f"--checkpoint {name}: neither a directory nor a name on the hub, such as EleutherAI/pythia-14m"
        )


def _check_safetensors(name: str, listed: HubFiles) -> None:
    if WEIGHTS_FILE in listed.files or INDEX in listed.files:
        return
    pickles = sorted(file for file in listed.files if file.endswith(_PICKLES))
    if not pickles:
        raise ValueError(f"{name} at {listed.commit} has neither {WEIGHTS_FILE} nor {INDEX}: not a checkpoint")
    target = f"{name.rpartition('/')[2]}-safetensors"
    raise ValueError(
        f"{name} at {listed.commit} has its weights as a pickle alone ({pickles[0]}), which can run any code, and is not "
        f"fetched. If you trust it, convert it, and set init.path={target} init.revision=null: "
        + conversion_command(name, target, listed.commit)
    )
