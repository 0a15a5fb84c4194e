"""Measured training speed, for plans and `workbench bench`."""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.config.kind_registry import find_kind
from workbench.config.schema import TrainingStage, from_dict, to_dict

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    import torch

    from workbench.train.step import LossFunction

_SHORT_SECONDS = 1.0
"""What each kind of stage is tried for where several are."""
_WARMUP_STEPS = 2
_LOCALHOST, _COLLECTIVE_SECONDS = "127.0.0.1", 300.0
"""Where processes of one stage meet, and how long one waits for the others."""


def measure_tokens_per_second(
    stage: TrainingStage, seconds: float = 1.0, choose: Callable[[Sequence[float]], float] = max
) -> float:
    """Train on random tokens for about `seconds` after two steps of warm-up.

    Parameters
    ----------
    stage
        What is trained.
    seconds
        At least one step is timed.
    choose
        Sums up the speeds of the steps. The default takes the best, since other work only ever slows a step down.

    Returns
    -------
    float
        Tokens per second.
    """
    import torch

    device = torch.device("cuda" if stage.numerics.device != "cpu" and torch.cuda.is_available() else "cpu")
    with _circumstances(stage, device) as stage:
        step = _make_step(stage, device)
        for _ in range(_WARMUP_STEPS):
            step()
        speeds: list[float] = []
        start = time.perf_counter()
        while time.perf_counter() - start < seconds or not speeds:
            began = time.perf_counter()
            step()
            speeds.append(stage.batch_tokens / (time.perf_counter() - began))
    return choose(speeds)


@contextmanager
def _circumstances(stage: TrainingStage, device: torch.device) -> Iterator[TrainingStage]:
    """Have this process compute as a stage's training does; gives the stage with its numerics settled."""
    import torch

    from workbench.model.matmul import products_by
    from workbench.train.determinism import determinism, is_deterministic
    from workbench.train.freed_memory import keep_freed_memory

    if device.type == "cpu":
        torch.set_num_threads(stage.numerics.threads)
        keep_freed_memory()
    with determinism(is_deterministic(stage.numerics, device), device):
        stage = _settled(stage, device)
        with products_by(stage.numerics.products, stage.numerics.threads):
            yield stage


def trains_plainly(stage: TrainingStage) -> bool:
    """Whether `plain_step` is a stage's step: most kinds train as pretraining does."""
    return not hasattr(find_kind(stage.kind).run, "trial_step")


def _make_step(stage: TrainingStage, device: torch.device) -> Callable[[], Any]:
    """Give a function that trains one step as the stage's kind does; most do as pretraining does."""
    return getattr(find_kind(stage.kind).run, "trial_step", plain_step)(stage, device)


def _settled(stage: TrainingStage, device: torch.device) -> TrainingStage:
    """Settle what the numerics leave to a measurement; it is not remembered: a stage measures for itself."""
    from workbench.train.attention_choice import choose_attention
    from workbench.train.micro_batch import choose_micro_batch
    from workbench.train.products_choice import choose_products

    if "auto" not in (stage.numerics.attention, stage.numerics.products):
        return stage
    what = stage, choose_micro_batch(stage, 1, device), device
    numerics = replace(stage.numerics, attention=choose_attention(*what), products=choose_products(*what))
    return replace(stage, numerics=numerics)


def plain_step(
    stage: TrainingStage, device: torch.device, loss_of: Callable[[torch.nn.Module], LossFunction] | None = None
) -> Callable[..., Any]:
    """Give a function that trains one step on the same random tokens each time; `loss_of` a model is pretraining's."""
    from workbench.model.liger import choose_cross_entropy
    from workbench.model.transformer import summed_loss
    from workbench.study.memory import head_padded_to
    from workbench.train.compiler import compile_model, is_compiled
    from workbench.train.micro_batch import choose_micro_batch
    from workbench.train.state import initial_state
    from workbench.train.trial_stage import make_trial_step

    state = initial_state(stage, device)
    cross_entropy = "own" if loss_of else choose_cross_entropy(stage.numerics.cross_entropy, device)
    model = state.model
    model.head_padded_to = head_padded_to(stage.numerics, stage.model.vocab_size, device.type)
    if is_compiled(stage.numerics, device):
        model = compile_model(model, stage.numerics.compile_unit)
    return make_trial_step(
        model,
        state.optimizer,
        stage,
        device,
        loss=loss_of(model) if loss_of else partial(summed_loss, model, cross_entropy=cross_entropy),
        learning_rate=1e-5,
        micro_batch_sequences=choose_micro_batch(stage, 1, device),
    )


def measure_together(stages: Sequence[TrainingStage], devices: Sequence[str | None]) -> tuple[list[float], float]:
    """Measure stages in turn, in as many processes at once as will train.

    Parameters
    ----------
    stages
        What is trained.
    devices
        CUDA_VISIBLE_DEVICES of each process, None where it stays as it is. The processes share caches, memory
        bandwidth and often a core, so one alone would be faster.

    Returns
    -------
    speeds
        Tokens per second of each stage: the median over steps and processes.
    start_seconds
        Time until a new process could train.

    Raises
    ------
    Exception
        Whatever one of the processes raised; the others do not go on without it.
    """
    context = multiprocessing.get_context("spawn")
    processes = len(devices)
    given: SimpleQueue[str | None] = context.SimpleQueue()
    for device in devices:
        given.put(device)
    began = time.time()
    with ProcessPoolExecutor(processes, context, _meet, (context.Barrier(processes), given)) as pool:
        found = _results([pool.submit(_measure_plain, [to_dict(stage) for stage in stages]) for _ in range(processes)])
    speeds = [statistics.median(ours[place] for ours, _ in found) for place in range(len(stages))]
    return speeds, max(ready for _, ready in found) - began


def measure_shared(stage: TrainingStage) -> tuple[float, float]:
    """Measure a stage that its processes train together on this machine's CPU, each a share of the batch.

    Parameters
    ----------
    stage
        One that `trains_plainly`; its processes divide its batch.

    Returns
    -------
    speed
        Tokens per second of all processes together: of the median step, gradients summed.
    start_seconds
        Time until new processes could train.

    Raises
    ------
    Exception
        Whatever one of the processes raised.
    """
    context = multiprocessing.get_context("spawn")
    size, began = stage.processes, time.time()
    with socket.socket() as taken:
        taken.bind((_LOCALHOST, 0))
        port = taken.getsockname()[1]
    with ProcessPoolExecutor(size, context) as pool:
        # Each waits for the others, so that none takes the place of two.
        futures = [pool.submit(_measure_share, rank, size, port, to_dict(stage)) for rank in range(size)]
        found = _results(futures)
    return found[0][0][0], max(ready for _, ready in found) - began


def _measure_share(rank: int, size: int, port: int, values: dict[str, Any]) -> tuple[list[float], float]:
    """Be one process of a stage for a second."""
    import torch

    import workbench.train.loop  # noqa: F401  what a training imports
    from workbench.train.distributed import join

    stage, ready, walls = from_dict(TrainingStage, values), time.time(), list[float]()
    with join(rank, size, rank, _LOCALHOST, port, "cpu", _COLLECTIVE_SECONDS) as world:
        share = replace(stage, batch_sequences=len(world.local_range(0, stage.batch_sequences)))
        with _circumstances(share, torch.device("cpu")) as share:
            step = plain_step(share, torch.device("cpu"))
            for _ in range(_WARMUP_STEPS):
                step(world=world)
            start, done = time.perf_counter(), False
            while not done:
                began = time.perf_counter()
                step(world=world)
                walls.append(time.perf_counter() - began)
                # As a stage's processes do after every step; all of them take the same steps.
                (done,) = world.any_(time.perf_counter() - start > _SHORT_SECONDS)
    return [stage.batch_tokens / statistics.median(walls)], ready


_barrier: list[threading.Barrier] = []


def _meet(barrier: threading.Barrier, devices: SimpleQueue[str | None]) -> None:
    """Keep the barrier for the one task of this process, with a device and everything imported that training needs."""
    device = devices.get()
    if device is not None:  # before CUDA starts, which reads it once
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    import workbench.train.loop  # noqa: F401

    _barrier.append(barrier)


def _measure_plain(stages: Sequence[dict[str, Any]]) -> tuple[list[float], float]:
    """Measure stages that came as plain values, since their classes may be a plugin's."""
    return _measure_each([from_dict(TrainingStage, values) for values in stages])


def _measure_each(stages: Sequence[TrainingStage]) -> tuple[list[float], float]:
    ready = time.time()
    speeds: list[float] = []
    try:
        for stage in stages:
            _barrier[0].wait(timeout=600)  # one process ahead of the others would measure without them
            speeds.append(measure_tokens_per_second(stage, _SHORT_SECONDS, statistics.median))
    except BaseException:
        _barrier[0].abort()
        raise
    return speeds, ready


def _results(futures: Sequence[Future[tuple[list[float], float]]]) -> list[tuple[list[float], float]]:
    """Wait for all; raise the error that came first, and not what it did to the processes that waited."""
    errors = [error for error in [future.exception() for future in futures] if error is not None]
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [future.result() for future in futures]
