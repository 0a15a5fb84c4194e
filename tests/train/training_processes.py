"""What the ranks of a test do, and a way to start them all; each is a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from workbench.config.schema import Stage
from workbench.model.batch import Batch
from workbench.model.transformer import summed_loss
from workbench.study.layout import Layout
from workbench.train import loop, shard_files
from workbench.train.background import CheckpointWriter
from workbench.train.distributed import World, join
from workbench.train.gradient_sums import GradientSums
from workbench.train.hooks import Hooks, Progress
from workbench.train.interval import CheckpointClock
from workbench.train.sharding import make_mesh
from workbench.train.shares import is_sharded
from workbench.train.state import TrainState, initial_state, load_state, save_state
from workbench.train.step import StepResult, train_step
from workbench.train.whole_stage import train_stage

IMPORTED_BY_RANKS = (
    "workbench.train.whole_stage",
    "workbench.kinds.pretrain.run",
    "pyarrow.parquet",
    "pandas",
    "workbench.train.sharding",
    "workbench.train.shard_files",
    "torch.distributed.tensor",
)
"""Training and what it imports on the way, but for the compiler. The last three take more than a second, for SymPy."""
# Forked from a server that has imported them: a rank starts at once.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(list(IMPORTED_BY_RANKS))
PATIENCE_SECONDS = 120
"""Until ranks hang; they wait for each other half as long."""
COMPILING_SECONDS = 480
"""The same for ranks that compile what they train, each by itself: it takes a minute of a slow core that others want too."""


@dataclass(frozen=True)
class Ended:
    """How one rank ended."""

    exit_code: int
    error: str
    """Class of what it raised; empty where it returned."""
    text: str
    """Its message."""
    result: Any


def start(
    size: int,
    function: Callable[..., Any],
    by_rank: dict[int, dict[str, Any]] | None = None,
    *,
    patience: float = PATIENCE_SECONDS,
    **common,
) -> list[Ended]:
    """Run `function(world, **common)` on so many ranks, each with further arguments of its own."""
    port = free_port()
    running = []
    for rank in range(size):
        ours, theirs = FORKSERVER.Pipe(duplex=False)
        arguments = common | (by_rank or {}).get(rank, {})
        process = FORKSERVER.Process(target=_rank, args=(theirs, rank, size, port, function, arguments, patience / 2))
        process.start()
        theirs.close()
        running.append((process, ours))
    return [_wait(*each, patience) for each in running]


def _wait(process: Any, connection: Connection, patience: float) -> Ended:
    try:
        error, text, result = connection.recv() if connection.poll(patience) else ("hung", "", None)
    except EOFError:
        error, text, result = "died", "", None
    if error == "hung":
        process.kill()
    process.join()
    return Ended(process.exitcode, error, text, result)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _rank(
    connection: Connection, rank: int, size: int, port: int, function: Any, arguments: dict[str, Any], timeout: float
) -> None:
    gc.freeze()  # each stage collects garbage: not among what the server has imported
    os.fsync = lambda _: None  # as in all tests: a rank is killed, the disk's power is not cut
    warnings.simplefilter("error")
    # As in pyproject.toml: PyTorch 2.13's own import of its compiler.
    warnings.filterwarnings("ignore", "`torch.jit.script_method` is deprecated", DeprecationWarning)
    # Dynamo looks at every attribute of the parameters that FSDP2 puts in place of a module's own.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    try:
        with join(rank, size, rank, "127.0.0.1", port, "cpu", timeout_seconds=timeout) as world:
            connection.send(("", "", function(world, **arguments)))
    except BaseException as error:
        connection.send((type(error).__name__, "".join(traceback.format_exception(error)), None))
        os._exit(1)


def train(
    world: World,
    root: Path,
    stage: str,
    frozen: Stage | None = None,
    stop_after: int | None = None,
    kill_after: int | None = None,
    fail_after: int | None = None,
    largest_file_bytes: int | None = None,
    poisoned_steps: tuple[int, ...] = (),
    kill_within: float | None = None,
    fsync_seconds: float | None = None,
) -> list[str]:
    """Train a stage; stop, die, fail or run out of room after so many steps. What the log was told.

    `kill_within` so many seconds of the first step it dies, whatever it is doing then. The disk takes `fsync_seconds` for each
    `fsync`, as one does that many use.
    The losses of `poisoned_steps` are no numbers on this rank.
    """
    steps: list[int] = []
    if fsync_seconds is not None:
        os.fsync = lambda _: time.sleep(fsync_seconds)

    def on_progress(progress: Progress) -> None:
        steps.append(progress.step)
        if len(steps) == 1 and kill_within is not None:
            threading.Timer(kill_within, os.kill, (os.getpid(), signal.SIGKILL)).start()
        if len(steps) == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(steps) == fail_after:
            raise OSError("out of luck")

    if largest_file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
    said: list[str] = []
    hooks = Hooks(
        should_stop=lambda: stop_after is not None and len(steps) >= stop_after,
        on_progress=on_progress,
        log=said.append,
    )
    original = loop.train_step
    loop.train_step = partial(_poisoned_step, original, poisoned_steps)
    try:
        train_stage(Layout(root), stage, hooks, world, frozen=frozen)
    finally:
        loop.train_step = original
    return said


def _poisoned_step(
    original: Callable[..., StepResult], steps: tuple[int, ...], model: Any, loss: Any, *rest: Any, **settings: Any
) -> StepResult:
    factor = float("nan") if settings["step"] in steps else 1.0
    return original(model, lambda tokens: tuple(factor * each for each in loss(tokens)), *rest, **settings)


def write_again(
    world: World,
    stage: Stage,
    parallel: str,
    source: Path | None,
    target: Path,
    tokenizer: Path,
    file_bytes: int = shard_files.FILE_BYTES,
) -> int:
    """Load a checkpoint (or draw initial weights) and write it again; elements of this rank's share of the model."""
    shard_files.FILE_BYTES = file_bytes
    state = load(world, stage, parallel, source)
    if world.is_main:
        target.mkdir()
    world.wait()
    save_state(state, target, tokenizer, 0, None, world)
    return sum(local(parameter).numel() for parameter in state.model.parameters())


def load(world: World, stage: Stage, parallel: str, source: Path | None) -> TrainState:
    group = 2 if parallel == "hybrid" else None
    stage = replace(stage, numerics=replace(stage.numerics, parallel=parallel, shard_processes=group))
    mesh = make_mesh(stage, world) if is_sharded(stage, world) else None
    assert world.device is not None
    if source is None:
        return initial_state(stage, world.device, mesh)
    return load_state(source, stage, world.device, mesh)


def local(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter  # pyright: ignore


def talk(world: World) -> dict[str, Any]:
    """Use every collective once; what came of it."""

    class HomeMadeError(Exception):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} and {second}")

    return {
        "any": world.any_(world.rank == 1, world.rank == 0, False),
        "result": world.main_only(lambda: {"rank": world.rank}),
        "kept": caught(lambda: world.main_only(lambda: Path("/nowhere").stat())),
        "told": caught(lambda: world.main_only(lambda: raise_(HomeMadeError("one", "two")))),
        "one_failed": caught(lambda: world.together(lambda: raise_(ValueError("no")) if world.rank == 1 else None)),
        "none_failed": world.together(lambda: world.rank),
        "all": world.gather(world.rank * 10),
        "sum": world.sum_(torch.tensor([1.0, world.rank])).tolist(),
        "gradients": summed_gradients(world),
    }


def fail_alone_while_writing(world: World) -> tuple[tuple[str, str], tuple[str, str], float]:
    """Rank 1's writer fails by itself while rank 0's waits for it: what `settle` and `close` raise, and their seconds."""
    writer = CheckpointWriter(world, CheckpointClock(None, 0))

    def save(apart: World) -> Path:
        if world.rank == 1:
            raise KeyError("not a matter of files")
        apart.wait()
        return Path()

    began = time.monotonic()
    writer.write_beside(save, lambda _: None)
    return caught(writer.settle), caught(writer.close), time.monotonic() - began


def summed_gradients(world: World) -> list[list[float]]:
    model = torch.nn.Linear(3, 2)
    with GradientSums(model, world):
        sum((number + 1) * 10.0**world.rank * each.sum() for number, each in enumerate(model.parameters())).backward()
    return [parameter.grad.flatten().tolist() for parameter in model.parameters() if parameter.grad is not None]


def caught(function: Callable[[], Any]) -> tuple[str, str]:
    try:
        function()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def raise_(error: Exception) -> None:
    raise error


WEIGHTS = torch.zeros(4, 16)
"""Of the targets of four sequences: many, few, none and some."""
WEIGHTS[0, :14], WEIGHTS[1, 3], WEIGHTS[3, 5:9] = 1.0, 0.5, 2.0


def weighted_step(world: World, stage: Stage, padded_to: int = 1) -> tuple[StepResult, list[Any]]:
    """One step on this rank's share of four sequences whose targets weigh differently: result and first moments."""
    mesh = make_mesh(stage, world) if is_sharded(stage, world) else None
    state = initial_state(stage, torch.device("cpu"), mesh)
    state.model.head_padded_to = padded_to
    tokens = torch.randint(0, 61, (4, 17), generator=torch.Generator().manual_seed(0))
    mine = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    result = train_step(
        state.model,
        partial(summed_loss, state.model),
        state.optimizer,
        Batch(tokens[mine], WEIGHTS[mine]),
        torch.tensor([0, 1, 1, 0])[mine],
        num_sources=2,
        learning_rate=1e-3,
        clip_norm=1.0,
        precision="fp32",
        micro_batch_sequences=1,
        world=world,
    )
    moments = [state.optimizer.state[p]["exp_avg"] for p in state.model.parameters()]
    return result, [(x.full_tensor() if isinstance(x, DTensor) else x).numpy() for x in moments]
