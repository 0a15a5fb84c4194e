"""Steps of a corpus's pipeline, each by itself: megabytes of text a second on one core.

    OMP_NUM_THREADS=1 python benchmarks/corpus_steps.py --megabytes 40 --rounds 3
    OMP_NUM_THREADS=1 python benchmarks/corpus_steps.py --steps gopher c4

The texts are prose (documentation, docstrings) of the standard library and the locked packages, in batches of four
megabytes. A step's rate is of the process's own time, the best of the rounds. A line of JSON a step; `left` is the share of
documents that the step keeps, where it removes some.

Measured (8 MB, the better of two rounds, one core of a shared machine with two), in MB/s for all documents (464 bytes each on
average) and for those of at least 2,000 characters (4,143 bytes):

    field_filter_columns   327   1246     with making the table
    field_filter_records    67    708     with making the records
    gopher                  60     58
    gopher_repetition       16     18
    c4                      48    115
    fineweb                 88    119
    quality_rules           10     12     all four, one after another
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from workbench.config.schema.quality_thresholds import (
    C4Thresholds,
    FineWebThresholds,
    GopherRepetitionThresholds,
    GopherThresholds,
    QualitySettings,
)
from workbench.data.corpus.field_filters import compile_filter
from workbench.data.corpus.quality_rules import RULES, causes
from workbench.data.python_texts import list_files, read_texts

BATCH_BYTES = 4_000_000
FILTER = compile_filter("len(text) >= 200 and meta.set != 'Github' and (stars >= 2 or lang in ['en', 'de'])")
ALL_RULES = QualitySettings(GopherRepetitionThresholds(), GopherThresholds(), C4Thresholds(), FineWebThresholds())
Step = Callable[[list[str]], Iterable[object] | None]


def filter_table(texts: Sequence[str]) -> list[str | None]:
    """Causes of a field filter, from columns."""
    return FILTER.causes(pa.Table.from_pylist(records_of(texts)))


def filter_records(texts: Sequence[str]) -> list[str | None]:
    """Causes of a field filter, record by record."""
    return [FILTER.cause(record) for record in records_of(texts)]


def records_of(texts: Sequence[str]) -> list[dict[str, object]]:
    """Documents with fields."""
    return [{"text": text, "stars": i % 5, "lang": "en", "meta": {"set": "Web"}} for i, text in enumerate(texts)]


STEPS: dict[str, Step] = {
    "field_filter_columns": filter_table,
    "field_filter_records": filter_records,
    "gopher": lambda texts: RULES["gopher"](GopherThresholds(), texts),
    "gopher_repetition": lambda texts: RULES["gopher_repetition"](GopherRepetitionThresholds(), texts),
    "c4": lambda texts: RULES["c4"](C4Thresholds(), texts),
    "fineweb": lambda texts: RULES["fineweb"](FineWebThresholds(), texts),
    "quality_rules": lambda texts: causes(ALL_RULES, texts),
}
"""A step takes a batch and gives None, or an item for each document that is None if the document stays."""


def main() -> None:
    """Measure and print a line of JSON a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--least-characters", type=int, default=0, help="of a document")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    batches = read_batches(options.megabytes * 1e6, options.least_characters)
    size = sum(len(text.encode()) for batch in batches for text in batch)
    print(json.dumps({"megabytes": size / 1e6, "documents": sum(map(len, batches)), "batches": len(batches)}))
    for name in options.steps:
        STEPS[name](batches[0][:1])  # tables that are made at the first call
        rounds = [measure(STEPS[name], batches) for _ in range(options.rounds)]
        seconds, left = min(seconds for seconds, _ in rounds), rounds[0][1]
        print(json.dumps({"step": name, "megabytes_per_second": round(size / 1e6 / seconds, 1), "left": left}))


def read_batches(most_bytes: float, least_characters: int = 0) -> list[list[str]]:
    """Prose in batches."""
    batches: list[list[str]] = [[]]
    read = batch_bytes = 0
    for _, path in list_files():
        prose, _ = read_texts(Path(path), code=False)
        for text in (text for text in prose if len(text) >= least_characters):
            size = len(text.encode())
            batches[-1].append(text)
            read, batch_bytes = read + size, batch_bytes + size
            if batch_bytes >= BATCH_BYTES:
                batches.append([])
                batch_bytes = 0
        if read >= most_bytes:
            break
    return [batch for batch in batches if batch]


def measure(step: Step, batches: list[list[str]]) -> tuple[float, float | None]:
    """Seconds of the process, and the share of documents that are left."""
    begin = time.process_time()
    results = [step(batch) for batch in batches]
    seconds = time.process_time() - begin
    stays = [item is None for result in results if result is not None for item in result]
    return seconds, round(sum(stays) / len(stays), 4) if stays else None


if __name__ == "__main__":
    main()
