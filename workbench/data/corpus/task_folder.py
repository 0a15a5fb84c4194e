"""The folder in which a corpus is built: what each task leaves, and the record that says it is done.

A task writes into a folder of its own, at the paths that its files shall have. When it ends they are brought to the
disk and moved to their places, and its record is written last: a task with a record is done, and one without has left
nothing that counts. What a task writes depends on inputs and config alone, so a task that is done again after it was
killed between two files puts the same bytes in the same places. A process that lost its task to another one while it
slept, and with it the folder that it wrote in, moves no files and writes no record.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.data.corpus.task_claims import Claims, Owner
from workbench.study.files import fsync, sha256, write_atomically

STAYS = (
    "heldout",
    "tokenizer",
    "tokens",
    "removed",
    "near_duplicates.json",
    "contamination.json",
    "lengths.json",
)
"""Folders and files that are part of the finished store; all others are work."""


@dataclass(frozen=True)
class Record:
    """What a task says when it is done."""

    facts: dict[str, Any]
    """What it found: a function of inputs and config alone."""
    files: dict[str, dict[str, Any]]
    """By path relative to the folder, `sha256` and `bytes` of the files that stay in the store."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True)
class TaskFolder:
    """A folder of tasks."""

    root: Path
    """The folder."""

    @property
    def claims(self) -> Claims:
        """Who does what; each process keeps one of it."""
        return Claims(self.root / "claims")

    def scratch(self, owner: Owner) -> Path:
        """Folder that an owner's task writes in."""
        return self.root / "scratch" / owner.token

    def path_of_record(self, task: str) -> Path:
        """Where a task's record lies."""
        return self.root / "records" / f"{task}.json"

    def is_done(self, task: str) -> bool:
        """Whether a task is done."""
        return self.path_of_record(task).is_file()

    def done_in(self, phase: str) -> set[str]:
        """Name the tasks of a phase that are done, by one look at a folder."""
        folder = self.root / "records" / phase
        names = [place.name for place in folder.iterdir()] if folder.is_dir() else []
        return {f"{phase}/{name.removesuffix('.json')}" for name in names if not name.startswith(".")}

    def read_record(self, task: str) -> Record:
        """Read the record of a task that is done."""
        return Record(**json.loads(self.path_of_record(task).read_text(encoding="utf-8")))

    def finish(self, task: str, owner: Owner, facts: Mapping[str, Any], seconds: float) -> None:
        """Move a task's files to their places and write its record.

        Parameters
        ----------
        task
            Its name.
        owner
            Who did it, in the folder that is named by the claim.
        facts
            What it found, as JSON.
        seconds
            How long it took.

        Raises
        ------
        workbench.data.corpus.task_claims.LostClaimError
            The task is somebody else's by now, who may have deleted what was written.
        FileNotFoundError
            What was written is gone all the same.
        """
        claims, scratch = self.claims, self.scratch(owner)
        files = sorted(path for path in scratch.rglob("*") if path.is_file())
        names = {path: path.relative_to(scratch).as_posix() for path in files}
        described: dict[str, dict[str, Any]] = {}
        for path, name in names.items():
            fsync(path)
            if name.split("/")[0] in STAYS:
                described[name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
        claims.check(task, owner)  # it was while the files were listed, so that none is missing
        if not scratch.is_dir():
            raise FileNotFoundError(errno.ENOENT, "what a task wrote is gone", str(scratch))
        folders: set[Path] = set()
        for path, name in names.items():
            place = self.root / name
            self._make_folder(place.parent)
            path.replace(place)
            folders.add(place.parent)
        for folder in sorted(folders):
            fsync(folder)
        claims.check(task, owner)
        record = self.path_of_record(task)
        self._make_folder(record.parent)
        write_atomically(record, json.dumps(vars(Record(dict(facts), described, round(seconds, 3))), sort_keys=True))
        fsync(record.parent)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder inside this one, which is not made again where another process has finished it, and moved it away."""
        inside = folder.relative_to(self.root)
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the corpus was finished or deleted", str(self.root))
        for place in (*reversed(inside.parents[:-1]), inside):
            (self.root / place).mkdir(exist_ok=True)

    def discard(self, owner: Owner) -> None:
        """Delete what a task wrote that did not end."""
        shutil.rmtree(self.scratch(owner), ignore_errors=True)
