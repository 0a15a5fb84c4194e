"""Services that do not answer, told apart from those that refuse: nothing is wrong with the input, and asking again may do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

_ERRNOS = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENETRESET, errno.ETIMEDOUT)
)
_CLASSES = frozenset(
    (
        *("ConnectionError", "TimeoutError", "gaierror", "SSLError"),  # Python
        "TransportError",  # httpx and google.auth
        *("ClientConnectionError", "ClientPayloadError"),  # aiohttp
        "HTTPClientError",  # botocore
        *("ServiceRequestError", "ServiceResponseError"),  # azure.core
    )
)
"""Names of classes, also of libraries that need not be installed: an error counts where one of its bases is called so."""
_NOT_NOW = (408, 429)


class OutOfReachError(ValueError):
    """A service does not answer, or not now.

    Parameters
    ----------
    text
        What was asked, and what to do.
    may_pass
        Whether it may answer when it is asked again soon; not where this user has told the library not to ask.
    """

    def __init__(self, text: str, *, may_pass: bool = True) -> None:
        super().__init__(text)
        self.may_pass = may_pass


def is_out_of_reach(error: BaseException) -> bool:
    """Whether an error, or what it was raised for, says that a service does not answer, or not now (HTTP 408, 429, 5xx)."""
    return next((verdict for each in _chain(error) if (verdict := _judge(each)) is not None), False)


def _judge(error: BaseException) -> bool | None:
    """Judge one error; None where it says nothing of that."""
    if isinstance(error, PermissionError):
        return False
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _NOT_NOW
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    return True if _CLASSES & {base.__name__ for base in type(error).__mro__} else None


def _status(error: Any) -> int | None:
    """HTTP status that an error has, by the names that libraries use."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) and found >= 400 else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised for."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
