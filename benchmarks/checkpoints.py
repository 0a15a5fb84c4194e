"""Writing a checkpoint: hashed as it is written, against written by safetensors and read again to be hashed.

    python benchmarks/checkpoints.py --folder /scratch/empty --rounds 5

The two take turns on the same tensors, synced to the disk each time; compare the ratios, since disks are noisy. Both
checkpoints are compared byte for byte at the end. A state of 200M parameters takes 2.4 GB of memory and of disk, twice.
"""

import argparse
import json
import os
import shutil
import statistics
import time
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
    state, seconds = make_state(options.layers, options.width), {"read_again": [], "as_written": []}
    processor = {name: [] for name in seconds}
    folders = {name: options.folder / name for name in seconds}
    for _ in range(options.rounds):
        for name, write in (("read_again", write_and_read_again), ("as_written", write_as_now)):
            shutil.rmtree(folders[name], ignore_errors=True)
            os.sync()
            began, used = time.perf_counter(), time.process_time()
            write(state, folders[name])
            seconds[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    assert_equal(folders["read_again"], folders["as_written"])
    print(
        json.dumps(
            {
                "params": count_parameters(state.model.config).total,
                "bytes": sum(path.stat().st_size for path in folders["as_written"].rglob("*")),
                "seconds": rounded(seconds),
                "ratio": ratio(seconds),
                "processor_seconds": rounded(processor),
                "processor_ratio": ratio(processor),
            }
        )
    )
    for folder in folders.values():
        shutil.rmtree(folder)


def rounded(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Each round's, to the hundredth."""
    return {name: [round(each, 2) for each in values] for name, values in seconds.items()}


def ratio(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Give the second way over the first, a round each: median and range."""
    each = [new / old for old, new in zip(*seconds.values(), strict=True)]
    return {"median": round(statistics.median(each), 3), "min": round(min(each), 3), "max": round(max(each), 3)}


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


def write_and_read_again(state: TrainState, folder: Path) -> None:
    """Write as it was until November 2026: by safetensors, then read each file to hash it."""
    folder.mkdir(parents=True)
    weights = {key: value.contiguous() for key, value in to_hf(state.model.state_dict(), state.model.config).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_hf_config(folder, state.model.config, None, 0, 1)
    save_file(optimizer_tensors(state.model, state.optimizer), folder / OPTIMIZER_FILE)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
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
