"""A corpus with things planted in it: what each step finds, how fast, in how much memory; datatrove beside it.

    OMP_NUM_THREADS=1 python -m benchmarks.planted_corpus --folder /scratch/empty --megabytes 200
    OMP_NUM_THREADS=1 python -m benchmarks.planted_corpus --folder /scratch/empty --megabytes 20 --datatrove /venv/bin/python

The text is `planted_text.py`'s. The pipeline runs as `workbench prepare` runs it. Prints lines of JSON: recall and precision of every step
against what was planted, what is said of damaged lines, seconds and MB/s per core of every step (of wall time, and of the
processor's time of all processes, which other work on the machine disturbs less), peak memory, the step of tokens beside
`tokenizers` alone in as many processes on the same text, and datatrove's pipeline of the same steps. MB are of UTF-8 text, 10^6 bytes.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.planted_checks import Check, say
from benchmarks.planted_text import Truth, make, read_truth
from benchmarks.process_tree import Watched, watched
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.config.schema.contamination_config import Contamination
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.config.schema.quality_thresholds import GopherRepetitionThresholds, GopherThresholds, QualitySettings
from workbench.data.corpus.phases import PHASES
from workbench.data.store import Prepared, prepare
from workbench.data.tokenizer import load_file, train_bpe
from workbench.study.layout import Layout

VOCABULARY = 32_000
DATATROVE_STEPS = ["read_and_filter", "signatures", "buckets", "cluster", "tokens"]
_BATCH_CHARACTERS = 1_000_000


def main() -> None:
    """Make the text, run the pipelines, and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for text and outputs; its text is used again")
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alone", type=float, default=500, help="megabytes that `tokenizers` alone encodes")
    parser.add_argument("--no-quality", action="store_true", help="without Gopher's rules")
    parser.add_argument("--datatrove", type=Path, help="a Python that has datatrove; without it nothing is compared")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    folder = options.folder
    if not (folder / "truth.json").exists():
        make(folder, options.megabytes, options.seed)
    truth = read_truth(folder)
    tokenizer = make_tokenizer(folder)
    say(
        "machine",
        processor=_processor(),
        cores=os.cpu_count(),
        load=os.getloadavg()[0],
        python=platform.python_version(),
    )
    say("text", megabytes=truth.bytes / 1e6, documents=truth.documents, seconds_to_make=truth.seconds)
    refuse_damaged(folder, tokenizer)
    prepared, seen = run_pipeline(folder, tokenizer, options.workers, not options.no_quality)
    speed = report_speed(prepared, seen, truth, options.workers)
    compare_to_tokenizers(folder, speed, options.workers, options.alone)
    Check(folder, truth, prepared, not options.no_quality).report()
    if options.datatrove is None:
        say("datatrove", result="not compared: name a Python that has it by --datatrove")
    else:
        run_datatrove(folder, options, truth, speed["whole"])


def make_tokenizer(folder: Path) -> TokenizerConfig:
    """Train a BPE on the first documents, for all pipelines."""
    path = folder / "tokenizer.json"
    if not path.exists():
        texts = [text for _, text in zip(range(4000), read_all(folder), strict=False)]
        train_bpe(texts, VOCABULARY).save(str(path))
    return TokenizerConfig("file", VOCABULARY, str(path), bos="<s>", eos="</s>")


def read_all(folder: Path) -> Iterator[str]:
    """Texts as they were written."""
    for path in sorted((folder / "text").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def refuse_damaged(folder: Path, tokenizer: TokenizerConfig) -> None:
    """Print what is said of each damaged line: reading stops there, and nothing is passed over."""
    for path in sorted((folder / "damaged").glob("*.jsonl")):
        data = DataConfig(
            "damaged", {"damaged": SourceConfig("jsonl", path=str(path), heldout_bytes=0)}, corpus=CorpusConfig()
        )
        try:
            prepare(data, tokenizer, Layout(folder / "damaged_outputs"), workers=1)
        except ValueError as error:
            said = str(error)
        else:
            said = "nothing"
        named = path.name in said and "line 2" in said
        say("damaged_line", file=path.name, stops_with_file_and_line=named, says=said.replace(str(folder), ""))
    shutil.rmtree(folder / "damaged_outputs", ignore_errors=True)


def run_pipeline(folder: Path, tokenizer: TokenizerConfig, workers: int, quality: bool) -> tuple[Prepared, Watched]:
    """Prepare the corpus with every step on."""
    rules = QualitySettings(GopherRepetitionThresholds(), GopherThresholds()) if quality else None
    source = SourceConfig("jsonl", path=str(folder / "text"), where="id >= 0", quality=rules)
    size = sum(path.stat().st_size for path in (folder / "text").iterdir())
    corpus = CorpusConfig(
        shard_bytes=min(256_000_000, max(1, size // (2 * workers))),
        near_duplicates=NearDuplicates(),
        contamination=Contamination(str(folder / "benchmark")),
    )
    outputs = folder / "outputs"
    shutil.rmtree(outputs, ignore_errors=True)
    data = DataConfig("planted", {"made": source}, corpus=corpus)
    with watched(lambda: _phase(outputs)) as seen:
        prepared = prepare(data, tokenizer, Layout(outputs), workers)
    return prepared, seen


def _phase(outputs: Path) -> str:
    """Name the phase that is being done by the records that are there: the last one begun, if it has claims, or the one behind."""
    claims = {path.name.split("%2F")[0].split("/")[0] for path in outputs.glob("data/*.building/claims/*")}
    records = {path.name for path in outputs.glob("data/*.building/records/*")}
    names = [phase.name for phase in PHASES]
    begun = [name for name in names if name in records or any(claim.startswith(name) for claim in claims)]
    return begun[-1] if begun else "start"


def report_speed(prepared: Prepared, seen: Watched, truth: Truth, workers: int) -> dict[str, dict[str, float]]:
    """Print seconds and MB/s of steps and of the whole; give MB/s of the processor's time by step."""
    facts = prepared.manifest["sources"]["made"]
    sizes = {"read": truth.bytes, "tokens": facts["bytes"], "whole": truth.bytes}
    steps = [*seen.wall, "whole"]
    wall = {**seen.wall, "whole": sum(seen.wall.values())}
    processor = {**seen.processor, "whole": sum(seen.processor.values())}
    speeds = {}
    for step in steps:
        size = sizes.get(step, truth.bytes) / 1e6
        speeds[step] = {
            "wall_seconds": wall[step],
            "processor_seconds": processor[step],
            "megabytes_per_core_second_of_wall": size / wall[step] / workers,
            "megabytes_per_processor_second": size / max(processor[step], 0.01),
        }
        say("step", step=step, **speeds[step])
    say("memory", peak_sum_megabytes=seen.peak_sum / 1e6, peak_of_one_process_megabytes=seen.peak_one / 1e6)
    return speeds


def compare_to_tokenizers(folder: Path, speed: dict[str, dict[str, float]], workers: int, megabytes: float) -> None:
    """Encode the first files by `tokenizers` alone, in as many processes, and set the pipeline beside it."""
    files, size = [], 0
    for path in sorted((folder / "text").glob("*.jsonl")):
        if size < megabytes * 1e6:
            files.append(path)
            size += path.stat().st_size
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        results = list(pool.map(_encode, files, [folder / "tokenizer.json"] * len(files)))
    encoded, wall, processor = (sum(column) for column in zip(*results, strict=True))
    alone = {"of_processor": encoded / processor, "of_wall": encoded / wall}
    say(
        "tokenizers_alone",
        megabytes=encoded,
        megabytes_per_processor_second=alone["of_processor"],
        megabytes_per_core_second_of_wall=alone["of_wall"],
    )
    for step, target in (("tokens", 0.9), ("whole", 0.6)):
        by_processor = speed[step]["megabytes_per_processor_second"] / alone["of_processor"]
        by_wall = speed[step]["megabytes_per_core_second_of_wall"] / alone["of_wall"]
        say("beside_tokenizers", step=step, ratio_of_processor=by_processor, ratio_of_wall=by_wall, target=target)


def _encode(path: Path, tokenizer_path: Path) -> tuple[float, float, float]:
    """MB, seconds and the processor's seconds of encoding a file's texts, read before."""
    tokenizer = load_file(tokenizer_path)
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    batches: list[list[str]] = [[]]
    characters = 0
    for text in texts:
        batches[-1].append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            batches.append([])
            characters = 0
    wall, processor = time.perf_counter(), time.process_time()
    for batch in batches:
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return sum(len(text.encode()) for text in texts) / 1e6, wall, processor


def run_datatrove(folder: Path, options: argparse.Namespace, truth: Truth, ours: dict[str, float]) -> None:
    """Run datatrove's pipeline on the same text, and set ours beside it."""
    output = folder / "datatrove"
    shutil.rmtree(output, ignore_errors=True)
    command = [str(options.datatrove), str(Path(__file__).with_name("datatrove_corpus.py"))]
    command += ["--folder", str(folder), "--output", str(output), "--tokenizer", str(folder / "tokenizer.json")]
    command += ["--workers", str(options.workers), *(["--no-quality"] if options.no_quality else [])]
    with watched(lambda: _datatrove_step(output)) as seen:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"datatrove failed: {result.stderr[-2000:]}")
    steps = [json.loads(line) for line in result.stdout.splitlines()]
    for step in steps:
        say("datatrove", **step, processor_seconds=seen.processor[step["step"]])
    processor = sum(seen.processor.values())
    wall = sum(step["wall_seconds"] for step in steps)
    size = truth.bytes / 1e6
    say(
        "beside_datatrove",
        megabytes_per_processor_second=size / processor,
        megabytes_per_core_second_of_wall=size / wall / options.workers,
        ratio_of_processor=ours["megabytes_per_processor_second"] / (size / processor),
        ratio_of_wall=ours["megabytes_per_core_second_of_wall"] / (size / wall / options.workers),
        peak_sum_megabytes=seen.peak_sum / 1e6,
        target=2,
    )
    shutil.rmtree(output)


def _datatrove_step(output: Path) -> str:
    """Name the step that was begun last, by the folders of logs."""
    begun = [path.name for path in output.glob("logs/*")]
    return max(begun, key=DATATROVE_STEPS.index, default="start")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
