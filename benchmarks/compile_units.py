"""Compiling the whole model or one block for all: time until the first step, and steps in turn.

    python -m benchmarks.compile_units --layers 4 12 --width 128 --heads 4 --mlp 432

Each side is a process of its own that keeps nothing of what `torch.compile` made before. A round is a few steps of one side
and then of the other; times are the processor's, since the machine may have other work.
"""

import argparse
import json
import multiprocessing
import os
import statistics
from dataclasses import replace
from multiprocessing.connection import Connection

UNITS = ("eager", "model", "block")


def main() -> None:
    """Print one line of JSON for each number of layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 12])
    for name, default in {"width": 128, "heads": 4, "mlp": 432, "vocab": 4096, "context": 256, "batch": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    # Compiled anew, in the process itself, so that its time counts.
    os.environ |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    for layers in options.layers:
        print(json.dumps({"layers": layers} | compare(options, layers)), flush=True)


def compare(options: argparse.Namespace, layers: int) -> dict[str, dict[str, float]]:
    """Seconds of the processor: the first step of each side, and the median of its steps."""
    context = multiprocessing.get_context("spawn")
    sides, first = {}, {}
    for unit in UNITS:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, vars(options), layers, unit), daemon=True).start()
        sides[unit], first[unit] = ours, ours.recv()
    rounds = {unit: [] for unit in UNITS}
    for _ in range(options.rounds):
        for unit, side in sides.items():
            side.send(options.steps)
            rounds[unit].append(side.recv())
    for side in sides.values():
        side.send(0)
    return {
        unit: {"first_step": round(first[unit], 2), "step": round(statistics.median(rounds[unit]), 4)} for unit in UNITS
    }


def serve(parent: Connection, options: dict[str, int | str], layers: int, unit: str) -> None:
    """Take the first step, and then as many as the parent asks for, until it asks for none."""
    import torch

    from benchmarks.training import make_stage
    from workbench.train.throughput import plain_step

    torch.set_num_threads(1)
    more = {
        "layers": layers,
        "kv_heads": options["heads"],
        "threads": 1,
        "attention": "sdpa",
        "compile": unit != "eager",
    }
    more |= {"activation_checkpointing": False, "micro_batch": None, "cross_entropy": "own", "products": "onednn"}
    more |= {"compile_unit": "model" if unit == "eager" else unit}
    stage = make_stage(argparse.Namespace(**options | more))
    step = plain_step(replace(stage, numerics=replace(stage.numerics, device="cpu")), torch.device("cpu"))
    parent.send(timed(step, 1))
    while steps := parent.recv():
        parent.send(timed(step, steps) / steps)


def timed(step, steps: int) -> float:
    """Processor's seconds, children's included: the compiler of C++ is one."""
    before = os.times()
    for _ in range(steps):
        step()
    after = os.times()
    return sum(b - a for a, b in zip(before[:4], after[:4], strict=True))


if __name__ == "__main__":
    main()
