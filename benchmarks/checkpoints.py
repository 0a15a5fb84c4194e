"""Writing a checkpoint: hashed as it is written, against written by safetensors and read again to be hashed.

    python benchmarks/checkpoints.py --folder /scratch/empty --rounds 5

The latter once with what was written still in memory, and once without, as where a checkpoint is larger than what is
left of it, or the disk is another machine's. They take turns on the same tensors, in one order and then in the other,
each alone on the disk and synced to it; compare the ratios, since disks are noisy. Both checkpoints' files are compared before. A state of 200M
parameters takes 2.4 GB of memory, and up to twice that of disk.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.transformer import Transformer
from workbench.model.weights import WEIGHTS, to_hf, write_hf_config
from workbench.study.files import sha256
from workbench.study.flops import count_parameters
from workbench.study.layout import StageDir
from workbench.study.memory import state_bytes
from workbench.train.checkpoint import write_checkpoint
from workbench.train.optimizer import build_optimizer, optimizer_tensors, set_learning_rate
from workbench.train.state import OPTIMIZER_FILE, TrainState, save_state


def main() -> None:
    """Measure in turn and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
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


def make_state(layers: int, width: int) -> TrainState:
    """Draw weights, and moments from one update with random gradients."""
    torch.manual_seed(0)
    config = ModelConfig(
        name="benchmark",
        num_layers=layers,
        width=width,
        num_heads=width // 64,
        num_kv_heads=width // 64,
        mlp_width=width * 8 // 3 // 32 * 32,
        vocab_size=32000,
        context_tokens=2048,
    )
    model = Transformer(config)
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


def write_as_now(state: TrainState, folder: Path) -> None:
    """Write as the training loop does."""
    write_checkpoint(
        StageDir(folder),
        1,
        lambda partial: save_state(state, partial, folder, 0, 1),
        {"step": 1, "tokens": 2048},
        keep=True,
        needed_bytes=state_bytes(count_parameters(state.model.config).total),
    )


def assert_equal(old: Path, new: Path) -> None:
    """Refuse a comparison of files that differ."""
    [checkpoint] = StageDir(new).list_checkpoints()
    recorded = json.loads((checkpoint / "manifest.json").read_text())["files"]
    for name in (WEIGHTS, OPTIMIZER_FILE):
        assert recorded[name]["sha256"] == sha256(old / name) == sha256(checkpoint / name), name


if __name__ == "__main__":
    main()
