"""Training documents that hold text of benchmarks: which, how much of them, and what is left without it.

The rule is GPT-3's (Brown et al. 2020, arXiv:2005.14165, appendix C): passages of 13 words that a training document has in
common with a benchmark text are dropped with 200 characters around them, passages that occur in more than 10 training documents
are no contamination, pieces of fewer than 200 characters are dropped, and so are documents of more than 10 pieces. It differs in
these:

- Words are those of `workbench.data.corpus.words`: punctuation separates them ("don't" is two words; GPT-3 deletes it), and
  each character of Chinese, Japanese and Korean is one.
- Benchmark texts of 8 to 12 words are looked for as a whole; GPT-3's filter passes over them.
- What is dropped ends at the border of a word, so that no new words are made.

A corpus is read twice: `count` says of each passage in how many documents it occurs, and the sums over all shards say which
passages are ignored (`ignored`); `treat` then acts on the documents. Sums do not depend on how documents are divided into
shards, nor on the order of shards, so that neither does what is dropped.

Shapes: D documents of a batch, B benchmark documents, H passages of the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema.contamination_config import Contamination
from workbench.data.corpus.benchmark_files import BenchmarkTexts, read_benchmark_texts
from workbench.data.corpus.contamination_counts import Counts, Tally, TaskOverlap
from workbench.data.corpus.ngram_index import NgramIndex
from workbench.data.corpus.passages import Found, PassageIndex, merge_spans
from workbench.data.corpus.words import Words

CUT_UP = "cut into too many pieces"
NOTHING_LEFT = "no piece is long enough"


@dataclass(frozen=True)
class Hit:
    """Benchmark text in one training document."""

    document: int
    """Its position in the batch."""
    tasks: dict[str, int]
    """Passages by task; one that is of several tasks counts for each."""
    passages: int
    """Places where a passage of any task begins."""
    spans: list[tuple[int, int]]
    """Bytes of the document's UTF-8 that the passages cover: each span's first byte and the one behind it."""


class BenchmarkIndex:
    """The passages of benchmark texts, and what is done with training documents that have some."""

    def __init__(
        self, settings: Contamination, benchmarks: BenchmarkTexts, n: PassageIndex, report: PassageIndex
    ) -> None:
        """Put together what `of` or `open` made."""
        self.settings, self.benchmarks = settings, benchmarks
        self.passages, self.report_passages = n, report
        self.tasks = benchmarks.tasks
        index = n.index
        task_of = np.array([self.tasks.index(task) for task, _ in benchmarks.documents], np.int32)
        hashes = np.repeat(index.hashes, np.diff(index.first))
        self._by_task = NgramIndex.of(hashes, task_of[index.owners])  # its rows are those of `index`

    @classmethod
    def of(cls, benchmarks: BenchmarkTexts, settings: Contamination) -> BenchmarkIndex:
        """Index benchmark texts."""
        made = [
            PassageIndex.of(benchmarks.texts, benchmarks.owners, n, settings.min_words)
            for n in (settings.ngram, settings.report_ngram)
        ]
        return cls(settings, benchmarks, *made)

    @classmethod
    def read(cls, settings: Contamination) -> BenchmarkIndex:
        """Index the benchmark texts that the settings name.

        Raises
        ------
        ValueError
            As `read_benchmark_texts`.
        """
        return cls.of(read_benchmark_texts(Path(settings.texts)), settings)

    def save(self, folder: Path) -> None:
        """Write the index into a folder, which is made."""
        self.passages.save(folder / "passages")
        self.report_passages.save(folder / "report")

    @classmethod
    def load(cls, folder: Path, benchmarks: BenchmarkTexts, settings: Contamination) -> BenchmarkIndex:
        """Open what `save` wrote of the same texts and settings, by memory map."""
        parts = PassageIndex.load(folder / "passages"), PassageIndex.load(folder / "report")
        return cls(settings, benchmarks, *parts)

    def no_counts(self) -> Counts:
        """Give counts of no document."""
        return Counts.none(len(self.passages.index), len(self.report_passages.index))

    def count(self, texts: Sequence[str] | Words, counts: Counts) -> NDArray[np.bool_]:
        """Count in how many documents of a batch each passage occurs, and add that to `counts`.

        Returns
        -------
        NDArray[np.bool_]
            (D,): which documents have a passage. All others `treat` leaves as they are.
        """
        words = texts if isinstance(texts, Words) else Words.of(texts)
        has_passage = np.zeros(len(words.first) - 1, np.bool_)
        counts.documents += len(has_passage)
        has_passage[_count_into(counts.passages, self.passages.find(words), words)] = True
        _count_into(counts.report_passages, self.report_passages.find(words), words)
        return has_passage

    def ignored(self, counts: Counts) -> NDArray[np.bool_]:
        """Say which passages are common phrases, by the counts of the whole corpus: bool (H,)."""
        limit = self.settings.ignore_above
        return counts.passages > limit if limit is not None else np.zeros(len(counts.passages), np.bool_)

    def find(self, texts: Sequence[str] | Words, ignored: NDArray[np.bool_] | None = None) -> list[Hit]:
        """Find the documents of a batch that have benchmark text, in their order; `ignored` passages do not count."""
        words = texts if isinstance(texts, Words) else Words.of(texts)
        found = self._found(words, ignored)
        return [self._hit(document, words, part) for document, part in _by_document(words, found)]

    def treat(
        self, texts: Sequence[str], ignored: NDArray[np.bool_] | None = None
    ) -> tuple[list[list[str]], Tally, list[Hit]]:
        """Do what the settings say with the documents of a batch.

        Parameters
        ----------
        texts
            The batch's documents.
        ignored
            bool (H,): passages that are no contamination, as `ignored` gives them for the whole corpus; None ignores none.

        Returns
        -------
        pieces
            Of each document what is kept: itself, its pieces, or nothing.
        tally
            What was done.
        hits
            As `find`.
        """
        words = Words.of(texts)
        hits = self.find(words, ignored)
        pieces, tally = [[text] for text in texts], Tally(documents=len(texts))
        for hit in hits:
            text = texts[hit.document]
            kept, cause = self._keep(text, hit, words)
            pieces[hit.document] = kept
            tally.add_hit(hit.tasks, cause, len(text.encode()) - sum(len(piece.encode()) for piece in kept))
        return pieces, tally, hits

    def overlap(self, counts: Counts) -> dict[str, TaskOverlap]:
        """Say of each task which of its documents occur in the corpus that was counted."""
        by_report = _owners_of(self.report_passages, counts.report_passages > 0)
        by_rule = _owners_of(self.passages, (counts.passages > 0) & ~self.ignored(counts))
        checkable = _owners_of(self.report_passages, np.ones(len(counts.report_passages), np.bool_))
        overlaps = {task: TaskOverlap([], [], [], []) for task in self.tasks}
        for i, (task, number) in enumerate(self.benchmarks.documents):
            overlap = overlaps[task]
            state = overlap.not_checkable if i not in checkable else overlap.dirty if i in by_report else overlap.clean
            state.append(number)
            if i in by_rule:
                overlap.in_passages.append(number)
        return overlaps

    def _found(self, words: Words, ignored: NDArray[np.bool_] | None) -> Found:
        found = self.passages.find(words)
        return found if ignored is None else found.where(~ignored[found.rows])

    def _hit(self, document: int, words: Words, found: Found) -> Hit:
        """Say what was found in one document."""
        _, tasks = self._by_task.owners_of(found.rows)
        counted = np.bincount(tasks, minlength=len(self.tasks)).tolist()
        by_task = {task: count for task, count in zip(self.tasks, counted, strict=True) if count}
        begin, end = merge_spans(found.begin, found.end)
        spans = list(zip(words.begin[begin].tolist(), words.end[end - 1].tolist(), strict=True))
        return Hit(document, by_task, len(np.unique(found.begin)), spans)

    def _keep(self, text: str, hit: Hit, words: Words) -> tuple[list[str], str]:
        """Say what is kept of a document with benchmark text, and what was done."""
        if self.settings.action == "mark":
            return [text], "marked"
        if self.settings.action == "remove":
            return [], "removed"
        mine = slice(words.first[hit.document], words.first[hit.document + 1])
        pieces = cut_around(text, hit.spans, words.begin[mine], words.end[mine], self.settings.context_characters)
        pieces = [piece for piece in pieces if len(piece) >= self.settings.shortest_piece_characters]
        if len(pieces) > self.settings.most_pieces:
            return [], CUT_UP
        return pieces, "cut" if pieces else NOTHING_LEFT


def cut_around(
    text: str,
    spans: Sequence[tuple[int, int]],
    word_begin: NDArray[np.int64],
    word_end: NDArray[np.int64],
    context_characters: int,
) -> list[str]:
    """Split a document where some spans are, without them and what is around them.

    Parameters
    ----------
    text
        The document.
    spans
        First byte of each span in its UTF-8 and the byte behind it, ascending.
    word_begin, word_end
        The same of the document's words, (W,). A word of which a part would be dropped is dropped whole.
    context_characters
        Characters to drop on both sides of each span.

    Returns
    -------
    list[str]
        Non-empty pieces, in order.
    """
    raw = np.frombuffer(text.encode(), np.uint8)
    character = np.zeros(len(raw) + 1, np.int64)
    np.cumsum((raw & 0xC0) != 0x80, out=character[1:])
    ends = np.asarray(spans, np.int64).reshape(-1, 2)
    begin = character[ends[:, 0]] - context_characters
    end = character[ends[:, 1]] + context_characters
    first, last = character[word_begin], character[word_end]
    around = np.searchsorted(first, begin, "right") - 1  # the last word that begins at or before a cut
    inside = (around >= 0) & (last[around] > begin)
    begin = np.maximum(np.where(inside, first[around], begin), 0)
    around = np.searchsorted(first, end, "left") - 1
    end = np.minimum(np.maximum(end, last[around]), len(text))
    begin, end = merge_spans(begin, end)
    borders = [0, *np.stack([begin, end], 1).ravel().tolist(), len(text)]
    pieces = [text[a:b] for a, b in zip(borders[::2], borders[1::2], strict=True)]
    return [piece for piece in pieces if piece]


def _by_document(words: Words, found: Found) -> list[tuple[int, Found]]:
    """Divide what was found by documents."""
    documents = np.searchsorted(words.first, found.begin, "right") - 1
    numbers, starts = np.unique(documents, return_index=True)
    stops = [*starts.tolist(), len(documents)][1:]
    return [
        (number, Found(found.begin[a:b], found.end[a:b], found.rows[a:b]))
        for number, a, b in zip(numbers.tolist(), starts.tolist(), stops, strict=True)
    ]


def _count_into(counts: NDArray[np.int64], found: Found, words: Words) -> NDArray[np.int64]:
    """Add 1 to each passage for each document that it occurs in, and give the documents."""
    documents = np.searchsorted(words.first, found.begin, "right") - 1
    pairs = np.unique(documents * len(counts) + found.rows) if len(counts) else documents
    if len(pairs):
        np.add.at(counts, pairs % len(counts), 1)
    return np.unique(documents)


def _owners_of(passages: PassageIndex, rows: NDArray[np.bool_]) -> set[int]:
    """Owners of some passages."""
    return set(np.unique(passages.index.owners_of(np.flatnonzero(rows))[1]).tolist())
