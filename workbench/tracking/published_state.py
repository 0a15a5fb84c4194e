"""What the last publishing of a study left: where neither its files nor the store have changed since, there is nothing to do.

`studies/<study>/published.json` holds a digest of everything that publishing reads, by size, times and inode, and the
state of the store. It says that everything was there, never what: where it is missing, does not fit or is in doubt, all is
compared again. It is in doubt

- while a publishing is under way, and after one that did not come to its end: what a server carries out late must be
  found, so the next one does not count either;
- where a stage runs, or a result was damaged;
- where a file changed so shortly before that a second change might have had the same time.

An SQLite file is known by its inode, size, time and SQLite's own count of its transactions, so that any change by
anybody is seen. Of a server one experiment is asked for, which has the last publishing's mark; what was deleted there by
hand is found again with the next that has something to send, or once `published.json` is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import workbench
from workbench.study.files import write_atomically
from workbench.study.layout import Layout, StageDir
from workbench.tracking.connection import database_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MARK = "workbench.published"
"""Tag of an experiment: the last publishing after which everything was there."""
SETTLED_SECONDS = 2.0
"""A file that changed less long ago may change again without a later time: file systems count in up to this."""
_CODE = ("config", "study", "tracking")
"""Packages that decide what is published of the same files."""


@dataclass(frozen=True)
class Snapshot:
    """Files as they were before they were read."""

    digest: str
    """Hash of their names, sizes, times and inodes, and of the code that reads them."""
    settled: bool
    """Whether none had changed just before."""


class PublishedState:
    """The record beside one study of what one store has of it."""

    def __init__(self, layout: Layout, study: str, uri: str) -> None:
        self.layout, self.study, self.uri = layout, study, uri
        self.path = layout.study(study) / "published.json"
        self._before: list[Any] | None = None

    def is_current(self, client: MlflowClient | None = None) -> bool:
        """Whether the store has all that the files say; False where it is not known.

        Parameters
        ----------
        client
            Of the store; without it a server is not asked, so that only an SQLite file can be current.
        """
        record = self._read()
        if not record.get("complete") or record.get("uri") != self.uri:
            return False
        store = self._store(client)
        if store is None or record.get("store") != store:
            return False
        snapshot = self.take()
        return snapshot is not None and record.get("files") == snapshot.digest

    def take(self) -> Snapshot | None:
        """Look at the files; None where the study has none that can be read."""
        now, newest, digest = time.time_ns(), 0, hashlib.sha256(f"{_code_digest()}\0{self.uri}\0".encode())
        digest.update(f"{self.layout.root.resolve()}\0".encode())  # tags name paths
        try:
            plan = self.layout.study_file(self.study).read_bytes()
            digest.update(plan)
            for path in _files(self.layout, self.study, json.loads(plan)["stages"]):
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue
                newest = max(newest, status.st_mtime_ns)
                facts = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                digest.update(f"{path}\0{facts}\0".encode())
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Snapshot(digest.hexdigest(), now - newest > SETTLED_SECONDS * 1e9)

    def begin(self) -> bool:
        """Note that a publishing is under way; return whether the last one came to its end."""
        ended, database = self._read().get("complete") is not False, database_file(self.uri)
        self._before = None if database is None else _sqlite_state(database)
        self._write({"complete": False})
        return ended

    def end(self, client: MlflowClient, run: Run, files: Snapshot | None) -> None:
        """Note that the store has all of these files; None says that it may not. `run` is the study's own."""
        store = self._mark(client, run) if files is not None and files.settled else None
        if files is None or store is None:
            self.path.unlink(missing_ok=True)
        else:
            self._write({"complete": True, "uri": self.uri, "files": files.digest, "store": store})

    def renew(self, client: MlflowClient, run: Run) -> None:
        """Note the store's state after a change of one's own to what publishing does not compare."""
        store = self._mark(client, run)
        if store is not None:
            self._write({**self._read(), "store": store})

    def _mark(self, client: MlflowClient, run: Run) -> list[Any] | None:
        """Mark the store, and return its state; None where the mark did not get there.

        A process that had MLflow connect to an SQLite file before may still write to that one after it was replaced.
        """
        database, experiment = database_file(self.uri), run.info.experiment_id
        mark = client.get_experiment(experiment).tags.get(MARK, "")
        # A write would tell the other studies in the file that something is new.
        untouched = database is not None and _sqlite_state(database) == self._before
        if not untouched or not _has_mark(database, run, mark):
            mark = uuid.uuid4().hex
            client.set_experiment_tag(experiment, MARK, mark)
        if database is not None and not _has_mark(database, run, mark):
            return None
        return self._store(client)

    def _store(self, client: MlflowClient | None) -> list[Any] | None:
        """State of the store; None where it is not known."""
        database = database_file(self.uri)
        if database is not None:
            return _sqlite_state(database)
        found = None if client is None else client.get_experiment_by_name(self.study)
        if found is None or found.lifecycle_stage != "active" or MARK not in found.tags:
            return None
        return [found.experiment_id, found.tags[MARK]]

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, record: dict[str, Any]) -> None:
        write_atomically(self.path, json.dumps(record))


def _sqlite_state(database: Path) -> list[Any] | None:
    """Path, inode, size, time and count of transactions; None where these do not tell of every change."""
    try:
        with database.open("rb") as file:
            header, status = file.read(100), os.fstat(file.fileno())
    except OSError:
        return None
    # https://www.sqlite.org/fileformat.html: bytes 18 and 19 are 2 under write-ahead logging, whose changes stand in
    # another file; 24 to 27 count transactions. A journal that is left is a transaction that was cut off.
    if len(header) < 100 or header[18:20] != b"\1\1" or database.with_name(f"{database.name}-journal").exists():
        return None
    return [str(database), status.st_ino, status.st_size, status.st_mtime_ns, int.from_bytes(header[24:28], "big")]


def _has_mark(database: Path | None, run: Run, mark: str) -> bool:
    """Whether the file itself has the study's own run, and its experiment the mark."""
    if database is None:
        return False
    query = 'select value from experiment_tags join runs using (experiment_id) where run_uuid = ? and experiment_id = ? and "key" = ?'
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(query, (run.info.run_id, int(run.info.experiment_id), MARK)).fetchone()
            return found == (mark,)
    except (sqlite3.Error, ValueError):
        return False


def _files(layout: Layout, study: str, stages: Iterable[str]) -> Iterator[Path]:
    """Everything but the study's plan that `workbench.tracking.intended` reads for it, there or not."""
    for plan in sorted((layout.root / "studies").glob("*/study.json")):
        if plan.parent.name != study:  # which study bears a stage's cost
            yield plan
    for stage in stages:
        directory = layout.stage(stage)
        yield from (directory.config, directory.status, directory.metrics)
        yield from sorted(directory.code.rglob("*"))
        yield from _checkpoint_files(directory)


def _checkpoint_files(directory: StageDir) -> Iterator[Path]:
    """Manifests and results of a stage's checkpoints."""
    for checkpoint in _list(directory.checkpoints):
        yield checkpoint / "manifest.json"
        yield from _list(checkpoint / "evals")


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@cache
def _code_digest() -> str:
    """Hash of the code that decides what is published: a later version may send more of the same files."""
    root, digest = Path(workbench.__file__).parent, hashlib.sha256()
    for package in _CODE:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
