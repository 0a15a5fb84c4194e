"""How fast training text is searched for benchmark and held-out text, and what cutting by n words costs.

    OMP_NUM_THREADS=1 python benchmarks/contamination_speed.py
    OMP_NUM_THREADS=1 python benchmarks/contamination_speed.py --megabytes 40 --heldout-megabytes 2

The text is this environment's own (`data=python`: prose and code). Some of its documents, chosen by hash, are held out and
stand for benchmark texts; random hashes fill the index up to the size of a large suite. Speeds are the best of the rounds, in
MB of UTF-8 a second on one core.

The second table cuts the rest of the text, by runs of five lines alone and with passages of n words too. *Cut* is the share of
its bytes that goes; *common* is the share in passages that more than ten documents have, such as licence headers and idioms;
*left* is the share of the held-out text's 13-word passages that still stand in what is left.
"""

import argparse
import hashlib
import platform
import time
from collections.abc import Callable

import numpy as np

from workbench.config.schema import DataConfig, SourceConfig
from workbench.config.schema.contamination_config import Contamination
from workbench.data.corpus.benchmark_files import BenchmarkTexts
from workbench.data.corpus.contamination import BenchmarkIndex
from workbench.data.corpus.heldout_leaks import HeldoutLeaks, LeakSettings
from workbench.data.corpus.ngram_index import NgramIndex
from workbench.data.corpus.passages import PassageIndex, merge_spans
from workbench.data.corpus.words import Words
from workbench.data.overlap import HeldoutRuns
from workbench.data.sources import group_sources

BATCH_BYTES = 4_000_000
LENGTHS = (8, 13, 20, 30, 50)
COMMON = 10
NEVER = 1 << 40
"""Words of a passage that no document has."""


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40, help="text to read of the embedded set (default: 40)")
    parser.add_argument("--heldout-megabytes", type=float, default=1, help="of it, text held out (default: 1)")
    parser.add_argument("--index", type=int, default=3_000_000, help="passages to fill the index with (default: 3M)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; 0 leaves the speeds out (default: 3)")
    asked = parser.parse_args()
    documents = read_documents(asked.megabytes * 1e6)
    heldout, training = hold_out(documents, asked.heldout_megabytes * 1e6)
    size = sum(len(text.encode()) for text in training)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{len(training):,} documents, {size / 1e6:.1f} MB; {len(heldout):,} held out")
    if asked.rounds:
        print_speeds(heldout, training, asked.index, asked.rounds)
    print_false_cuts(heldout, training, size)


def read_documents(most_bytes: float) -> list[str]:
    """Read prose and code, of 200 bytes or more, each text once."""
    sources = {name: SourceConfig(kind=f"python_{name}") for name in ("prose", "code")}
    (group,) = group_sources(DataConfig(name="python", sources=sources))
    found: dict[str, None] = {}
    size = 0
    for item in group.items():
        for document in group.documents(item, ("prose", "code")):
            if document.cause is None and len(document.text) >= 200 and document.text not in found:
                found[document.text] = None
                size += len(document.text.encode())
        if size >= most_bytes:
            break
    return list(found)


def hold_out(documents: list[str], most_bytes: float) -> tuple[list[str], list[str]]:
    """Hold out the documents with the smallest hashes, of each 1,500 characters at most, and give the rest whole."""
    order = sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())
    sizes = np.cumsum([min(1500, len(text)) for text in order])
    count = int(np.searchsorted(sizes, most_bytes))
    return [text[:1500] for text in order[:count]], order[count:]


def print_speeds(heldout: list[str], training: list[str], fill: int, rounds: int) -> None:
    """Print the speed of each step, over all batches."""
    batches = make_batches(training)
    size = sum(len(text.encode()) for text in training)
    made = Words.of([""])
    draw = np.random.default_rng(0)
    benchmarks = BenchmarkTexts(
        tuple(("heldout", i) for i in range(len(heldout))), tuple(heldout), tuple(range(len(heldout)))
    )
    settings = Contamination(texts="-", action="mark")
    index = filled(BenchmarkIndex.of(benchmarks, settings), fill, draw)
    leaks, runs = HeldoutLeaks({"all": heldout}), HeldoutRuns(5)
    for text in heldout:
        runs.add(text)
    words = [Words.of(batch) for batch in batches]
    grams = [made.ngrams(13) for made in words]
    counts, spare = index.no_counts(), index.no_counts()
    for made in words:
        index.count(made, counts)
    ignored = index.ignored(counts)
    print(
        f"index: {len(index.passages.index):,} passages of 13 words, {counts.passages.astype(bool).sum():,} of them found"
    )
    steps: dict[str, Callable[[], object]] = {
        "hash words": lambda: [Words.of(batch) for batch in batches],
        "hash 13-grams of words": lambda: [made.ngrams(13) for made in words],
        "look up 13-grams": lambda: [index.passages.index.find(hashes) for hashes, _ in grams],
        "look up 13-grams, by binary search alone": lambda: [
            np.searchsorted(index.passages.index.hashes, hashes) for hashes, _ in grams
        ],
        "words, 13-grams and look-up": lambda: [index.passages.find(Words.of(batch)) for batch in batches],
        "contamination: count (13 and 8 words)": lambda: [index.count(batch, spare) for batch in batches],
        "contamination: treat": lambda: [index.treat(batch, ignored) for batch in batches],
        "held-out text: runs of lines": lambda: [runs.cut(text) for batch in batches for text in batch],
        "held-out text: both rules": lambda: [leaks.cut(batch) for batch in batches],
    }
    print(f"\n{'step':45}{'MB/s':>8}")
    for name, step in steps.items():
        print(f"{name:45}{size / 1e6 / min(seconds(step) for _ in range(rounds)):8.0f}", flush=True)


def filled(index: BenchmarkIndex, fill: int, draw: np.random.Generator) -> BenchmarkIndex:
    """Add random hashes to both indices, all of the first document."""
    parts = []
    for part in (index.passages, index.report_passages):
        hashes = np.concatenate(
            [np.repeat(part.index.hashes, np.diff(part.index.first)), draw.integers(0, 2**64, fill, np.uint64)]
        )
        owners = np.concatenate([part.index.owners, np.zeros(fill, np.int32)])
        parts.append(PassageIndex(part.n, part.min_words, NgramIndex.of(hashes, owners), part.heads, part.lengths))
    return BenchmarkIndex(index.settings, index.benchmarks, *parts)


def print_false_cuts(heldout: list[str], training: list[str], size: int) -> None:
    """Print what runs of lines cut, and passages of several lengths beside them."""
    batches = make_batches(training)
    meter = PassageIndex.of(heldout, range(len(heldout)), 13)
    print(f"\n{'words':>10}{'documents cut':>15}{'cut':>9}{'common':>9}{'left':>8}   most common passage")
    for n in (None, *LENGTHS):
        leaks = HeldoutLeaks({"all": heldout}, LeakSettings(words=n or NEVER, min_words=min(8, n) if n else NEVER))
        documents = cut = 0
        left = np.zeros(len(meter.index), np.bool_)
        for batch in batches:
            pieces, tally = leaks.cut(batch)
            documents += tally.cut
            cut += sum(tally.removed_bytes.values())
            left[meter.find(Words.of([piece for parts in pieces for piece in parts])).rows] = True
        common, phrase = common_bytes(heldout, batches, n) if n else (0, "")
        print(
            f"{n or 'lines':>10}{documents / len(training):15.1%}{cut / size:9.2%}{common / size:9.2%}{left.mean():8.2%}   {phrase}",
            flush=True,
        )


def common_bytes(heldout: list[str], batches: list[list[str]], n: int) -> tuple[int, str]:
    """Bytes in passages that more than ten documents have, and the most common passage."""
    index = PassageIndex.of(heldout, range(len(heldout)), n)
    counts = np.zeros(len(index.index), np.int64)
    found = []
    for batch in batches:
        words = Words.of(batch)
        hits = index.find(words)
        documents = np.searchsorted(words.first, hits.begin, "right") - 1
        np.add.at(counts, np.unique(documents * len(counts) + hits.rows) % len(counts), 1)
        found.append((batch, words, hits))
    common, phrase, most = 0, "", int(counts.argmax())
    for batch, words, hits in found:
        often = counts[hits.rows] > COMMON
        common += covered_bytes(words, hits.begin[often], hits.end[often])
        (places,) = np.nonzero(hits.rows == most)
        if len(places) and not phrase:
            first, last = hits.begin[places[0]], hits.end[places[0]] - 1
            raw = batch[int(words.documents[first])].encode()
            phrase = " ".join(raw[words.begin[first] : words.end[last]].decode().split())
    return common, f"{phrase[:60]!r} ({counts.max():,})"


def covered_bytes(words: Words, begin: np.ndarray, end: np.ndarray) -> int:
    """Bytes that passages cover, each once."""
    first, behind = merge_spans(begin, end)
    return int((words.end[behind - 1] - words.begin[first]).sum()) if len(first) else 0


def make_batches(texts: list[str]) -> list[list[str]]:
    """Divide texts into batches of some megabytes."""
    batches: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    return batches


def seconds(step: Callable[[], object]) -> float:
    """Processor seconds of a step."""
    start = time.process_time()
    step()
    return time.process_time() - start


if __name__ == "__main__":
    main()
