"""Whether a stage's checkpoints are written beside its training, and the memory that their copies take."""

from __future__ import annotations

from workbench.config.schema import Stage, TrainingStage
from workbench.study.kind_plan import checkpoint_bytes


def writes_beside(stage: Stage, device: str) -> bool:
    """Whether the checkpoints of a stage are written by a thread while it trains on.

    Parameters
    ----------
    stage
        Its `checkpoint.writes` says so, or leaves it to what pays: on a GPU, beside which the host is idle. On a CPU
        the writer takes its time from the training, and was measured to save none (docs/performance.md).
    device
        `cuda` or `cpu`.
    """
    asked = stage.checkpoint.writes
    if not isinstance(stage, TrainingStage) or asked == "inline":
        return False
    return asked == "background" or device == "cuda"


def copied_bytes(stage: Stage, processes: int, device: str) -> int:
    """Bytes of the host's memory that the process with the most of a checkpoint keeps for its copy.

    Parameters
    ----------
    stage, device
        As `writes_beside` takes them.
    processes
        Among which the model is shared out where `numerics.parallel` is `shard`.
    """
    if not writes_beside(stage, device):
        return 0
    whole, weights = (checkpoint_bytes(stage, whole=each) for each in (True, False))
    if stage.numerics.parallel != "shard":
        return whole
    return weights + (whole - weights) // processes  # the weights are gathered by one process
