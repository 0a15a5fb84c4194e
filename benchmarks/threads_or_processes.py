"""One stage on several cores of a CPU: one process with as many threads, or as many processes with one thread each.

    python -m benchmarks.threads_or_processes
    python -m benchmarks.threads_or_processes --models m1 --cores 4 --rounds 5 --attention blocks

The sides are one process with one thread, one with `--cores` threads (`numerics.threads`), and `--cores` processes with
a thread each (`resources.processes`), which take a share of the batch each, sum gradients over gloo and agree whether
to stop after every step, as a stage's processes do. They take turns, every side in processes of its own, and each keeps
the memory that it frees. What counts is wall time, so nothing else should run: the load average is printed before each
round. Printed are the speed by the median step (median, slowest and fastest of the rounds), that of the fastest step of
all rounds, which other work disturbs least, and the processor's time of a step, of all processes of the side together.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.training_beside_transformers import ENTERED, SHAPES, processor

LARGER = {"w512": {"width": 512, "layers": 8, "heads": 8, "kv-heads": 8, "mlp": 1376}}  # 25M parameters
ONE, THREADS, PROCESSES = "one thread", "threads", "processes"
SIDES = (ONE, THREADS, PROCESSES)
_TIMEOUT_SECONDS = 120.0
_FEWEST_STEPS = 3
_WARMUP_STEPS = 2


@dataclass(frozen=True)
class Measured:
    """Steps of a side in one round."""

    wall_seconds: float
    """Of the median step."""
    fastest_seconds: float
    processor_seconds: float
    """Of the median step, of all processes together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["m0_3", "m1", "w256", "w512"], choices=[*SHAPES, *LARGER])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="threads of the one side, processes of the other")
    parser.add_argument("--seconds", type=float, default=4.0, help="of one side in one round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "blocks"])
    parser.add_argument("--pin", action="store_true", help="each of several processes to a core of its own")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    for name in ("side", "rank", "port"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options)))
        return
    if options.batch % options.cores:
        parser.error(f"--batch {options.batch} does not divide by --cores {options.cores}")
    print(f"{processor()}, {os.cpu_count()} cores, {options.batch} x {options.context} tokens, {options.attention}")
    for name in options.models:
        found: dict[str, list[Measured]] = {side: [] for side in options.sides}
        for number in range(1, options.rounds + 1):
            print(f"{name}, round {number}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            for side in options.sides:
                found[side].append(run_side(options, name, side))
        print_table(options, name, found)


def print_table(options: argparse.Namespace, name: str, found: dict[str, list[Measured]]) -> None:
    tokens = options.batch * options.context
    print(f"\n{name}, {gradient_bytes(options, name) / 1e6:.1f} MB of gradients")
    for side, rounds in found.items():
        low, middle, high = spread([tokens / one.wall_seconds for one in rounds])
        used = statistics.median(one.processor_seconds for one in rounds)
        fastest = tokens / min(one.fastest_seconds for one in rounds)
        print(
            f"  {label(options, side):<14}{middle:>10,.0f} tokens/s ({low:,.0f} to {high:,.0f})"
            f", fastest step {fastest:,.0f}  {used * 1e3:9.1f} ms of the processor a step{beside(side, found)}",
            flush=True,
        )


def beside(side: str, found: dict[str, list[Measured]]) -> str:
    """Say how often a side is as fast as each one before it: the median, lowest and highest of the rounds' ratios."""
    texts: list[str] = []
    for other in list(found)[: list(found).index(side)]:
        pairs = zip(found[other], found[side], strict=True)
        low, middle, high = spread([theirs.wall_seconds / ours.wall_seconds for theirs, ours in pairs])
        texts.append(f"  {middle:.2f} ({low:.2f} to {high:.2f}) times {other}")
    return ",".join(texts)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def label(options: argparse.Namespace, side: str) -> str:
    return side if side == ONE else f"{options.cores} {side}"


def gradient_bytes(options: argparse.Namespace, name: str) -> int:
    """Bytes that processes sum a step, in fp32."""
    from workbench.study.flops import count_parameters

    return 4 * count_parameters(make_stage(options, name, ONE).model).total


def run_side(options: argparse.Namespace, name: str, side: str) -> Measured:
    """Measure one side in new processes; of several, rank 0 says the wall time of a step."""
    size = options.cores if side == PROCESSES else 1
    threads = options.cores if side == THREADS else 1
    asked = ("cores", "seconds", "batch", "context", "vocab", "attention")
    values = [word for key in asked for word in (f"--{key}", str(getattr(options, key)))]
    values += ["--pin"] if options.pin else []
    command = [sys.executable, "-m", "benchmarks.threads_or_processes", "--models", name, "--side", side, *values]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    port = str(free_port())
    started: list[subprocess.Popen[str]] = []
    try:
        for rank in range(size):
            words = [*command, "--rank", str(rank), "--port", port]
            started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment))
        said = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                process.kill()
    if any(process.returncode for process in started):
        raise SystemExit(f"{name}, {side}: a process failed; see above")
    found = [json.loads(text.splitlines()[-1]) for text in said]
    return Measured(found[0]["wall"], found[0]["fastest"], sum(one["processor"] for one in found))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Be one process of a side: seconds of its steps, on the clock and of the processor."""
    import torch

    from workbench.train.distributed import join
    from workbench.train.freed_memory import keep_freed_memory

    rank, size = int(options.rank), options.cores if options.side == PROCESSES else 1
    if options.pin and size > 1:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(options.cores if options.side == THREADS else 1)
    keep_freed_memory()
    with join(rank, size, rank, "127.0.0.1", int(options.port), "cpu", _TIMEOUT_SECONDS) as world:
        step = make_step(options, world)
        for _ in range(_WARMUP_STEPS):
            step()
        walls: list[float] = []
        processors: list[float] = []
        began, done = time.perf_counter(), False
        while not done:
            wall, used = time.perf_counter(), time.process_time()
            step()
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - used)
            enough = time.perf_counter() - began > options.seconds and len(walls) >= _FEWEST_STEPS
            # A stage's processes agree after each step whether to stop, too; all of them take the same steps.
            done = world.any_(enough, False, False)[0]
    return {"wall": statistics.median(walls), "fastest": min(walls), "processor": statistics.median(processors)}


def make_step(options: argparse.Namespace, world: Any) -> Callable[[], Any]:
    """One step of this process's share of the batch, as a stage takes it."""
    import torch

    from workbench.train.determinism import determinism, is_deterministic
    from workbench.train.throughput import plain_step

    stage, device = make_stage(options, options.models[0], options.side), torch.device("cpu")
    ENTERED.enter_context(determinism(is_deterministic(stage.numerics, device), device))
    share = replace(stage, batch_sequences=stage.batch_sequences // world.size)
    plain: Callable[..., Any] = plain_step(share, device)
    return partial(plain, world=world)


def make_stage(options: argparse.Namespace, name: str, side: str) -> Any:
    """The stage, with the numerics of a side."""
    from benchmarks.training import make_stage as stage_of

    shape = {key.replace("-", "_"): value for key, value in (SHAPES | LARGER)[name].items()}
    asked = {key: getattr(options, key) for key in ("vocab", "context", "batch", "attention")}
    rest: dict[str, Any] = {"precision": "fp32", "micro_batch": None, "activation_checkpointing": False}
    rest |= {"compile": False, "compile_unit": "model", "cross_entropy": "own", "products": "onednn"}
    threads = options.cores if side == THREADS else 1
    return stage_of(argparse.Namespace(**shape, **asked, **rest, threads=threads))


if __name__ == "__main__":
    main()
