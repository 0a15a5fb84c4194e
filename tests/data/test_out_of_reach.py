"""Errors of many libraries: which say that a service does not answer, and which that it refuses."""

from __future__ import annotations

import errno
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.data.out_of_reach import is_out_of_reach


def of(*names: str, **attributes: Any) -> Exception:
    """An error whose bases are called so, with attributes."""
    kind: type = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {})
    error = kind("said")
    vars(error).update(attributes)
    return error


def raised_for(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), True),
        (TimeoutError(), True),
        (socket.gaierror(-2, "Name or service not known"), True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), True),
        (of("ConnectError", "NetworkError", "TransportError"), True),  # httpx
        (of("ServerDisconnectedError", "ServerConnectionError", "ClientConnectionError"), True),  # aiohttp
        (of("EndpointConnectionError", "ConnectionError", "BotoCoreError"), True),
        (of("ClientResponseError", status=503), True),
        (of("ClientResponseError", status=404), False),
        (of("HttpError", code=429), True),  # gcsfs
        (of("HttpError", code=403), False),
        (of("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 503}}), True),  # botocore
        (of("ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 403}}), False),
        (of("HTTPError", response=SimpleNamespace(status_code=502)), True),
        (of("HTTPError", response=SimpleNamespace(status_code=401)), False),
        (raised_for(FileNotFoundError("https://host/x"), ConnectionResetError()), True),  # as fsspec says it
        (raised_for(FileNotFoundError("https://host/x"), of("ClientResponseError", status=404)), False),
        (raised_for(of("HTTPError", response=SimpleNamespace(status_code=403)), TimeoutError()), False),
        (raised_for(PermissionError("no"), TimeoutError()), False),
        (FileNotFoundError(errno.ENOENT, "nothing"), False),
        (OSError(errno.EIO, "a disk"), False),
        (ValueError("x"), False),
        (KeyError("code"), False),
    ],
)
def test_silence_is_told_from_refusal(error: Exception, wanted: bool):
    assert is_out_of_reach(error) == wanted
