"""One stage as a whole: lock it, train what is missing, say how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

from workbench.config.schema import Stage
from workbench.study.files import exclusive, read_stage
from workbench.study.layout import Layout, StageDir
from workbench.train import checkpoint as ckpt
from workbench.train.distributed import World
from workbench.train.loop import Hooks, StageRun, StoppedError
from workbench.train.status import write_status
from workbench.train.targets import missing_targets, targets


def train_stage(
    layout: Layout,
    stage_id: str,
    hooks: Hooks | None = None,
    world: World | None = None,
    wanted: Sequence[int] | None = None,
) -> StageDir:
    """Train a frozen stage until its targets have checkpoints; what exists is not done again.

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

    Raises
    ------
    StoppedError
        `hooks.should_stop` said so; the work so far is in a checkpoint.
    NonFiniteLossError, DiskFullError, DamagedCheckpointError
        See there. `status.json` says failed and why.
    ValueError
        The stage does not fit the data, the machine or its parent.
    """
    stage_dir, hooks, world = layout.stage(stage_id), hooks or Hooks(), world or World()
    lock = exclusive(stage_dir.lock, _waiting(stage_dir, hooks)) if world.is_main else nullcontext()
    with lock:
        stage = read_stage(stage_dir)
        goals = sorted(targets(stage) if wanted is None else wanted)
        if not missing_targets(stage_dir, goals):
            return stage_dir
        try:
            _say(stage_dir, world, "running")
            _train_despite_damage(layout, stage_dir, stage, goals, hooks, world)
        except (StoppedError, KeyboardInterrupt):
            _say(stage_dir, world, "killed", "asked to stop; the same command goes on from the last checkpoint")
            raise
        except BaseException as error:
            _say(stage_dir, world, "failed", f"{type(error).__name__}: {error}")
            raise
        _say(stage_dir, world, "finished")
    return stage_dir


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


def _say(stage_dir: StageDir, world: World, state: str, error: str | None = None) -> None:
    """Write the status; on a full disk the error under way matters more than its record."""
    if world.is_main:
        with suppress(OSError):
            write_status(stage_dir, state, error)


def _train_despite_damage(
    layout: Layout, stage_dir: StageDir, stage: Stage, goals: Sequence[int], hooks: Hooks, world: World
) -> None:
    """Move a damaged checkpoint aside, name it, and go back to the one before it.

    A damaged checkpoint of the parent is moved aside too, but it is the parent that must train again.
    """
    while missing_targets(stage_dir, goals):
        try:
            StageRun(layout, stage_dir, stage, goals, hooks, world).all_targets()
        except ckpt.DamagedCheckpointError as error:
            aside = ckpt.quarantine(error.checkpoint)
            hooks.log(f"{error}; moved aside as {aside.name}")
            if error.checkpoint.parent != stage_dir.checkpoints:
                raise
