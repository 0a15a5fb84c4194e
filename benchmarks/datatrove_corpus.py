"""The steps of a corpus by datatrove, for `planted_corpus.py`, which runs this file with the Python that has datatrove.

    /path/to/venv/bin/python benchmarks/datatrove_corpus.py --folder made --output empty --tokenizer tokenizer.json

The environment needs `datatrove[processing,io]`, `spacy`, `tokenizers` and `xxhash<4`. Steps as in datatrove's example for
FineWeb: read, Gopher's rules, MinHash (14 buckets of 8 over 5-grams; copies that are equal go here, too), n-grams of 13 words
of the benchmark, tokens. A line of JSON a step, with wall time; the processor's is watched from outside, since datatrove's
workers are children of a server of its own.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text
from datatrove.utils.word_tokenizers import load_word_tokenizer

ENGLISH = "eng"


def main() -> None:
    """Run the steps one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="what planted_text wrote")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-quality", action="store_true")
    options = parser.parse_args()
    out, workers = options.output, options.workers
    tasks = len(list((options.folder / "text").glob("*.jsonl")))
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    rules = [] if options.no_quality else [GopherRepetitionFilter(), GopherQualityFilter()]
    long_enough = LambdaFilter(_is_long_enough)
    index = write_index(options.folder / "benchmark" / "made.jsonl", out / "index", 13)
    kept = str(out / "kept")
    steps = {
        "read_and_filter": (
            [
                JsonlReader(str(options.folder / "text"), glob_pattern="*.jsonl"),
                long_enough,
                *rules,
                JsonlWriter(kept, output_filename="${rank}.jsonl", compression=None),
            ],
            tasks,
        ),
        "signatures": ([JsonlReader(kept), MinhashDedupSignature(str(out / "signatures"), config)], tasks),
        "buckets": ([MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config)], 14),
        "cluster": ([MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config=config)], 1),
        "tokens": (
            [
                JsonlReader(kept),
                MinhashDedupFilter(str(out / "remove")),
                NGramsDecontFilter(index, NGramsDecontConfig(n_grams=13)),
                DocumentTokenizer(str(out / "tokens"), str(options.tokenizer), shuffle_documents=False),
            ],
            tasks,
        ),
    }
    for name, (pipeline, count) in steps.items():
        wall = time.perf_counter()
        LocalPipelineExecutor(
            pipeline, tasks=count, workers=min(workers, count), logging_dir=str(out / "logs" / name)
        ).run()
        stats = json.loads((out / "logs" / name / "stats.json").read_text())
        line = {
            "step": name,
            "wall_seconds": round(time.perf_counter() - wall, 2),
            "stats": {each["name"]: each["stats"] for each in stats},
        }
        print(json.dumps(line), flush=True)


def _is_long_enough(document: object) -> bool:
    return len(document.text.encode()) >= 200  # type: ignore[attr-defined]


def write_index(benchmark: Path, folder: Path, n: int) -> str:
    """Write n-grams of the benchmark's texts as `NGramsDecontIndexer` does, which asks for lighteval even where it is not used."""
    config = NGramsDecontConfig(n_grams=n)
    split, hash_of = load_word_tokenizer(ENGLISH), create_hash_func(config.hash_config)
    found: dict[str, set[int]] = {}
    for line in benchmark.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        words = split.word_tokenize(simplify_text(record["text"], config.norm_config))
        found.setdefault(record["task"], set()).update(hash_of(" ".join(gram)) for gram in ngrams(words, n))
    folder.mkdir(parents=True)
    for task, hashes in found.items():
        np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(folder / f"{task}.index.hashes")
    return str(folder)


if __name__ == "__main__":
    main()
