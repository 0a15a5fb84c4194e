"""The cores of this machine."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Count the cores this process may use; where the system cannot tell, those the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
