"""A small hub on this machine, with the few routes of the Hugging Face hub that reading data sets uses.

    GET      /api/datasets/<name>[/revision/<revision>]           the commit
    GET      /api/datasets/<name>/tree/<revision>[/<folder>]      files, in pages that `Link` joins
    HEAD GET /datasets/<name>/resolve/<revision>/<file>           small files themselves, large ones by a redirect to
    GET      /content/<sha256>                                    on another address, as the hub's own storage has one

Answers have the headers that huggingface_hub reads: `X-Repo-Commit`, `ETag`, `X-Linked-Etag`, `X-Linked-Size`, `X-Error-Code`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

_PAGE = 3
"""Entries of a tree a page."""


def git_hash(content: bytes) -> str:
    """Name of a file's content in git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class DataSet:
    """A repository: commits with all their files, and what its branches are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """Who may read it; None is everybody."""
    gated: bool = False
    """Whether everybody may list it."""

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put other files on a branch, and give the commit."""
        before = self.commits.get(self.branches.get(branch, ""), {})
        name = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[name] = {**before, **files}
        self.branches[branch] = name
        return name


class HubServer:
    """Serves data sets on a port of this machine, as long as a test takes."""

    def __init__(self) -> None:
        """Begin to serve."""
        self.sets: dict[str, DataSet] = {}
        self.asked: list[str] = []
        """Method and path of each request; of ranges the header, too."""
        self.tokens: list[tuple[str, str | None]] = []
        """Path and `authorization` of each request."""
        self.break_after: dict[str, list[int]] = {}
        """By file, after how many bytes the next answers end."""
        self.status: int | None = None
        """What every request is answered with; None answers it."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """The same server under another name, which must get no token."""
        return f"http://localhost:{self.port}"

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        names = {
            hashlib.sha256(content).hexdigest(): name
            for data in self.sets.values()
            for files in data.commits.values()
            for name, content in files.items()
        }
        return [names[line.split("/")[-1].split(" ")[0]] for line in self.asked if " /content/" in line]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        asked_range = self.headers.get("Range")
        self.hub.asked.append(f"{self.command} {path}" + (f" {asked_range}" if asked_range else ""))
        self.hub.tokens.append((path, self.headers.get("authorization")))
        if self.hub.status is not None:
            self._send(self.hub.status, {}, b"", with_body)
        elif found := re.fullmatch(r"/content/([0-9a-f]{64})", path):
            self._send_content(found[1], with_body)
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._with_commit(found[1], found[2] or "main", with_body, self._send_commit, may_list=True)
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
            send = lambda name, commit, files, body: self._send_tree(files, found[3] or "", body)  # noqa: E731
            self._with_commit(found[1], found[2], with_body, send, may_list=True)
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            send = lambda name, commit, files, body: self._send_file(commit, files, found[3], body)  # noqa: E731
            self._with_commit(found[1], found[2], with_body, send, may_list=False)
        else:
            self._refuse(404, "", with_body)

    def _with_commit(self, name: str, revision: str, with_body: bool, send: Any, *, may_list: bool) -> None:
        data = self.hub.sets.get(name)
        given = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        if data is not None and data.token is not None and given != data.token and not (data.gated and may_list):
            code = "GatedRepo" if data.gated else "RepoNotFound"
            self._refuse(403 if given and data.gated else 401, code, with_body)
        elif data is None:
            self._refuse(404 if given else 401, "RepoNotFound", with_body)
        else:
            commit = data.branches.get(revision, revision)
            if commit not in data.commits:
                self._refuse(404, "RevisionNotFound", with_body)
            else:
                send(name, commit, data.commits[commit], with_body)

    def _send_commit(self, name: str, commit: str, files: dict[str, bytes], with_body: bool) -> None:
        siblings = [{"rfilename": file} for file in files]
        self._send_json({"id": name, "sha": commit, "siblings": siblings}, {}, with_body)

    def _send_tree(self, files: dict[str, bytes], folder: str, with_body: bool) -> None:
        inside = {name: content for name, content in files.items() if not folder or name.startswith(f"{folder}/")}
        if not inside:
            self._refuse(404, "EntryNotFound", with_body)
            return
        folders = {"/".join(name.split("/")[:i]) for name in inside for i in range(1, name.count("/") + 1)}
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": each} for each in sorted(folders)]
        for name, content in inside.items():
            entry = {"type": "file", "oid": git_hash(content), "size": len(content), "path": name}
            if is_large(name):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        query = dict(part.split("=") for part in urlsplit(self.path).query.split("&"))
        begin = int(query.get("cursor", 0))
        headers = {}
        if begin + _PAGE < len(entries):
            address = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={begin + _PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._send_json(entries[begin : begin + _PAGE], headers, with_body)

    def _send_file(self, commit: str, files: dict[str, bytes], name: str, with_body: bool) -> None:
        if name not in files:
            self._refuse(404, "EntryNotFound", with_body)
            return
        content = files[name]
        headers = {"X-Repo-Commit": commit}
        if not is_large(name):
            self._send(200, {**headers, "ETag": f'"{git_hash(content)}"'}, content, with_body)
            return
        digest = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._send(302, {**headers, "Location": f"{self.hub.storage}/content/{digest}"}, b"", with_body)

    def _send_content(self, digest: str, with_body: bool) -> None:
        every = (files for data in self.hub.sets.values() for files in data.commits.values())
        name, content = next(
            (name, content)
            for files in every
            for name, content in files.items()
            if hashlib.sha256(content).hexdigest() == digest
        )
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"ETag": f'"{digest}"'}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        breaks = self.hub.break_after.get(name)
        self._send(206 if begin else 200, headers, content[begin:], with_body, breaks.pop(0) if breaks else None)

    def _send_json(self, value: Any, headers: dict[str, str], with_body: bool) -> None:
        self._send(200, {"Content-Type": "application/json", **headers}, json.dumps(value).encode(), with_body)

    def _refuse(self, status: int, code: str, with_body: bool) -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": code} if code else {}, b"", with_body)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, with_body: bool, break_after: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        self.wfile.write(body[:break_after])
        if break_after is not None:
            self.close_connection = True  # in the middle of the content that was promised


def is_large(name: str) -> bool:
    """Whether a file is kept outside git, where its hash is SHA-256."""
    return not name.endswith((".md", ".json", ".py"))
