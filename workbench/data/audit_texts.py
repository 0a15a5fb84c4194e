"""What an audit finds in the text of training documents: the ids of it, held-out text in it, and documents that are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from workbench.data.audit_check import Check, Sample, judge, unchecked
from workbench.data.audit_files import TokenFile
from workbench.data.audit_tokens import Scan
from workbench.data.corpus.leak_meter import LeakMeter
from workbench.data.overlap import OverlapMeter
from workbench.data.tokenizer import load_saved

_BATCH = 256
"""Documents at a time."""
_PASSAGE = 13
"""Words of a held-out passage that is looked for."""
_LARGEST_SHARE = 0.1
"""Part of a held-out document that may stand in training text (`workbench.data.store` keeps no store with more)."""
_PROBES = (
    " two  spaces \n\n\ttab ",
    "Cafe\u0301 \u4eac\ufb01 \U0001f642\u200b\u00a0",
    "\r\nx = 1\r\n",
    "<s></s>[INST]",
)


class HashSet:
    """Counts texts that are equal but for white space, in bounded memory.

    Where there are more than `most` hashes, only those of the lower half of the values so far are kept, again and again:
    what is counted then is counted in that part of all texts, chosen by their hashes.
    """

    def __init__(self, most: int = 1 << 23) -> None:
        self._most, self._parts, self._held, self.halvings = most, list[NDArray[np.uint64]](), 0, 0

    def add(self, texts: list[str]) -> None:
        """Take texts."""
        raw = b"".join(hashlib.blake2b(" ".join(t.split()).encode(), digest_size=16).digest() for t in texts)
        self._put(np.frombuffer(raw, "<u8").reshape(-1, 2))
        while self._held > self._most:
            self.halvings += 1
            parts, self._parts, self._held = self._parts, [], 0
            for part in parts:
                self._put(part)

    def _put(self, hashes: NDArray[np.uint64]) -> None:
        kept = hashes[hashes[:, 0] >> np.uint64(64 - self.halvings) == 0] if self.halvings else hashes
        self._parts.append(kept)
        self._held += len(kept)

    def count(self) -> tuple[int, int]:
        """Texts that are counted, and those among them that another is equal to and stays."""
        hashes = np.concatenate([np.empty((0, 2), np.uint64), *self._parts])
        return len(hashes), len(hashes) - len(np.unique(hashes, axis=0))


class TextAudit:
    """Reads training documents and remembers what is wrong with them."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any], heldout: dict[str, list[str]]) -> None:
        """Prepare to read; held-out texts by source."""
        self._manifest = manifest
        self._tokenizer: Tokenizer = load_saved(directory / "tokenizer")
        self._dtype = np.dtype(manifest["dtype"])
        self._lines = int(manifest["config"]["data"]["overlap_lines"])
        corpus = manifest["config"]["data"].get("corpus") or {}
        self._cut_words = corpus.get("overlap_words")
        self._words = int(self._cut_words or _PASSAGE)
        self._runs = OverlapMeter(heldout, self._lines)
        self._passages = LeakMeter(heldout, self._words, corpus.get("overlap_min_words"))
        self._heldout = heldout
        self._found_runs, self._found_passages, self._hashes = set[str](), set[str](), HashSet()
        self._documents = self._tokens = self._bytes = self._unlike = 0
        self._wrong: list[str] = []
        self._wrong_bytes: list[str] = []
        self._whole_files = 0
        texts = [*_PROBES, *(text for texts in heldout.values() for text in texts[:20])]
        self._lossy = next((text for text in texts if self._there_and_back(text) != text), None)

    def _there_and_back(self, text: str) -> str:
        return self._tokenizer.decode(self._tokenizer.encode(text, add_special_tokens=False).ids, False)

    def read(self, file: TokenFile, found: Scan, documents: NDArray[np.int64]) -> None:
        """Read documents of a file by number."""
        tokens = np.memmap(file.path, self._dtype, "r", shape=(found.tokens,)) if found.tokens else np.empty(0)
        ends = np.append(found.begins[1:], found.tokens)
        size = 0
        for start in range(0, len(documents), _BATCH):
            numbers = documents[start : start + _BATCH]
            ids = [tokens[found.begins[n] + 1 : ends[n]].tolist() for n in numbers]
            size += self._take(file, numbers, ids)
        if len(documents) == len(found.begins) and "bytes" in file.facts:
            self._whole_files += 1
            if size != file.facts["bytes"]:
                self._wrong_bytes.append(
                    f"{file.name}: {size:,} bytes of text, the manifest says {file.facts['bytes']:,}"
                )

    def _take(self, file: TokenFile, numbers: NDArray[np.int64], ids: list[list[int]]) -> int:
        texts = self._tokenizer.decode_batch(ids, skip_special_tokens=False)
        again = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for number, before, after in zip(numbers.tolist(), ids, again, strict=True):
            if before != after.ids:
                self._unlike += 1
                at = next(
                    (i for i, (a, b) in enumerate(zip(before, after.ids, strict=False)) if a != b), len(after.ids)
                )
                self._wrong.append(
                    f"{file.name}: document {number:,} has other ids than its text, from its token {at:,} on"
                )
        self._found_runs |= self._runs.hits(texts)
        self._found_passages |= self._passages.hits(texts)
        self._hashes.add(texts)
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        self._documents += len(texts)
        self._tokens += sum(map(len, ids)) + len(ids)
        self._bytes += size
        return size

    def checks(self) -> Iterator[Check]:
        """Say what was found."""
        total = sum(facts["documents"] for facts in self._manifest["sources"].values())
        part = f"{self._documents:,} of {total:,} training documents ({self._tokens:,} tokens)"
        yield self._check_ids(part)
        yield self._check_bytes()
        yield self._check_heldout(part)
        yield self._check_equal(part)

    def _check_ids(self, part: str) -> Check:
        if self._lossy is not None:
            why = f"this tokenizer does not give every text back ({self._lossy[:30]!r})"
            return unchecked("text and ids", f"{why}; {self._unlike:,} of {part} differ")
        return judge("text and ids", f"{part} decoded and encoded again", self._wrong)

    def _check_bytes(self) -> Check:
        if self._lossy is not None:
            return unchecked("bytes", "this tokenizer does not give every text back")
        if not self._whole_files:
            return unchecked("bytes", "no file was decoded as a whole (--whole does)")
        return judge("bytes", f"of the text of {self._whole_files:,} files that were decoded whole", self._wrong_bytes)

    def _check_heldout(self, part: str) -> Check:
        if not any(self._heldout.values()):
            return unchecked("held-out text", "the store holds no held-out documents")
        # A corpus states passages, and only of a part of its text.
        stated = {} if self._manifest["format"] == 3 else self._manifest["overlap_left"]
        wrong: list[str] = []
        shares: list[str] = []
        for source, left in self._runs.report(self._found_runs).items():
            shares.append(f"{source} {left['share']:.2%}")
            if left["worst_document"] > _LARGEST_SHARE:
                wrong.append(
                    f"{source}: a held-out document has {left['worst_document']:.0%} of its bytes in training text"
                )
            elif source in stated and left["share"] > stated[source]["share"] + 1e-12:
                wrong.append(
                    f"{source}: {left['share']:.2%} of its held-out bytes, the manifest says {stated[source]['share']:.2%}"
                )
        passages: list[str] = []
        for source, left in self._passages.report(self._found_passages).items():
            passages.append(f"{source} {left['share']:.2%}")
            if self._cut_words and left["worst_document"] > _LARGEST_SHARE:
                wrong.append(
                    f"{source}: a held-out document has {left['worst_document']:.0%} of its passages in training text"
                )
        found = f"in {part}, held-out bytes in runs of {self._lines} lines: {', '.join(shares) or 'none'}"
        return judge(
            "held-out text", f"{found}; passages of {self._words} words: {', '.join(passages) or 'none'}", wrong
        )

    def _check_equal(self, part: str) -> Check:
        counted, equal = self._hashes.count()
        where = part if not self._hashes.halvings else f"{counted:,} documents chosen by hash among {part}"
        corpus = self._manifest["config"]["data"].get("corpus")
        # A document in pieces may have one that is another document; in one pass pieces are compared.
        allowed = sum(_number(facts.get("cut", 0)) for facts in self._manifest["sources"].values()) if corpus else 0
        promised = corpus is None or corpus.get("exact_duplicates", False)
        wrong = (
            [f"{equal:,} documents are equal to another, {allowed:,} at most could be"]
            if promised and equal > allowed
            else []
        )
        return judge("equal documents", f"{equal:,} equal to another but for white space, among {where}", wrong)


def _number(count: int | Mapping[str, int]) -> int:
    """Count documents that were cut, whatever for."""
    return sum(count.values()) if isinstance(count, Mapping) else count


def choose_documents(
    scans: list[tuple[TokenFile, Scan]], sample: Sample
) -> Iterator[tuple[TokenFile, Scan, NDArray[np.int64]]]:
    """Choose documents of every source, as many of each file as its part of them."""
    for file, found in scans:
        count = len(found.begins)
        total = sum(len(other.begins) for one, other in scans if one.source == file.source)
        wanted = count if sample.whole else min(count, -(-sample.documents * count // max(total, 1)))
        numbers = sample.draw(file.name).sample(range(count), wanted)
        yield file, found, np.array(sorted(numbers), np.int64)
