"""Passwords and signatures in URLs: settings that hold them are refused, since settings are recorded, and messages hide them."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_WEB = ("http", "https", "ftp")
"""Schemes in which a user name alone is a token; elsewhere it is a name (`sftp`), or no user (`abfs://container@account`)."""
_WORDS = frozenset(
    (
        "sig",
        "token",
        "secret",
        "key",
        "auth",
        "authorization",
        "jwt",
        "sas",
        "pass",
        "passwd",
        "pwd",
        "expires",
        "expiry",
    )
)
"""Words of a parameter's name that say it lets its bearer in, or that it came with one that does."""
_ENDS = ("signature", "token", "secret", "password", "credential", "credentials", "apikey", "accesskey")
_PART_OF_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_OF_URLS = r"[^\s'\"<>]*"


class _Secret(NamedTuple):
    what: str
    begin: int
    end: int


def refuse_secrets(name: str, text: str) -> None:
    """Refuse a setting that is, or holds, a URL with a password or a signed query.

    Parameters
    ----------
    name
        The setting, for the message.
    text
        Its value.

    Raises
    ------
    ValueError
        It lets its bearer in; the message hides what does.
    """
    found = _find(text)
    if found is None:
        return
    raise ValueError(
        f"{name}={hide_secrets(text, whole=True)} holds {found.what}, and settings are recorded with the results: leave it out, "
        "and give it in the environment or in the service's own configuration (~/.config/fsspec for data; "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.pgpass, for MLflow), or download the files"
    )


def hide_secrets(text: str, *, whole: bool = False) -> str:
    """Put `...` in place of the passwords and signed queries of all URLs in a text.

    Parameters
    ----------
    text
        A message, or a setting.
    whole
        Whether the text is one setting, in which spaces and quotes do not end a URL.
    """
    while (found := _find(text, whole=whole)) is not None:
        text = f"{text[: found.begin]}...{text[found.end :]}"
    return text


def _find(text: str, *, whole: bool = True) -> _Secret | None:
    """Find the first secret in a text."""
    for scheme in _SCHEME.finditer(text):
        begin = scheme.end()
        end = len(text) if whole else begin + len(_match(_OF_URLS, text[begin:]))
        host = begin + len(_match(r"[^/?#\s'\"<>]*", text[begin:end]))
        user, _, _ = text[begin:host].rpartition("@")
        if user and user != "..." and (":" in user or scheme[1].lower() in _WEB):
            return _Secret("a password" if ":" in user else "a user or a token", begin, begin + len(user))
        query = host + len(_match(r"[^?#]*", text[host:end])) + 1
        name = _signing_parameter(text[query:end])
        if name is not None:
            return _Secret(f"a signed query ({name})", query, end)
    return None


def _match(pattern: str, text: str) -> str:
    found = re.match(pattern, text)
    return found[0] if found else ""


def _signing_parameter(query: str) -> str | None:
    """Name of the first parameter of a query that lets its bearer in."""
    for item in re.split(r"[?&;#]", query):
        name, _, value = item.partition("=")
        words = [word.lower() for word in _PART_OF_NAME.findall(unquote(name))]
        if value and any(word in _WORDS or word.endswith(_ENDS) for word in words):
            return name
    return None
