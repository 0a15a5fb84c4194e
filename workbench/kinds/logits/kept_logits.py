"""Kept logits on the disk: what a stage's checkpoints hold, and what a student reads of them.

A checkpoint at some tokens holds the sequences from the one before it up to there:

checkpoints/step_<sequences>/
  manifest.json      as any checkpoint's, with `logits`: first and last sequence, context, ids a token, dtypes
  ids.bin            little endian, (sequences, context, k), most probable first
  log_q.bin          fp16, likewise: natural logarithms of their probabilities among all ids

Shapes: n sequences, T tokens a sequence, k ids a token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.study.layout import StageDir
from workbench.train import checkpoint as ckpt

IDS, LOG_Q = "ids.bin", "log_q.bin"
WORK, PROGRESS = "logits", "progress.json"
"""Folder of the files that become the next checkpoint, and what says in it how much of them is on the disk."""
LOG_Q_DTYPE = np.dtype("<f2")
_CHUNK_BYTES = 16 << 20
_WEIGHTS = "model.safetensors"
"""As `workbench.model.weights` has it, which a plan need not wait for."""


def ids_dtype(vocab_size: int) -> np.dtype[Any]:
    """Narrowest dtype of the two that holds all ids."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")


def bytes_per_token(top_k: int, vocab_size: int) -> int:
    """Bytes of one token's ids and log-probabilities on disk."""
    return top_k * (ids_dtype(vocab_size).itemsize + LOG_Q_DTYPE.itemsize)


@dataclass(frozen=True)
class Piece:
    """Sequences [first, stop) in one checkpoint."""

    first: int
    stop: int
    path: Path
    facts: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    time: float

    @property
    def teacher(self) -> str | None:
        """Checksum of the weights that were asked."""
        return weights_checksum(self.facts["teacher_files"])

    def mapped(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Map a file of it into memory, after a look at its size."""
        shape = (self.stop - self.first, self.facts["context_tokens"], self.facts["top_k"])
        path = self.path / name
        size = path.stat().st_size if path.is_file() else 0
        if size != dtype.itemsize * np.prod(shape):
            raise ckpt.DamagedCheckpointError(self.path, f"{name} has {size} bytes, too few or too many for {shape}")
        return np.memmap(path, dtype, "r", shape=shape)


def weights_checksum(files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Find the checksum of a teacher's weights among those of its checkpoint's files; the others may come and go."""
    return files.get(_WEIGHTS, {}).get("sha256")


def put_others_aside(stage_dir: StageDir, teacher: str | None) -> list[Path]:
    """Move the pieces of other weights than these out of the way; their new paths. The caller holds the stage's lock."""
    return [ckpt.put_aside(piece.path) for piece in _all_pieces(stage_dir) if piece.teacher != teacher]


def _pieces(stage_dir: StageDir) -> list[Piece]:
    """Pieces of one teacher, the one that was asked last: where it was trained anew, its answers may be others."""
    found = _all_pieces(stage_dir)
    last = max(found, key=lambda piece: piece.time, default=None)
    return [piece for piece in found if last is not None and piece.teacher == last.teacher]


def _all_pieces(stage_dir: StageDir) -> list[Piece]:
    manifests = {path: ckpt.read_manifest(path) for path in ckpt.checkpoints_by_tokens(stage_dir).values()}
    return [
        Piece(m["logits"]["first"], m["logits"]["stop"], path, m["logits"], m["files"], m["time"])
        for path, m in manifests.items()
    ]


def covered(stage_dir: StageDir, first: int) -> int:
    """Sequence up to which checkpoints have all from `first` on, without a gap."""
    return _covered(_pieces(stage_dir), first)


def _covered(pieces: list[Piece], first: int) -> int:
    while reaching := [piece.stop for piece in pieces if piece.first <= first < piece.stop]:
        first = max(reaching)
    return first


def next_gap(stage_dir: StageDir, first: int, ends: Iterable[int]) -> range | None:
    """Give the first sequences from `first` on that no checkpoint has; None if all up to the last of `ends` are there.

    They end at the next of `ends`, or where a checkpoint goes on: what is lost is made again in the pieces that it had.
    """
    pieces, ends = _pieces(stage_dir), list(ends)
    begin = _covered(pieces, first)
    if begin >= max(ends):
        return None
    return range(begin, min(at for at in (*ends, *(piece.first for piece in pieces)) if at > begin))


def read_progress(stage_dir: StageDir) -> dict[str, Any]:
    """Read which sequences, from `first` to before `next`, are on the disk beside the checkpoints; empty if none."""
    path = stage_dir.path / WORK / PROGRESS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def count_kept(stage_dir: StageDir, first: int, stop: int) -> int:
    """Count the sequences of [first, stop) that are safe on the disk, in checkpoints or beside them."""
    pieces, noted = _pieces(stage_dir), read_progress(stage_dir)
    found = [range(piece.first, piece.stop) for piece in pieces]
    if noted.get("first") == _covered(pieces, first):  # else they are begun anew
        found.append(range(noted["first"], noted["next"]))
    total, end = 0, first
    for each in sorted(found, key=lambda sequences: sequences.start):
        reached = min(each.stop, stop)
        total += max(0, reached - max(each.start, end))
        end = max(end, reached)
    return total


def _chain(pieces: list[Piece], first: int, stop: int) -> list[Piece]:
    """Fewest pieces that have the sequences from `first` on without a gap, as far as they go."""
    chosen: list[Piece] = []
    while first < stop:
        reaching = [piece for piece in pieces if piece.first <= first < piece.stop]
        if not reaching:
            break
        chosen.append(max(reaching, key=lambda piece: piece.stop))
        first = chosen[-1].stop
    return chosen


class Verification:
    """Hashes a piece's files, some at a time, so that nobody has to wait for all of them."""

    def __init__(self, piece: Piece) -> None:
        self._piece, self._left = piece, list(piece.files)
        self._at, self._hash = 0, hashlib.sha256()

    def go_on(self, seconds: float) -> bool:
        """Hash for about so long, and a chunk at least; whether all is hashed.

        Raises
        ------
        DamagedCheckpointError
            A file is missing, or is not what the manifest says.
        """
        deadline = time.monotonic() + seconds
        while self._left:
            self._read()
            if time.monotonic() >= deadline:
                break
        return not self._left

    def _read(self) -> None:
        name = self._left[0]
        try:
            with (self._piece.path / name).open("rb") as file:
                file.seek(self._at)
                data = file.read(_CHUNK_BYTES)
        except OSError as error:
            raise ckpt.DamagedCheckpointError(self._piece.path, f"{name} cannot be read ({error})") from error
        self._hash.update(data)
        self._at += len(data)
        if len(data) < _CHUNK_BYTES:
            if self._hash.hexdigest() != self._piece.files[name]["sha256"]:
                raise ckpt.DamagedCheckpointError(self._piece.path, f"{name} does not match its checksum")
            self._left.pop(0)
            self._at, self._hash = 0, hashlib.sha256()


def find_pieces(stage_dir: StageDir, first: int, stop: int) -> list[Piece]:
    """Fewest pieces that hold sequences [first, stop) of the stream.

    Raises
    ------
    ValueError
        They are not all there.
    """
    pieces = _chain(_pieces(stage_dir), first, stop)
    last = pieces[-1].stop if pieces else first
    if last < stop:
        raise ValueError(
            f"stage {stage_dir.id} has its teacher's logits up to sequence {last}, but {first} to {stop} are needed: "
            "run the study again"
        )
    return pieces


class KeptLogits:
    """What a teacher said of a stream's sequences.

    Parameters
    ----------
    pieces
        As `find_pieces` gives them. Their files' sizes are checked here, and their checksums by whoever reads them.

    Raises
    ------
    DamagedCheckpointError
        A file has another size than its manifest says.
    """

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = [
            (piece, piece.mapped(IDS, np.dtype(piece.facts["ids_dtype"])), piece.mapped(LOG_Q, LOG_Q_DTYPE))
            for piece in pieces
        ]
        self._unverified = list(pieces)

    def take_unverified(self, sequences: range) -> list[Piece]:
        """Give the pieces of these sequences that were not given before."""
        found = [p for p in self._unverified if p.first < sequences.stop and sequences.start < p.stop]
        self._unverified = [piece for piece in self._unverified if piece not in found]
        return found

    def batch(self, sequences: range) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Ids, int32, and log-probabilities, fp16, of sequences: both (n, T, k)."""
        ids: list[NDArray[Any]] = []
        log_q: list[NDArray[Any]] = []
        at = sequences.start
        while at < sequences.stop:
            piece, all_ids, all_log_q = next(each for each in self._pieces if each[0].first <= at < each[0].stop)
            rows = slice(at - piece.first, min(sequences.stop, piece.stop) - piece.first)
            ids.append(all_ids[rows])
            log_q.append(all_log_q[rows])
            at = min(sequences.stop, piece.stop)
        return np.concatenate(ids).astype(np.int32), np.concatenate(log_q)
