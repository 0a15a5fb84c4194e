"""Duplicates in made text: what is found of those planted, how fast, and in how much memory.

    OMP_NUM_THREADS=1 python -m benchmarks.duplicates --folder /scratch/empty --megabytes 50

The text is of made words; copies follow that are equal (similarity 1) or edited to a Jaccard similarity of their 5-grams.
Prints lines of JSON: recall of every similarity beside the formula's, precision (dropped documents that were planted),
MB/s of one core for each step (processor's time, of one process), and the process's peak memory, the text included.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from tests.data.corpus.made_duplicates import edit, make_words
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus.document_files import hashes_of, make_key
from workbench.data.corpus.exact_duplicates import bucket_count, drop_in_bucket, rows_to_drop
from workbench.data.corpus.minhash import bands, jaccard, probability
from workbench.data.corpus.near_duplicate_groups import join, write_pairs
from workbench.data.corpus.words import Words

SIMILARITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)
BUDGET_BYTES = 1 << 28
BATCH_BYTES = 4_000_000
SETTINGS = NearDuplicates()


def main() -> None:
    """Make text, drop its duplicates, and print one line of JSON for each thing measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=50)
    options = parser.parse_args()
    shards, planted = make_shards(options.megabytes * 1e6)
    seconds = {}
    exact = find_exact(shards, options.folder, seconds)
    near = find_near(shards, options.folder, seconds)
    place = np.cumsum([0, *map(len, shards)])
    for similarity in SIMILARITIES:
        mine = {place[shard] + row for (shard, row), s in planted.items() if s == similarity}
        line = {"similarity": similarity, "planted": len(mine), "recall_near": round(len(mine & near) / len(mine), 4)}
        true = [
            jaccard(shards[shard - 1][row], shards[shard][row], 5)
            for (shard, row), s in planted.items()
            if s == similarity
        ]
        line["mean_similarity"] = round(float(np.mean(true)), 4)
        line["expected_near"] = round(float(np.mean([probability(s, SETTINGS) for s in true])), 4)
        line["recall_exact"] = round(len(mine & exact) / len(mine), 4)
        print(json.dumps(line))
    everything = {int(place[shard] + row) for shard, row in planted}
    size = sum(len(text) for shard in shards for text in shard) / 1e6
    line = {
        "megabytes": round(size, 1),
        "documents": int(place[-1]),
        "precision_exact": round(len(exact & everything) / len(exact), 4),
        "precision_near": round(len(near & everything) / len(near), 4),
        "megabytes_a_second": {name: round(size / spent, 1) for name, spent in seconds.items()},
        "peak_memory_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(line))


def make_shards(size: float) -> tuple[list[list[str]], dict[tuple[int, int], float]]:
    """Make text of some bytes (ASCII), shards of first documents and then of copies, and the similarity of each copy."""
    draw = np.random.default_rng(0)
    shards, planted, made = [], {}, 0.0
    while made < size:
        firsts = [make_words(draw, int(count)) for count in draw.integers(100, 1000, size=800)]
        similarity = [SIMILARITIES[k % len(SIMILARITIES)] for k in range(400)]
        copies = [edit(firsts[k], similarity[k], draw) for k in range(400)]
        planted |= {(len(shards) + 1, k): similarity[k] for k in range(400)}
        shards += [[" ".join(words) for words in part] for part in (firsts, copies)]
        made += sum(len(text) for shard in shards[-2:] for text in shard)
    return shards, planted


def find_exact(shards: list[list[str]], folder: Path, seconds: dict[str, float]) -> set[int]:
    """Numbers of the exact duplicates."""
    start = time.process_time()
    files = [folder / f"{shard}.hashes.npy" for shard in range(len(shards))]
    for file, texts in zip(files, shards, strict=True):
        np.save(file, hashes_of([make_key(text) for text in texts]))
    seconds["hash"] = time.process_time() - start
    start = time.process_time()
    buckets = bucket_count(sum(map(len, shards)), BUDGET_BYTES)
    found = [drop_in_bucket(bucket, buckets, files, folder / f"{bucket}.drop.npy") for bucket in range(buckets)]
    place = np.cumsum([0, *map(len, shards)])
    dropped = {int(place[shard] + row) for shard in range(len(shards)) for row in rows_to_drop(shard, found)}
    seconds["exact_duplicates"] = time.process_time() - start
    return dropped


def find_near(shards: list[list[str]], folder: Path, seconds: dict[str, float]) -> set[int]:
    """Numbers of the near duplicates."""
    start = time.process_time()
    files = [folder / f"{shard}.bands.npy" for shard in range(len(shards))]
    for file, texts in zip(files, shards, strict=True):
        np.save(file, np.concatenate([bands(Words.of(part), SETTINGS) for part in batches(texts)]))
    seconds["words_and_bands"] = time.process_time() - start
    start = time.process_time()
    pairs = [write_pairs(k, files, folder / f"{k}.pairs", BUDGET_BYTES) for k in range(SETTINGS.bands)]
    outputs = join(pairs, [len(texts) for texts in shards], folder)
    seconds["near_duplicate_groups"] = time.process_time() - start
    place = np.cumsum([0, *map(len, shards)])
    return {int(place[shard] + row) for shard, file in enumerate(outputs) for row in np.load(file)}


def batches(texts: list[str]) -> list[list[str]]:
    """Cut a shard's texts into batches of some megabytes."""
    ends = np.cumsum([len(text) for text in texts]) // BATCH_BYTES
    return [[texts[k] for k in np.flatnonzero(ends == batch)] for batch in np.unique(ends)]


if __name__ == "__main__":
    main()
