"""Made text for corpora: phrases of real prose in a random order, with things planted in it that a pipeline should find.

Documents are of phrases of 3 to 7 words from the standard library's and the locked packages' prose, so that words and spelling
are real, no two documents share a passage of 13 words by chance, and any amount can be made fast. No phrase has three words in
a row of a benchmark text, so that no eight of those come about by chance. Every document begins with
a word of its own (its *mark*), by which it is known again in a finished store. Planted are:

    exact      copies of a document, some with other white space
    near       copies with changed words and a mark of their own, of a known Jaccard similarity of 5-grams of words
    tasks      texts of a made benchmark (13 to 60 words of a real text in a row, and some of 8 to 12), written as they are, in
               capitals, wrapped anew, and with other punctuation
    bad        documents that Gopher's rules remove: few words, symbols, one line again and again
    short      documents of fewer than 200 bytes
    unicode    documents with odd characters, which must stay as they are
    leaks      pages of one line with 40 words of a document that is likely to be held out (those with the smallest hashes)
"""

import hashlib
import heapq
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path

import numpy as np

from benchmarks.corpus_steps import read_batches
from tests.data.corpus.made_duplicates import edit

SHORT_BYTES = 200
NEAR = (0.8, 0.8, 0.8, 0.9)
"""Similarities that are aimed at, in turn."""
ODD = (
    "e\u0301 a\u030a\u0323 \u1e69 \u0041\u030a",  # combining marks, not normalised
    "👩‍👩‍👧‍👦 🏳️‍🌈 🙂🙃",
    "\u202eright to left\u202c שלום العربية",
    "\u200bzero\u200dwidth\ufeff inside \u00ad soft",
    "東京は日本の首都です。漢字かな交じり文、句読点。",
    "\ufb01 ligature \u2460 \u00bd \u2167 \uff46\uff55\uff4c\uff4c width",
    "\U0001d4d0 \U00020000 \U0010fffd \ue000",
    "\x7f \x85 \u2028 \u2029 \u00a0 \u3000 end",
)
_PLAIN_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*[.,;:?!]?|\d+")
"""Identifiers and markup are left out, so that text is like that of pages."""
_DOCUMENT_PHRASES = 90
_LINE_PHRASES = 11
_KEPT = 400
"""Documents that copies are drawn from, the last ones."""


@dataclass
class Truth:
    """What was planted: marks are the documents' numbers."""

    documents: int = 0
    """Lines written."""
    bytes: int = 0
    """UTF-8 bytes of all texts."""
    plain: list[int] = field(default_factory=list)
    exact: list[int] = field(default_factory=list)
    """Mark of the original, once for each further copy."""
    near: list[tuple[int, int, float]] = field(default_factory=list)
    """Original, copy, Jaccard similarity."""
    tasks: list[tuple[int, int]] = field(default_factory=list)
    """Document, and position of the benchmark text."""
    bad: list[int] = field(default_factory=list)
    short: list[int] = field(default_factory=list)
    unicode: list[tuple[int, str]] = field(default_factory=list)
    """Document, SHA-256 of its text."""
    leaks: list[tuple[int, int]] = field(default_factory=list)
    """Page, and the document whose words it has."""
    benchmark: list[str] = field(default_factory=list)
    """Texts of the made benchmark."""
    seconds: float = 0.0


def make(folder: Path, megabytes: float, seed: int, prose_megabytes: float = 12) -> Truth:
    """Write `text/*.jsonl`, `benchmark/made.jsonl`, `damaged/damaged.jsonl`, `keys.npy` and `truth.json` into an empty folder."""
    started = time.monotonic()
    phrases, passages = _read_phrases(prose_megabytes, seed)
    for name in ("text", "benchmark", "damaged"):
        (folder / name).mkdir(parents=True)
    maker = _Maker(np.random.default_rng(seed), phrases, passages)
    lines = [
        json.dumps({"task": f"made_{i % 4}", "document": i, "text": text}, ensure_ascii=False) + "\n"
        for i, text in enumerate(passages)
    ]
    (folder / "benchmark" / "made.jsonl").write_text("".join(lines), encoding="utf-8")
    number = 0
    file_bytes = min(64e6, megabytes * 1e6 / 8)
    source = maker.lines(megabytes * 1e6)
    rest = True
    while rest:
        written, rest = 0, False
        with (folder / "text" / f"{number:05}.jsonl").open("wb") as file:
            for line in source:
                file.write(line)
                written += len(line)
                if written >= file_bytes:
                    rest = True
                    break
        number += 1
    good = b'{"id": 1, "text": "' + b"A line before. " * 30 + b'"}\n'
    damaged = [b'{"id": 2, "text": "cut off in the mid', b'{"id": 3, "text": "\xff\xfe not UTF-8"}', b'{"id": 4}']
    for i, line in enumerate(damaged):
        (folder / "damaged" / f"{i}.jsonl").write_bytes(good + line + b"\n" + good)
    truth = maker.truth
    truth.seconds = time.monotonic() - started
    np.save(folder / "keys.npy", np.array(maker.keys, np.uint64))
    (folder / "truth.json").write_text(json.dumps(asdict(truth)))
    return truth


def read_truth(folder: Path) -> Truth:
    """Read what `make` wrote."""
    return Truth(**json.loads((folder / "truth.json").read_text()))


def mark(number: int) -> str:
    """First word of a document."""
    return f"k{number:09}"


def words_of(text: str) -> list[str]:
    """Words for checking, found by other means than the pipeline's."""
    return re.findall(r"[^\W_]+", text.lower())


def ngrams_of(text: str, n: int) -> set[tuple[str, ...]]:
    """Successive words; a shorter text is one n-gram."""
    words = words_of(text)
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def _read_phrases(megabytes: float, seed: int) -> tuple[list[str], list[str]]:
    """Phrases of three to seven words, and passages of one text in forty that is in no phrase."""
    draw = np.random.default_rng([seed, 1])
    phrases: list[str] = []
    passages: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for i, text in enumerate(text for batch in read_batches(megabytes * 1e6, 400) for text in batch):
        words = [word for word in text.split() if _PLAIN_WORD.fullmatch(word)]
        if i % 40:
            cuts = np.cumsum(draw.integers(3, 8, len(words) // 3 + 1)).tolist()
            phrases += [" ".join(words[a:b]) for a, b in zip([0, *cuts], cuts, strict=False) if b <= len(words)]
            continue
        size = int(draw.integers(8, 13)) if i % 200 == 0 else int(draw.integers(20, 60))
        passage = " ".join(words[20 : 20 + size])
        found = ngrams_of(passage, 8)
        if len(words_of(passage)) >= 8 and not found & seen and passage.isascii():
            passages.append(passage)
            seen |= found
    # Of any eight words of a document, three in a row are of one phrase, each of which has at least three (edges of leaks have less).
    taken = set().union(*(ngrams_of(passage, 3) for passage in passages))
    # Common phrases stay common only up to a point, lest whole passages come about by chance.
    return sorted(phrase for phrase in set(phrases) if taken.isdisjoint(ngrams_of(phrase, 3))), passages


class _Maker:
    """Makes documents one after the other."""

    def __init__(self, draw: np.random.Generator, phrases: list[str], passages: list[str]) -> None:
        self.truth = Truth(benchmark=passages)
        self.keys: list[int] = []
        """First 64 bits of the SHA-256 of each document's text with white space folded, by its mark."""
        self._draw, self._phrases = draw, phrases
        self._kept: list[tuple[int, str]] = []
        self._smallest: list[tuple[int, int, str]] = []
        self._odd = self._bad = self._near = 0
        self._passages = iter([i for _ in range(2) for i in range(len(passages))])

    def lines(self, size: float) -> Iterator[bytes]:
        """Documents as lines of jsonl, until there are so many bytes; pages with leaks are the last."""
        expected = max(1, int(size / 2500))
        every = max(20, expected // (2 * len(self.truth.benchmark) + 1))
        candidates = min(250, expected // 20)
        count = 0
        while self.truth.bytes < size:
            bodies = self._bodies(500)
            kinds = self._draw.random(len(bodies)).tolist()
            for body, kind in zip(bodies, kinds, strict=True):
                count += 1
                yield self._plain(body)
                if kind < 0.05 and self._kept:
                    yield self._exact()
                elif kind < 0.09 and self._kept:
                    yield self._near_copy()
                elif kind < 0.10:
                    yield self._bad_one(self._bodies(1)[0])
                elif kind < 0.105:
                    yield self._short()
                elif kind < 0.106:
                    yield self._odd_one(self._bodies(1)[0])
                if count % every == 0 and (passage := next(self._passages, None)) is not None:
                    yield self._with_passage(self._bodies(1)[0], passage)
        for _, number, text in sorted((-key, number, text) for key, number, text in self._smallest)[:candidates]:
            yield from self._leaks(number, text)

    def _bodies(self, count: int) -> list[list[str]]:
        """Lists of phrases."""
        sizes = np.clip(self._draw.lognormal(np.log(_DOCUMENT_PHRASES) - 0.18, 0.6, count), 40, 2000).astype(int)
        drawn = self._draw.integers(0, len(self._phrases), int(sizes.sum())).tolist()
        ends = np.cumsum(sizes).tolist()
        return [
            list(itemgetter(*drawn[begin:end])(self._phrases)) for begin, end in zip([0, *ends], ends, strict=False)
        ]

    def _write(self, text: str, is_new: bool = True, plain: bool = False) -> bytes:
        """Count a document and give its line."""
        self.truth.documents += 1
        raw = text.encode()
        self.truth.bytes += len(raw)
        if is_new:
            folded = raw.replace(b"\n", b" ") if plain else " ".join(text.split()).encode()
            self.keys.append(int.from_bytes(hashlib.sha256(folded).digest()[:8], "big"))
        if plain:  # its words need no escapes
            return b'{"id": %d, "text": "%b"}\n' % (self.truth.documents, raw.replace(b"\n", b"\\n"))
        line = json.dumps({"id": self.truth.documents, "text": text}, ensure_ascii=bool(self.truth.documents % 2))
        return line.encode() + b"\n"

    def _text(self, body: list[str], number: int) -> str:
        lines = (" ".join(body[i : i + _LINE_PHRASES]) for i in range(0, len(body), _LINE_PHRASES))
        return f"{mark(number)} " + ".\n".join(lines) + "."

    def _plain(self, body: list[str]) -> bytes:
        number = len(self.keys)
        text = self._text(body, number)
        line = self._write(text, plain=True)
        self.truth.plain.append(number)
        if number % 7 == 0:
            self._kept.append((number, text))
            del self._kept[:-_KEPT]
        entry = (-self.keys[number], number, text)
        if len(self._smallest) < 300:
            heapq.heappush(self._smallest, entry)
        elif entry > self._smallest[0]:
            heapq.heapreplace(self._smallest, entry)
        return line

    def _pick(self) -> tuple[int, str]:
        return self._kept.pop(int(self._draw.integers(len(self._kept))))

    def _exact(self) -> bytes:
        number, text = self._pick()
        self.truth.exact.append(number)
        return self._write(text.replace("\n", "  \n\n ") if len(self.truth.exact) % 2 else text, is_new=False)

    def _near_copy(self) -> bytes:
        number, text = self._pick()
        mine = len(self.keys)
        aimed = NEAR[self._near % len(NEAR)]
        self._near += 1
        words = edit(text.split(" "), aimed, self._draw)
        copy = " ".join([mark(mine), *words[1:]])
        one, other = ngrams_of(text, 5), ngrams_of(copy, 5)
        self.truth.near.append((number, mine, len(one & other) / len(one | other)))
        return self._write(copy)

    def _bad_one(self, body: list[str]) -> bytes:
        number = len(self.keys)
        kind, self._bad = self._bad % 3, self._bad + 1
        few = " ".join(word for word in " ".join(body).split()[:40])
        text = (
            f"{mark(number)} {few} {'unusually' * 2} {'longwordsinfew' * 3} {'anotherlongword' * 4}",
            f"{mark(number)} " + " ".join(f"# {phrase} #..." for phrase in body),
            f"{mark(number)}\n" + f"{' '.join(body[:8])}.\n" * 20,
        )[kind]
        self.truth.bad.append(number)
        return self._write(text)

    def _short(self) -> bytes:
        number = len(self.keys)
        self.truth.short.append(number)
        return self._write(f"{mark(number)} too short to be kept")

    def _odd_one(self, body: list[str]) -> bytes:
        number = len(self.keys)
        middle = len(body) // 2
        text = self._text([*body[:middle], ODD[self._odd % len(ODD)], *body[middle:]], number)
        self._odd += 1
        self.truth.unicode.append((number, hashlib.sha256(text.encode()).hexdigest()))
        return self._write(text)

    def _with_passage(self, body: list[str], passage: int) -> bytes:
        number = len(self.keys)
        text = self.truth.benchmark[passage]
        form = len(self.truth.tasks) % 4
        text = (text, text.upper(), text.replace(" ", "\n  "), ", ".join(text.split()))[form]
        self.truth.tasks.append((number, passage))
        middle = len(body) // 2
        return self._write(self._text([*body[:middle], text, *body[middle:]], number))

    def _leaks(self, number: int, text: str) -> Iterator[bytes]:
        """Three pages of one line with words of a document's beginning, middle and end."""
        words = text.split()
        for place in (1, 3, 5):
            middle = place * len(words) // 6
            before, behind = self._bodies(2)
            taken = " ".join(words[max(1, middle - 20) : middle + 20])
            mine = len(self.keys)
            self.truth.leaks.append((mine, number))
            yield self._write(f"{mark(mine)} {' '.join(before[:60])} {taken} {' '.join(behind[:60])}")
