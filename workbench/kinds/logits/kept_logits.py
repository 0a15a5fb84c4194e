"""Kept logits on the disk: what a stage's checkpoints hold, and what a student reads of them.

A checkpoint at some tokens holds the sequences from the one before it up to there:

checkpoints/step_<sequences>/
  manifest.json      as any checkpoint's, with `logits`: first and last sequence, context, ids a token, dtypes
  ids.bin            little endian, (sequences, context, k), most probable first
  log_q.bin          fp16, likewise: natural logarithms of their probabilities among all ids

Shapes: n sequences, T tokens a sequence, k ids a token.
"""

from __future__ import annotations

import json
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


def ids_dtype(vocab_size: int) -> np.dtype[Any]:
    """Narrowest dtype of the two that holds all ids."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<i4")


def bytes_per_token(top_k: int, vocab_size: int) -> int:
    """Bytes of one token's ids and log-probabilities on disk."""
    return top_k * (ids_dtype(vocab_size).itemsize + LOG_Q_DTYPE.itemsize)


@dataclass(frozen=True)
class _Piece:
    """Sequences [first, stop) in one checkpoint."""

    first: int
    stop: int
    path: Path
    facts: Mapping[str, Any]

    def open(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        shape = (self.stop - self.first, self.facts["context_tokens"], self.facts["top_k"])
        size = (self.path / name).stat().st_size
        if size != dtype.itemsize * np.prod(shape):
            raise ckpt.DamagedCheckpointError(self.path, f"{name} has {size} bytes, too few or too many for {shape}")
        return np.memmap(self.path / name, dtype, "r", shape=shape)


def _pieces(stage_dir: StageDir) -> list[_Piece]:
    manifests = {path: ckpt.read_manifest(path) for path in ckpt.checkpoints_by_tokens(stage_dir).values()}
    return [_Piece(m["logits"]["first"], m["logits"]["stop"], path, m["logits"]) for path, m in manifests.items()]


def covered(stage_dir: StageDir, first: int) -> int:
    """Sequence up to which checkpoints have all from `first` on, without a gap."""
    return _covered(_pieces(stage_dir), first)


def _covered(pieces: list[_Piece], first: int) -> int:
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


def count_kept(stage_dir: StageDir) -> int:
    """Count the sequences that are safe on the disk, in checkpoints or beside them."""
    found = [range(piece.first, piece.stop) for piece in _pieces(stage_dir)]
    if noted := read_progress(stage_dir):
        found.append(range(noted["first"], noted["next"]))
    total = end = 0
    for each in sorted(found, key=lambda sequences: sequences.start):
        total += max(0, each.stop - max(each.start, end))
        end = max(end, each.stop)
    return total


def _chain(pieces: list[_Piece], first: int, stop: int) -> list[_Piece]:
    """Fewest pieces that have the sequences from `first` on without a gap, as far as they go."""
    chosen: list[_Piece] = []
    while first < stop:
        reaching = [piece for piece in pieces if piece.first <= first < piece.stop]
        if not reaching:
            break
        chosen.append(max(reaching, key=lambda piece: piece.stop))
        first = chosen[-1].stop
    return chosen


class KeptLogits:
    """What a teacher said of sequences [first, stop) of a stream.

    Parameters
    ----------
    stage_dir
        The stage that keeps them.
    first, stop
        Sequences of the stream that will be asked for.

    Raises
    ------
    ValueError
        They are not all there.
    DamagedCheckpointError
        A file is not what its manifest says.
    """

    def __init__(self, stage_dir: StageDir, first: int, stop: int, *, verify: bool = True) -> None:
        pieces = _chain(_pieces(stage_dir), first, stop)
        last = pieces[-1].stop if pieces else first
        if last < stop:
            raise ValueError(
                f"stage {stage_dir.id} has its teacher's logits up to sequence {last}, but {first} to {stop} are needed: "
                "run the study again"
            )
        if verify:
            for piece in pieces:
                ckpt.verify(piece.path)
        self._pieces = [
            (piece, piece.open(IDS, np.dtype(piece.facts["ids_dtype"])), piece.open(LOG_Q, LOG_Q_DTYPE))
            for piece in pieces
        ]

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
