"""A checkpoint's Hugging Face part, alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.model.weights import README
from workbench.study.files import first_mismatch
from workbench.train.checkpoint import KEEP, DamagedCheckpointError, read_manifest
from workbench.train.data_card import data_card
from workbench.train.state import RNG_FILE, STATE_FILE
from workbench.train.weights_only import MANIFEST, OPTIMIZER_DIR, OPTIMIZER_FILE

_OURS = (MANIFEST, KEEP, OPTIMIZER_FILE, OPTIMIZER_DIR, RNG_FILE, STATE_FILE, "evals", ".*")


def export_checkpoint(checkpoint: Path, target: Path) -> str:
    """Copy weights, config and tokenizer of a checkpoint into a new directory; return how to load it.

    The model card, `README.md`, names the data (`workbench.train.data_card`).

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
    # A training may delete the optimizer's files meanwhile; they are not copied.
    manifest = read_manifest(checkpoint)
    files = manifest["files"]
    mismatch = first_mismatch(checkpoint, {name: files[name] for name in files if name.split("/")[0] not in _OURS})
    if mismatch is not None:
        raise DamagedCheckpointError(checkpoint, mismatch)
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns(*_OURS))
    readme = target / README
    before = readme.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if readme.is_file() else f"# {target.name}\n\n"
    readme.write_text(before + data_card(checkpoint, manifest), encoding="utf-8")
    ours = '"model_type": "workbench"' in (target / "config.json").read_text(encoding="utf-8")
    first = "import workbench.model.hf; " if ours else ""
    return f"{first}AutoModelForCausalLM.from_pretrained({str(target)!r})"
