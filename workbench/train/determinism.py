"""The same bits from the same start: what PyTorch is told for it.

On the CPU that is the default, and measured: trainings that are stopped, killed and resumed end in the same bits. On a
GPU it costs speed and is asked for (`numerics.deterministic=true`); without it nothing is promised there, since the
backward passes of attention and of the embedding add in whatever order their threads come.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import torch

from workbench.config.schema import NumericsConfig

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED_WORKSPACES = (":4096:8", ":16:8")
"""Settings under which cuBLAS computes the same bits every time (NVIDIA's documentation, "Results reproducibility")."""

# cuBLAS reads it once, when CUDA starts, which may be for another stage or an evaluation of the same process.
os.environ.setdefault(_WORKSPACE, _FIXED_WORKSPACES[0])


def is_deterministic(numerics: NumericsConfig, device: torch.device) -> bool:
    """Whether a stage is to compute the same bits every time: as its numerics say, else on the CPU alone."""
    return device.type == "cpu" if numerics.deterministic is None else numerics.deterministic


def check_determinism(wanted: bool, device: torch.device) -> None:
    """Refuse what the environment forbids, before anything starts.

    Raises
    ------
    ValueError
        Bits must repeat, and cuBLAS has been told otherwise.
    """
    workspace = os.environ.get(_WORKSPACE)
    if wanted and device.type == "cuda" and workspace not in _FIXED_WORKSPACES:
        raise ValueError(
            f"numerics.deterministic=true needs {_WORKSPACE}={_FIXED_WORKSPACES[0]}, not {workspace!r}: set it in the "
            "environment, or leave it unset"
        )


@contextmanager
def determinism(wanted: bool, device: torch.device) -> Generator[None]:
    """Compute the same bits every time, or as fast as possible, and leave PyTorch's settings as they were.

    Operations without a repeatable way raise an error: a warning alone would leave attention's backward pass as it is.

    Parameters
    ----------
    wanted
        Whether bits must repeat.
    device
        Where the training runs.

    Raises
    ------
    ValueError
        The environment forbids it.
    """
    check_determinism(wanted, device)
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    _use_deterministic_algorithms(wanted)
    # Whatever reads memory before writing it is a mistake that the tests find; filling costs a pass over each tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        _use_deterministic_algorithms(strict, warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # pyright: ignore[reportAttributeAccessIssue]


def _use_deterministic_algorithms(wanted: bool, warn_only: bool = False) -> None:
    """Do as `torch.use_deterministic_algorithms`, which imports PyTorch's compiler in order to tell it, too.

    `workbench.train.compiler` tells it where it is used.
    """
    if "torch._inductor.config" in sys.modules:
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)
    else:
        torch._C._set_deterministic_algorithms(wanted, warn_only=warn_only)
