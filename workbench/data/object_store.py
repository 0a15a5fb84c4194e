"""Files at URLs that fsspec knows (`s3://`, `gs://`, `https://`): listed with size and version, read in place by byte ranges.

Keys and addresses of services are fsspec's own: environment variables, and `~/.config/fsspec`.
"""

from __future__ import annotations

import io
import re
import stat
from datetime import datetime
from functools import lru_cache
from os import stat_result
from pathlib import Path, PosixPath
from typing import Any

from workbench.data.inputs import file_endings, some_names
from workbench.data.out_of_reach import OutOfReachError, is_out_of_reach
from workbench.data.remote_files import RemoteFile, describe_near
from workbench.data.unpack import one_line

_VERSIONS = {
    "etag": ("ETag", "etag"),
    "md5": ("md5Hash", "content_md5"),
    "time": ("LastModified", "last_modified", "updated", "mtime", "modified", "created"),
}
"""What a service may say that changes with a file's bytes, the surest first, and the names that fsspec's packages use for it."""
_OF_VERSION = re.compile(r"[?]versionId=[^?*/\[]+$")
"""How an object store's URL ends that means one version of one object."""
_MOST_NAMES = 1000
"""Names that are looked at to tell which ones are near."""


@lru_cache(maxsize=64)
def list_objects(url: str, kind: str) -> tuple[RemoteFile, ...]:
    """List the files that a URL stands for, sorted: a file, a folder with all folders inside it, or a glob.

    Each process asks once (see `forget_lists`).

    Parameters
    ----------
    url
        As it stands in a source's `path`.
    kind
        The source's; in a folder it decides by the ending which files are read.

    Raises
    ------
    ValueError
        fsspec needs a package, the service refuses, there is no file, or one has no version.
    workbench.data.out_of_reach.OutOfReachError
        The service does not answer.
    """
    system = _open_system(url)
    try:
        found = _find(system, url, kind)
    except Exception as error:  # of many classes: every package has its own
        if not isinstance(error, FileNotFoundError) or is_out_of_reach(error):
            raise _explain(f"data source path={url!r} cannot be listed", error) from error
        found = {}
    if not found:
        raise ValueError(f"data source path={url!r}: {_why_none(system, url, kind)}")
    return tuple(_describe(system, name, found[name]) for name in sorted(found))


def forget_lists() -> None:
    """Ask again at the next listing."""
    list_objects.cache_clear()


_ADVICE = (
    "check the address and what this user may read (keys are fsspec's: environment variables, or ~/.config/fsspec)"
)


@lru_cache(maxsize=64)
def _open_system(url: str) -> Any:
    import fsspec

    scheme = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        raise ValueError(
            f"data source path={url!r}: {one_line(error)}: `pip install` it into this environment, or download the files"
        ) from error
    except ValueError as error:
        raise ValueError(f"data source path={url!r}: fsspec knows no {scheme}:// ({one_line(error)})") from error
    except Exception as error:  # a package may ask for keys at once
        raise _explain(f"data source path={url!r} cannot be opened", error) from error


def _explain(what: str, error: BaseException) -> ValueError:
    """Give what to raise for an error of a service, which refuses or does not answer."""
    said = one_line(error)[:300]
    if is_out_of_reach(error):
        return OutOfReachError(
            f"{what}: the service does not answer ({said}); check the address, or start the command again later"
        )
    return ValueError(f"{what}: {said}; {_ADVICE}")


def _find(system: Any, url: str, kind: str) -> dict[str, dict[str, Any]]:
    """Facts of the files that a URL stands for, by their names in a file system."""
    system.invalidate_cache()
    if _is_glob(url):
        return {name: facts for name, facts in system.glob(url, detail=True).items() if facts["type"] == "file"}
    facts = system.info(url)
    if facts["type"] == "file":
        return {system._strip_protocol(url): facts}
    endings = file_endings(kind)
    return {name: facts for name, facts in system.find(url, detail=True).items() if _is_read(name, endings)}


def _is_glob(url: str) -> bool:
    """Whether a URL names several files: a `?` begins a query on the web, and where it asks for a version of one object."""
    is_query = url.startswith("http") or _OF_VERSION.search(url) is not None
    return any(character in url for character in "*[") or ("?" in url and not is_query)


def _is_read(name: str, endings: tuple[str, ...]) -> bool:
    last = name.rpartition("/")[2]
    return last.lower().endswith(endings) and not last.startswith(".")


def _why_none(system: Any, url: str, kind: str) -> str:
    """Say in words why a URL stands for no file, with what would stand for some."""
    folder = url
    while _is_glob(folder) or not _is_folder(system, folder):
        folder, _, last = folder.rpartition("/")
        if not last or folder.endswith(":/") or not folder:
            return f"nothing is there; {_ADVICE}"
    if folder == url:
        return f"no {' or '.join(file_endings(kind))} file is in that folder"
    names = [system.unstrip_protocol(name) for name in list(system.find(folder))[:_MOST_NAMES]]
    return f"nothing there matches; {describe_near(names, [url])}" if names else f"{some_names([folder])} holds no file"


def _is_folder(system: Any, url: str) -> bool:
    try:
        return bool(system.isdir(url))
    except Exception:  # a service may refuse its top folder
        return False


def _describe(system: Any, name: str, facts: dict[str, Any]) -> RemoteFile:
    """Give a file with its size and the surest version that the service says."""
    url = name if "://" in name else system.unstrip_protocol(name)
    if facts.get("size") is None or not _versions(facts):
        facts = system.info(name)  # some listings say less
    size, versions = facts.get("size"), _versions(facts)
    if size is None or not versions:
        missing = "size" if size is None else "ETag, checksum or time"
        raise ValueError(
            f"{url}: the service says no {missing} of it, so that a change could not be seen: download the file"
        )
    return RemoteFile(url, int(size), versions[0])


def _versions(facts: dict[str, Any]) -> list[str]:
    """Versions that a service says, the surest first."""
    found = ((kind, facts.get(name)) for kind, names in _VERSIONS.items() for name in names)
    return [f"{kind}:{_plain(value)}" for kind, value in found if value]


def _plain(value: Any) -> str:
    """Write a version in one way: some services give a time as a number in one answer and as a date in another."""
    seconds = value.timestamp() if isinstance(value, datetime) else value
    return f"{seconds:.6f}" if isinstance(seconds, float) else str(seconds).strip('"')


def open_object(file: RemoteFile) -> Path:
    """Give a file at a URL as a path that the readers open.

    Raises
    ------
    ValueError
        It is not what it was when it was listed, or not there.
    workbench.data.out_of_reach.OutOfReachError
        The service does not answer.
    """
    system = _open_system(file.name)
    system.invalidate_cache()
    try:
        facts = system.info(file.name)
    except Exception as error:  # of many classes: every package has its own
        raise _explain(f"{file.name} cannot be read", error) from error
    now = _versions(facts)
    if facts.get("size") != file.size or file.content not in now:
        raise ValueError(
            f"{file.name} has {facts.get('size')} bytes ({', '.join(now)}) and had {file.size} ({file.content}) when it was "
            "planned: leave inputs as they are while they are read, or prepare again"
        )
    return RemotePath(file, system)


def without_query(url: str) -> str:
    """Give the name by whose ending a file is read: a URL without the query of the web, or of one version of an object."""
    return url.partition("?")[0] if url.startswith("http") or _OF_VERSION.search(url) else url


class RemotePath(PosixPath):
    """A file at a URL, as far as the readers need a path: its name, its size, and its bytes."""

    _file: RemoteFile
    _system: Any

    def __new__(cls, file: RemoteFile, system: Any) -> RemotePath:
        """Take a file as it was listed, and the file system that has it."""
        self = super().__new__(cls, without_query(file.name))
        self._file, self._system = file, system
        return self

    def __init__(self, file: RemoteFile, system: Any) -> None:
        """Do what `__new__` did; of newer Pythons' paths both are called."""
        if PosixPath.__init__ is not object.__init__:
            super().__init__(without_query(file.name))  # type: ignore[call-arg]

    def __str__(self) -> str:
        """Give the URL."""
        return self._file.name

    def stat(self, *, follow_symlinks: bool = True) -> stat_result:
        """Say the size alone."""
        return stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, self._file.size, 0, 0, 0))

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """Open it for reading bytes: ranges are fetched as they are read."""
        assert mode == "rb", mode
        try:
            file = _Ranges(self._system.open(self._file.name, "rb"), self._file.name)
        except Exception as error:
            raise _explain(f"{self._file.name} cannot be read", error) from error
        return file if buffering == 0 else io.BufferedReader(file)


class _Ranges(io.RawIOBase):
    """A file that is fetched as it is read; an error of the service is no error of the file, for which readers would take it."""

    def __init__(self, file: Any, name: str) -> None:
        self._file, self.name = file, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0, /) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int:
        place = self._file.tell()
        try:
            content = self._file.read(len(buffer))
        except Exception as error:
            raise _explain(f"{self.name} cannot be read behind byte {place}", error) from error
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
