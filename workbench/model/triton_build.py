"""What Triton needs to make kernels: besides the package a C compiler, for it builds what hands them to the GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


def missing_for_triton() -> str | None:
    """Say what Triton lacks on this machine; None when nothing.

    Where it looks is its own way (3.6: triton/runtime/build.py): the environment's `CC`, gcc, clang. Its error comes with
    the first kernel, which is a training's first step.
    """
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    if not os.environ.get("CC") and not any(shutil.which(name) for name in ("gcc", "clang")):
        return "a C compiler (Debian: apt-get install gcc)"
    if not Path(_headers(), "Python.h").exists():
        return "Python's headers (Debian: apt-get install python3-dev)"
    return None


def _headers() -> str:
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
