"""What the Hugging Face hub refuses, in one line that says what to do."""

from __future__ import annotations

import os

from workbench.data.unpack import one_line

_MOST_CHARACTERS = 200


def is_silence(error: BaseException) -> bool:
    """Whether an error says that the hub does not answer, or not now, and not that it refuses."""
    from huggingface_hub.errors import HfHubHTTPError

    status = _status(error) if isinstance(error, HfHubHTTPError) else None
    return status is None or status >= 500 or status in (408, 429)


def advise(error: BaseException, path: str) -> str:
    """Say what to do about an error of the hub.

    Parameters
    ----------
    error
        As huggingface_hub raised it.
    path
        Name of the data set.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{_endpoint()}/datasets/{path}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set: unset it, or fetch it first where the hub can be reached (`hf download {path} --repo-type dataset`)"
    if isinstance(error, GatedRepoError):
        return f"it is gated: accept its terms at {page}, and log in with that account ({_log_in()})"
    if isinstance(error, RevisionNotFoundError):
        return (
            f"it has no such revision: set the source's revision to a branch, a tag or a commit of {page}/commits/main"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the file is not there: look at {page}/tree/main"
    if isinstance(error, RepositoryNotFoundError):
        return f"check the name, which is owner/name; if it is private, log in ({_log_in()})"
    if _status(error) == 401:
        return f"the token is not valid: log in again ({_log_in()})"
    if _status(error) == 403:
        return f"the token may not read it: give it the permission, or log in with another one ({_log_in()})"
    return f"see whether {_endpoint()} can be reached from here, and start the command again"


def explain(error: BaseException, path: str) -> str:
    """Beginning of an error's text on one line, and what to do about it."""
    return f"{one_line(error)[:_MOST_CHARACTERS]}; {advise(error, path)}"


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _log_in() -> str:
    known = "HF_TOKEN is set now" if os.environ.get("HF_TOKEN") else "or set HF_TOKEN"
    return f"`hf auth login`, {known}"
