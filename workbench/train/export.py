"""A checkpoint's Hugging Face part, alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.train.checkpoint import KEEP, MANIFEST, verify
from workbench.train.state import OPTIMIZER_DIR, OPTIMIZER_FILE, RNG_FILE, STATE_FILE

_OURS = (MANIFEST, KEEP, OPTIMIZER_FILE, OPTIMIZER_DIR, RNG_FILE, STATE_FILE, "evals")


def export_checkpoint(checkpoint: Path, target: Path) -> str:
    """Copy weights, config and tokenizer of a checkpoint into a new directory; return how to load it.

    Raises
    ------
    ValueError
        The target exists, or the checkpoint is missing.
    DamagedCheckpointError
        A file does not match its checksum.
    """
    if target.exists():
        raise ValueError(f"{target} exists: name a new directory")
    if not (checkpoint / MANIFEST).exists():
        raise ValueError(f"{checkpoint} is no checkpoint: it has no {MANIFEST}")
    verify(checkpoint)
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns(*_OURS))
    llama = '"model_type": "llama"' in (target / "config.json").read_text()
    first = "" if llama else "import workbench.model.hf; "
    return f"{first}AutoModelForCausalLM.from_pretrained({str(target)!r})"
