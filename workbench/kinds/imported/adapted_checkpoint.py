"""A checkpoint from outside with adapters on it: what they are called by, and the model that both make."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from workbench.config.schema import ModelConfig
from workbench.data.fingerprint import hash_file


def adapted_fingerprint(base: str, adapter: Path) -> str:
    """Name a checkpoint with adapters by the content of both: 16 hexadecimal digits.

    Parameters
    ----------
    base
        The checkpoint's fingerprint.
    adapter
        Directory of the adapters, in peft's format.
    """
    from workbench.model.adapter_files import CONFIG, WEIGHTS

    parts = [base, *([name, hash_file(adapter / name)] for name in (CONFIG, WEIGHTS))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def check_adapter(adapter: Path, model: ModelConfig) -> None:
    """Refuse adapters that cannot be merged into a model.

    Raises
    ------
    ValueError
        See `workbench.model.adapter_files.check_adapters`.
    """
    from workbench.model.adapter_files import check_adapters  # torch, which only such points need when they are planned

    check_adapters(model, adapter)
