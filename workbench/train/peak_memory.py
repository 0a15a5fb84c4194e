"""The most memory that this process has held since a moment: a stage's own peak, not the process's.

A worker process trains several stages in turn, so the peak must be set back when a stage begins.
"""

from __future__ import annotations

import gc
from pathlib import Path

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"
"""Sets the peak resident set back to the present one (Linux: `man 5 proc_pid_clear_refs`)."""


class PeakMemory:
    """Peak since it was made: of PyTorch's allocator on a GPU, of the process's resident memory on the CPU.

    What earlier work of the process has not given back counts from the start.

    Parameters
    ----------
    device
        Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        self._can_tell = _reset_gpu(device) if device.type == "cuda" else _reset_resident()

    def read(self) -> int | None:
        """Bytes; None where the system cannot tell (no Linux, or a sandbox without `/proc/self/clear_refs`)."""
        if not self._can_tell:
            return None
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _resident_peak()


def _reset_gpu(device: torch.device) -> bool:
    torch.cuda.init()  # without it PyTorch knows no device to reset
    torch.cuda.reset_peak_memory_stats(device)
    return True


def _reset_resident() -> bool:
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="utf-8")
    except OSError:
        return False
    return _resident_peak() is not None


def _resident_peak() -> int | None:
    for line in _STATUS.read_bytes().splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
