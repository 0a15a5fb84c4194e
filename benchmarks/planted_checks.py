"""What was planted in the text of `planted_corpus.py`, beside what a finished store has of it: a line of JSON for each step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planted_text import Truth, ngrams_of
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data import counts
from workbench.data.corpus.minhash import probability
from workbench.data.store import Prepared
from workbench.data.tokenizer import load_file

_MARK_TOKENS = 16
"""Tokens that hold the mark at the beginning of a document."""


class Check:
    """Compares a finished store with what was planted."""

    def __init__(self, folder: Path, truth: Truth, prepared: Prepared, quality: bool) -> None:
        self._truth, self._prepared, self._quality = truth, prepared, quality
        self._tokenizer = load_file(folder / "tokenizer.json")
        self._facts = prepared.manifest["sources"]["made"]
        keys = np.load(folder / "keys.npy")
        with prepared.heldout_path("made").open(encoding="utf-8") as lines:
            heldout = [json.loads(line) for line in lines]
        self._heldout_texts = [each["text"] for each in heldout]
        chosen = np.array([int(each["id"].split("-")[0], 16) for each in heldout], np.uint64)
        self._heldout = set(np.flatnonzero(np.isin(keys >> np.uint64(16), chosen)).tolist())
        whole = {number for number, _ in truth.tasks} | {number for number, _ in truth.unicode}
        whole |= {page for page, _ in truth.leaks}
        self._copies = np.zeros(len(keys), np.int64)
        """How often a document with each mark is in the store."""
        self._whole: dict[int, list[str]] = {}
        """Pieces of the documents that are looked at as a whole."""
        self._read_store(whole)

    def _read_store(self, whole: set[int]) -> None:
        dtype = np.dtype(self._prepared.manifest["dtype"])
        for shard in self._facts["shards"]:
            path = self._prepared.directory / shard["file"]
            tokens = np.memmap(path, dtype, "r")
            offsets = np.load(path.with_suffix("").with_suffix(".offsets.npy"))
            current = -1
            for start in range(0, len(offsets) - 1, 10_000):
                begins, ends = offsets[:-1][start : start + 10_000], offsets[1:][start : start + 10_000]
                heads = [
                    tokens[begin : min(begin + _MARK_TOKENS, end)].tolist()
                    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
                ]
                for begin, end, head in zip(begins, ends, self._tokenizer.decode_batch(heads), strict=True):
                    if len(head) >= 10 and head[0] == "k" and head[1:10].isdigit():
                        current = int(head[1:10])
                        self._copies[current] += 1
                    if current in whole:
                        self._whole.setdefault(current, []).append(self._tokenizer.decode(tokens[begin:end].tolist()))

    def report(self) -> None:
        """Print recall and precision of every step."""
        truth, dropped = self._truth, self._facts["dropped"]
        say(
            "manifest",
            dropped=dropped,
            **{key: self._facts[key] for key in ("read", "kept", "cut") if key in self._facts},
        )
        self._say("too_short", truth.short, dropped.get(counts.TOO_SHORT, 0))
        if self._quality:
            rules = sum(count for cause, count in dropped.items() if cause.startswith("gopher"))
            # Every fourth passage is wrapped to a line a word, and may go by the rule of repeated lines.
            wrapped = sum(not self._whole.get(n) for n, _ in truth.tasks[2::4] if n not in self._heldout)
            self._say("quality", truth.bad, rules, wrapped)
        originals = [number for number in set(truth.exact) if number not in self._heldout]
        extra = sum(int(self._copies[number] > 1) for number in originals)
        say("exact", planted=len(originals), recall=1 - extra / max(1, len(originals)))
        planted = len(truth.exact) - sum(number in self._heldout for number in truth.exact)
        found = dropped.get(counts.EXACT_DUPLICATE, dropped.get(counts.DUPLICATE, 0))
        say("exact_precision", dropped=found, planted=planted, precision=min(1.0, planted / max(1, found)))
        self._near(dropped.get(counts.NEAR_DUPLICATE, 0))
        self._tasks()
        self._leaks()
        same = [
            self._whole.get(number) is not None
            and hashlib.sha256(self._whole[number][0].encode()).hexdigest() == digest
            for number, digest in truth.unicode
            if number not in self._heldout
        ]
        say("odd_unicode", planted=len(same), unchanged=sum(same))
        # Of an original whose near copy is held out most is cut away, its mark too; where a page with its words is held out,
        # these words, and what is left before them may be too short to be kept.
        excused = self._heldout | {number for number, copy, _ in truth.near if copy in self._heldout}
        excused |= {number for page, number in truth.leaks if page in self._heldout}
        lost = [number for number in truth.plain if number not in excused and not self._copies[number]]
        say(
            "plain_documents",
            documents=len(truth.plain),
            heldout=len(self._heldout),
            lost=len(lost),
            lost_first=lost[:5],
        )

    def _say(self, name: str, planted: list[int], dropped: int, wrapped: int = 0) -> None:
        """A step that drops documents: `planted` of them, each with a mark of its own, and `wrapped` that hold a passage."""
        wanted = [number for number in planted if number not in self._heldout]
        found = sum(int(not self._copies[number]) for number in wanted)
        precision = min(1.0, (found + wrapped) / dropped) if dropped else None
        say(
            name,
            planted=len(wanted),
            found=found,
            recall=found / max(1, len(wanted)),
            dropped=dropped,
            dropped_with_a_passage=wrapped,
            precision=precision,
        )

    def _near(self, dropped: int) -> None:
        pairs = [pair for pair in self._truth.near if not {pair[0], pair[1]} & self._heldout]
        settings = NearDuplicates()
        dropped_copies = sum(
            int(not self._copies[copy]) for _, copy, _ in self._truth.near if copy not in self._heldout
        )
        for low, high in ((0.0, 0.78), (0.78, 0.86), (0.86, 1.0)):
            mine = [pair for pair in pairs if low <= pair[2] < high]
            if not mine:
                continue
            found = sum(int(not self._copies[copy]) for _, copy, _ in mine)
            expected = float(np.mean([probability(similarity, settings) for *_, similarity in mine]))
            mean = float(np.mean([similarity for *_, similarity in mine]))
            say("near", jaccard=mean, planted=len(mine), recall=found / len(mine), expected=expected)
        say(
            "near_precision",
            dropped=dropped,
            planted_found=dropped_copies,
            precision=min(1.0, dropped_copies / max(1, dropped)),
        )

    def _tasks(self) -> None:
        """Whether any 13 words of a planted passage (all of a shorter one) are left anywhere in its document."""
        left = gone = whole = 0
        for number, passage in self._truth.tasks:
            if number in self._heldout:
                continue
            whole += 1
            wanted = ngrams_of(self._truth.benchmark[passage], 13)
            pieces = self._whole.get(number, [])
            gone += not pieces
            left += any(self._has_any(piece, wanted) for piece in pieces)
        cut = self._facts.get("cut", {}).get(counts.BENCHMARK_TEXT, 0) + self._facts["dropped"].get(
            counts.BENCHMARK_TEXT, 0
        )
        say(
            "task_passages",
            planted=whole,
            found=whole - left,
            left=left,
            documents_gone=gone,
            documents_cut_or_gone=cut,
        )

    def _leaks(self) -> None:
        """Whether any 13 words of held-out text are left in the planted pages of one line."""
        wanted = {gram for text in self._heldout_texts for gram in ngrams_of(text, 13)}
        left = sum(
            any(self._has_any(piece, wanted) for piece in self._whole.get(number, []))
            for number, _ in self._truth.leaks
        )
        split = sum(len(self._whole.get(number, [])) > 1 for number, _ in self._truth.leaks)
        cut = self._facts.get("cut", {}).get(counts.HELDOUT_TEXT, 0) + self._facts["dropped"].get(
            counts.HELDOUT_TEXT, 0
        )
        say(
            "heldout_leaks",
            pages=len(self._truth.leaks),
            split=split,
            left=left,
            heldout=len(self._heldout_texts),
            documents_cut_or_gone=cut,
        )

    @staticmethod
    def _has_any(text: str, wanted: set[tuple[str, ...]]) -> bool:
        sizes = {len(gram) for gram in wanted}
        return any(not ngrams_of(text, size).isdisjoint(wanted) for size in sizes)


def say(name: str, **facts: Any) -> None:
    """Print a line of JSON."""
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in facts.items()}
    print(json.dumps({"what": name, **rounded}, ensure_ascii=False), flush=True)
