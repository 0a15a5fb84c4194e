"""Memory that a process frees stays with it, so that the next step need not ask the system for it again.

glibc gives blocks of more than 128 KB, and what is free at the heap's end, back to the system at once, until blocks that
were freed have taught it otherwise: how fast a process trained depended on what it had freed before. Each step then
asks for the same memory again, page by page (`docs/performance.md` has what that took).
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of `malloc.h`: `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD`."""
_LARGEST_BLOCK = 32 * 2**20
"""Bytes; glibc takes no larger threshold."""
_LARGEST_REST = 2**30
"""Bytes."""
_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 1 GiB that it has freed, in blocks of up to 32 MiB; whether it will.

    Nothing is changed where the C library is not glibc, or where the user has set how it allocates.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS):
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and library.mallopt(_TRIM_THRESHOLD, _LARGEST_REST))
