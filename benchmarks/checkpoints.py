"""Writing a checkpoint: hashed as it is written, against written by safetensors and read again to be hashed.

    python benchmarks/checkpoints.py --folder /scratch/empty --rounds 5

The latter once with what was written still in memory, and once without, as where a checkpoint is larger than what is
left of it, or the disk is another machine's. They take turns on the same tensors, in one order and then in the other,
each alone on the disk and synced to it; compare the ratios, since disks are noisy. Both checkpoints' files are compared before. A state of 200M
parameters takes 2.4 GB of memory, and up to twice that of disk.

    python benchmarks/checkpoints.py --folder /scratch/empty --stalls 6 --layers 4 --width 128 --mlp 432 --context 256

measures how long training stands still for a checkpoint: so many steps without one, with one that is written while
training waits, and with one written beside it, in turn, each way's checkpoint after the first step of a round.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from workbench.config.schema import ModelConfig, NumericsConfig, OptimizerConfig
from workbench.model.transformer import Transformer
from workbench.model.weights import WEIGHTS, to_hf, write_hf_config
from workbench.study.files import sha256
from workbench.study.flops import count_parameters
from workbench.study.layout import StageDir
from workbench.study.memory import state_bytes
from workbench.train.background import CheckpointWriter
from workbench.train.checkpoint import write_checkpoint
from workbench.train.distributed import World
from workbench.train.freed_memory import keep_freed_memory
from workbench.train.interval import CheckpointClock
from workbench.train.optimizer import build_optimizer, optimizer_tensors, set_learning_rate
from workbench.train.state import OPTIMIZER_FILE, TrainState, save_state
from workbench.train.state_copy import HostCopies, Snapshot
from workbench.train.throughput import plain_step
from workbench.train.trial_stage import make_trial_stage


def main() -> None:
    """Measure in turn and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--stalls", type=int, help="steps of a round; measures the training's stalls alone")
    parser.add_argument("--mlp", type=int, help="8/3 of the width where nothing is said")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.stalls is not None:
        print(json.dumps(measure_stalls(options)))
        return
    state = make_state(options.layers, options.width)
    ways = {
        "as_written": write_as_now,
        "read_again": write_and_read_again,
        "read_from_disk": partial(write_and_read_again, forget=True),
    }
    seconds, processor = {name: [] for name in ways}, {name: [] for name in ways}
    folders = {name: options.folder / name for name in ways}
    clear(folders)
    for name, write in ways.items():
        write(state, folders[name])
    assert_equal(folders["read_again"], folders["as_written"])
    size = sum(path.stat().st_size for path in folders["as_written"].rglob("*"))
    for number in range(options.rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            clear(folders)
            began, used = time.perf_counter(), time.process_time()
            ways[name](state, folders[name])
            seconds[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    clear(folders)
    print(
        json.dumps(
            {
                "params": count_parameters(state.model.config).total,
                "bytes": size,
                "seconds": rounded(seconds),
                "ratios": ratios(seconds),
                "processor_seconds": rounded(processor),
                "processor_ratios": ratios(processor),
            }
        )
    )


def clear(folders: dict[str, Path]) -> None:
    """Begin with an empty disk and nothing to be written."""
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def rounded(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Each round's, to the hundredth."""
    return {name: [round(each, 2) for each in values] for name, values in seconds.items()}


def ratios(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Give the present way over each other, round by round: least, median and greatest."""
    found = {}
    for other in ("read_again", "read_from_disk"):
        each = sorted(new / old for new, old in zip(seconds["as_written"], seconds[other], strict=True))
        found[other] = [round(value, 2) for value in (each[0], statistics.median(each), each[-1])]
    return found


def measure_stalls(options: argparse.Namespace) -> dict[str, Any]:
    """Time rounds of steps without a checkpoint, and with one; of the last, how long it kept the steps waiting."""
    config = make_config(options.layers, options.width, options.mlp, options.vocabulary, options.context)
    numerics = NumericsConfig(threads=options.threads)
    stage = make_trial_stage(config, batch_sequences=options.batch, peak=1e-5, numerics=numerics)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    step = cast("partial[Any]", plain_step(stage, torch.device("cpu")))
    state = TrainState(step.args[0], step.args[2], 1, 2048)
    for _ in range(2):
        step()
    copies = HostCopies(torch.device("cpu"))
    rounds: dict[str, list[dict[str, float]]] = {"none": [], "inline": [], "background": []}
    for number in range(-1, options.rounds):
        for way in sorted(rounds, reverse=bool(number % 2)):
            clear({way: options.folder / way})
            found = one_round(step, state, None if way == "none" else options.folder / way, copies, way, options.stalls)
            if number >= 0:  # in the one before, memory for the copy was taken
                rounds[way].append({name: round(value, 4) for name, value in found.items()})
    clear({way: options.folder / way for way in rounds})
    middle = {
        way: {name: statistics.median(each[name] for each in rounds[way]) for name in rounds[way][0]} for way in rounds
    }
    bytes_ = state_bytes(count_parameters(config).total)
    return {"params": count_parameters(config).total, "bytes": bytes_, "medians": middle, "rounds": rounds}


def one_round(
    step: Callable[[], Any], state: TrainState, folder: Path | None, copies: HostCopies, way: str, steps: int
) -> dict[str, float]:
    """Take a step, begin a checkpoint, and take the rest: seconds of all, of standing still, and of the write."""
    writer = CheckpointWriter(World(), CheckpointClock(None, 0))
    written: list[float] = []

    def save(snapshot: Snapshot) -> Path:
        began = time.perf_counter()
        assert folder is not None
        write_as_now(snapshot, folder)
        written.append(time.perf_counter() - began)
        return folder

    began, used = time.perf_counter(), time.process_time()
    step()
    stood = time.perf_counter()
    if way == "inline":
        writer.write(lambda _: save(state.snapshot()), lambda _: None)
    elif way == "background":
        copied = copies.copy(state.snapshot(), is_main=True)
        writer.write_beside(lambda _: save(copied), lambda _: None)
    stood = time.perf_counter() - stood
    for _ in range(steps - 1):
        step()
    late = time.perf_counter()
    writer.settle()
    late = time.perf_counter() - late
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    return {"seconds": seconds, "processor": processor, "stood": stood, "late": late, "write": sum(written)}


def make_config(
    layers: int, width: int, mlp: int | None = None, vocabulary: int = 32000, context: int = 2048
) -> ModelConfig:
    """Shape a Llama of a width that 32 or 64 divides."""
    heads = width // 64 if width >= 512 else width // 32
    return ModelConfig(
        name="benchmark",
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=heads,
        mlp_width=mlp or width * 8 // 3 // 32 * 32,
        vocab_size=vocabulary,
        context_tokens=context,
    )


def make_state(layers: int, width: int) -> TrainState:
    """Draw weights, and moments from one update with random gradients."""
    torch.manual_seed(0)
    model = Transformer(make_config(layers, width))
    optimizer = build_optimizer(model, OptimizerConfig())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return TrainState(model, optimizer, 1, 2048)


def write_and_read_again(state: TrainState, folder: Path, *, forget: bool = False) -> None:
    """Write as it was until November 2026: by safetensors, then read each file to hash it."""
    folder.mkdir(parents=True)
    weights = {key: value.contiguous() for key, value in to_hf(state.model.state_dict(), state.model.config).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_hf_config(folder, state.model.config, None, 0, 1)
    save_file(optimizer_tensors(state.model, state.optimizer), folder / OPTIMIZER_FILE)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if forget:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        sha256(path)


def write_as_now(state: TrainState | Snapshot, folder: Path) -> None:
    """Write as the training loop does."""
    write_checkpoint(
        StageDir(folder),
        1,
        lambda partial: save_state(state, partial, folder, 0, 1),
        {"step": 1, "tokens": 2048},
        keep=True,
        needed_bytes=0,
    )


def assert_equal(old: Path, new: Path) -> None:
    """Refuse a comparison of files that differ."""
    [checkpoint] = StageDir(new).list_checkpoints()
    recorded = json.loads((checkpoint / "manifest.json").read_text())["files"]
    for name in (WEIGHTS, OPTIMIZER_FILE):
        assert recorded[name]["sha256"] == sha256(old / name) == sha256(checkpoint / name), name


if __name__ == "__main__":
    main()
