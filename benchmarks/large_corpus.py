"""A made store of 2T tokens: opening it, the first batch, the next ones, the mixture and its ramp, packing, memory.

    python benchmarks/large_corpus.py
    python benchmarks/large_corpus.py --tokens 100_000_000_000 --reading positioned

The files are holes: they take no room and read as zeros, so that reading them costs no disk, but the page cache's work
and all of ours. A line of JSON for each measurement; `needed` is what tinyllama_1b asks of a process that feeds one H100.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.config.schema import MixtureSegment, StreamConfig, StreamSource
from workbench.data.corpus.token_shards import READINGS, TokenShards
from workbench.data.mixture import Mixture
from workbench.data.packed_index import make_packing, pack_block
from workbench.data.permutation import Permutation
from workbench.data.read_ahead import ReadAhead
from workbench.data.store import Prepared
from workbench.data.stream import Stream

CONTEXT = 2048
SHARES = {"slimpajama": 0.7, "starcoder": 0.3}
SEVEN = dict(zip("abcdefg", (0.41, 0.237, 0.123456, 0.1, 0.06, 0.05, 0.019544), strict=True))
OTHER_SEVEN = dict(zip("abcdefg", (0.02, 0.31, 0.333333, 0.2, 0.01, 0.076667, 0.05), strict=True))
RAMP = 100_000_000_000 // CONTEXT
PHASE = 2_000_000_000_000 // CONTEXT
FLOPS_PER_TOKEN, FLOPS_PER_SECOND = 7.31e9, 0.6 * 989e12


class Store:
    """The sources in files, as a stream takes them."""

    fingerprint = "f" * 16

    def __init__(self, sources: dict[str, TokenShards]) -> None:
        self.sources = sources


def main() -> None:
    """Make the files, and measure in a process that has done nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000_000_000)
    parser.add_argument("--shard-tokens", type=int, default=1_000_000_000, help="tokens of a file")
    parser.add_argument("--reading", choices=READINGS, default=READINGS[0])
    parser.add_argument("--batches", type=int, default=200, help="batches of 40 sequences that are drawn")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.store is not None:
        measure(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), arguments.tokens, arguments.shard_tokens)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, *sys.argv[1:], "--store", folder]
        raise SystemExit(subprocess.run(command, check=False, env=environment).returncode)


def make_files(folder: Path, tokens: int, shard_tokens: int) -> None:
    """Make holes of the sizes that the tokens have as uint16."""
    for name, share in SHARES.items():
        rest, number = int(tokens * share), 0
        (folder / name).mkdir()
        while rest > 0:
            with (folder / name / f"{number:06}.bin").open("wb") as file:
                file.truncate(2 * min(rest, shard_tokens))
            rest, number = rest - shard_tokens, number + 1


def measure(arguments: argparse.Namespace) -> None:
    """Print a line for each measurement."""
    say(
        "machine",
        processor=_processor(),
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
    )
    stream = timed("open", lambda: open_stream(arguments.store, arguments.reading), tokens=arguments.tokens)
    timed("first_batch", lambda: stream.batch(0, 40), sequences=40)
    middle = PHASE // 2
    needed = FLOPS_PER_SECOND / FLOPS_PER_TOKEN / CONTEXT
    for name, start in (("next_batches", 40), ("batches_in_the_middle", middle)):
        draw(name, stream.batch, start, arguments.batches, needed)
    ahead = ReadAhead(stream.batch, 40, 2, PHASE)
    draw("batches_ahead_in_a_thread", ahead, 2 * middle // 3, arguments.batches, needed)
    ahead.close()
    places = np.random.default_rng(0).integers(0, PHASE, 100).tolist()
    timed("random_sequences", lambda: [stream.sequence(i) for i in places], per=100)
    timed("counts", lambda: stream.counts(PHASE - 1))
    timed("max_epochs_check", lambda: stream.check(PHASE // 2))
    mixtures(places)
    permutation = Permutation(int(arguments.tokens * 0.7) // CONTEXT, "key")
    positions = np.arange(1_000_000)
    timed("permutation_of_a_million_positions", lambda: permutation(positions), per=1_000_000)
    say("memory", peak_rss_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    packed_documents(middle, arguments.batches, needed)


def open_stream(folder: Path, reading: str) -> Stream:
    """Open the files of a folder as a stream of 7:3."""
    sources = {
        name: TokenShards(sorted((folder / name).glob("*.bin")), np.uint16, reading=reading, most_open=64)
        for name in SHARES
    }
    limits = {name: StreamSource(None, None) for name in SHARES}
    return Stream(Store(sources), StreamConfig(Store.fingerprint, CONTEXT, 0, limits, [MixtureSegment(0, SHARES)]))


def packed_documents(place: int, batches: int, needed: float) -> None:
    """Measure packing by best fit, by block and in all, and drawing what was packed."""
    for context in (CONTEXT, 16 * CONTEXT):
        for exponent in (12, 14, 16, 18, 20):
            pack_blocks(1 << exponent, context)
    documents = made_documents(1 << 18, 3)
    tokens = np.zeros(documents[-1, 1], np.uint16)
    tokens[documents[:, 0]] = 1
    manifest = {"fingerprint": "f", "format": 2, "dtype": "<u2", "tokenizer": {"bos_id": 1}, "sources": {"text": {}}}
    with tempfile.TemporaryDirectory() as folder:
        store = Prepared(Path(folder) / "data" / "f", manifest)
        store.directory.mkdir(parents=True)
        tokens.tofile(store.directory / "tokens_text.bin")
        timed("find_and_pack_a_store", lambda: make_packing(store, CONTEXT), documents=1 << 18, tokens=len(tokens))
        config = StreamConfig("f", CONTEXT, 0, {"text": StreamSource(None, None)}, [MixtureSegment(0, {"text": 1})])
        for packing in ("concatenate", "best_fit"):
            stream = Stream(store, replace(config, packing=packing))
            draw(f"batches_of_documents_{packing}", stream.draw, place, batches, needed)


def pack_blocks(count: int, context: int) -> None:
    """Measure three blocks of documents of other seeds: documents a second, and the middle one's padding."""
    seconds, padded = 0.0, list[float]()
    for seed in range(3):
        documents = made_documents(count, seed)
        began = time.process_time()
        block = pack_block(documents, context)
        seconds += time.process_time() - began
        padded.append(1 - float(documents[-1, 1]) / ((len(block.starts) - 1) * context))
    rate = 3 * count / seconds
    say("pack_a_block", documents=count, context=context, per_processor_second=rate, padded_share=sorted(padded)[1])


def made_documents(count: int, seed: int) -> NDArray[np.int64]:
    """First token and end of documents (count, 2): lengths log-normal, with a median of 500 tokens and a mean of 910."""
    lengths = np.maximum(1, np.random.default_rng(seed).lognormal(np.log(500), 1.1, count)).astype(np.int64)
    ends = np.cumsum(lengths)
    return np.stack([ends - lengths, ends], 1)


def mixtures(places: list[int]) -> None:
    """Measure counts and places of seven sources, constant over 2T tokens and then in a ramp of 100B."""
    segments = [MixtureSegment(0, SEVEN), MixtureSegment(PHASE, OTHER_SEVEN, RAMP)]
    mixture = timed("mixture_of_seven", lambda: Mixture(segments, tuple("abcdefg")))
    timed("mixture_counts_after_2T_and_a_ramp_of_100B", lambda: mixture.counts(PHASE + RAMP))
    in_ramp = [PHASE + place % RAMP for place in places]
    timed("mixture_random_places_in_the_ramp", lambda: [mixture.assign(p, 40) for p in in_ramp], per=len(places))
    timed("mixture_next_40_000_in_the_ramp", lambda: mixture.assign(in_ramp[-1] + 40, 40_000), per=40_000)


def draw(name: str, batch: Callable[[int, int], Any], start: int, batches: int, needed: float) -> None:
    """Draw batches in a row, and set their rate beside the one that is needed."""
    wall, processor = time.perf_counter(), time.process_time()
    for i in range(batches):
        batch(start + 40 * i, 40)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    rates = {"per_second": 40 * batches / wall, "per_processor_second": 40 * batches / processor, "needed": needed}
    say(name, **rates)


def timed(name: str, work: Callable[[], Any], per: int = 1, **facts: Any) -> Any:
    """Run work and print what it took, each of `per` parts."""
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    say(name, milliseconds=1e3 * wall / per, processor_milliseconds=1e3 * processor / per, **facts)
    return result


def say(name: str, **facts: Any) -> None:
    """Print a line of JSON."""
    rounded = {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in facts.items()}
    print(json.dumps({"what": name, **rounded}), flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
