"""One stage as a whole: lock it, train what is missing, say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from workbench.config.kind_registry import find_kind
from workbench.config.schema import Stage
from workbench.study.files import exclusive, read_stage
from workbench.study.identity import stage_id as compute_stage_id
from workbench.study.layout import Layout, StageDir
from workbench.tracking.metrics_table import write_table
from workbench.train import checkpoint as ckpt
from workbench.train.attempt_status import write_status
from workbench.train.clearing import clear_leftovers
from workbench.train.distributed import World
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.job import StageJob, code_version
from workbench.train.targets import missing_targets, targets

LOCK_TURN_SECONDS = 10.0


def train_stage(
    layout: Layout,
    stage_id: str,
    hooks: Hooks | None = None,
    world: World | None = None,
    wanted: Sequence[int] | None = None,
    frozen: Stage | None = None,
    code: dict[str, Any] | None = None,
) -> StageDir:
    """Train a frozen stage until its targets have checkpoints; what exists is not done again.

    Every process of the stage calls this alike; rank 0 holds the lock, writes rows and says how it ended.

    Parameters
    ----------
    layout
        The outputs.
    stage_id
        A stage that `freeze_stage` has written.
    hooks
        Stop flag, progress and log.
    world
        This process among several.
    wanted
        Targets of this launch, in tokens; None takes those of every launch so far.
    frozen
        The stage as it was when the job was submitted: its numerics, checkpoint policy and resources count, where
        another launch may have changed those in `stage.yaml` since. Which checkpoints to keep stands in `stage.yaml`.
    code
        `commit`, `dirty` and `copy` of the code that runs, for the manifests; None reads `code/version.json`.

    Raises
    ------
    StoppedError
        `hooks.should_stop` said so; the work so far is in a checkpoint.
    NonFiniteLossError, DiskFullError, DamagedCheckpointError
        See there. `status.json` says failed and why.
    RemoteError
        Another process failed, and its error could not be sent.
    ValueError
        The stage does not fit the data, the machine, its parent or the number of processes.
    """
    stage_dir, hooks, world = layout.stage(stage_id), hooks or Hooks(), world or World()
    if not world.is_main:
        hooks = replace(hooks, log=lambda text: None)
    with _locked(stage_dir, hooks, world):
        stage = _as_submitted(world.main_only(lambda: read_stage(stage_dir)), frozen)
        goals = sorted(targets(stage) if wanted is None else wanted)
        if not world.main_only(lambda: missing_targets(stage_dir, stage, goals)):
            return stage_dir
        try:
            _say(stage_dir, world, "running")
            _train_despite_damage(layout, stage_dir, stage, goals, hooks, world, code)
        except (StoppedError, KeyboardInterrupt):
            _say(stage_dir, world, "killed", "asked to stop; the same command continues from the last checkpoint")
            raise
        except BaseException as error:
            _say(stage_dir, world, "failed", f"{type(error).__name__}: {error}", type(error).__name__)
            raise
        if world.is_main:
            with suppress(OSError):  # a copy, which no disk is too full for
                write_table(stage_dir)
        _say(stage_dir, world, "finished")
    return stage_dir


def _as_submitted(stage: Stage, frozen: Stage | None) -> Stage:
    """Put the circumstances that a job was submitted with in place of those that the stage has now."""
    if frozen is None:
        return stage
    if compute_stage_id(frozen) != compute_stage_id(stage):
        raise ValueError(f"the job was submitted for stage {compute_stage_id(frozen)}, not {compute_stage_id(stage)}")
    return replace(stage, numerics=frozen.numerics, checkpoint=frozen.checkpoint, resources=frozen.resources)


@contextmanager
def _locked(stage_dir: StageDir, hooks: Hooks, world: World) -> Generator[None]:
    """Hold the stage's lock on rank 0; the others go on when it has it."""
    wait = _waiting(stage_dir, hooks)
    with ExitStack() as stack:
        # In turns, so that no process sits in one collective for as long as another run has the stage.
        while not world.main_only(lambda: _try_for(LOCK_TURN_SECONDS, stage_dir, wait, stack)):
            pass
        yield


def _try_for(seconds: float, stage_dir: StageDir, wait: Callable[[], None], stack: ExitStack) -> bool:
    deadline = time.monotonic() + seconds

    def wait_until_deadline() -> None:
        wait()
        if time.monotonic() > deadline:
            raise TimeoutError

    try:
        stack.enter_context(exclusive(stage_dir.lock, wait_until_deadline))
    except TimeoutError:
        return False
    return True


def _waiting(stage_dir: StageDir, hooks: Hooks) -> Callable[[], None]:
    """Give what to do while another process trains the stage: say so once, and leave when asked to."""
    said: list[bool] = []

    def wait() -> None:
        if not said:
            said.append(True)
            hooks.log("another run trains this stage; waiting for it")
        if hooks.should_stop():
            raise StoppedError(f"stage {stage_dir.id} was not begun: another run has it")

    return wait


def _say(
    stage_dir: StageDir, world: World, state: str, error: str | None = None, error_class: str | None = None
) -> None:
    """Write the status; on a full disk the error under way matters more than its record."""
    if world.is_main:
        with suppress(OSError):
            write_status(stage_dir, state, error, error_class=error_class)


def _train_despite_damage(
    layout: Layout,
    stage_dir: StageDir,
    stage: Stage,
    goals: Sequence[int],
    hooks: Hooks,
    world: World,
    code: dict[str, Any] | None,
) -> None:
    """Move a damaged checkpoint aside, name it, and go back to the one before it.

    A damaged checkpoint of the parent is moved aside too, but it is the parent that must train again.
    """
    version = code or code_version(stage_dir)
    world.main_only(lambda: clear_leftovers(stage_dir))
    while world.main_only(lambda: missing_targets(stage_dir, stage, goals)):
        try:
            find_kind(stage.kind).run.run(StageJob(layout, stage_dir, stage, goals, hooks, world, version))
            left = world.main_only(lambda: missing_targets(stage_dir, stage, goals))
            if left:
                raise RuntimeError(f"kind {stage.kind!r} ended without a checkpoint at {left[0]} tokens")
        except ckpt.DamagedCheckpointError as error:
            damaged = error.checkpoint
            aside = world.main_only(lambda: ckpt.quarantine(damaged))  # noqa: B023  (run at once)
            hooks.log(f"{error}; moved aside as {aside.name}")
            if damaged.parent != stage_dir.checkpoints:
                raise
