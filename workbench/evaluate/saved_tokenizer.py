"""The tokenizer of a checkpoint's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tokenizer(directory: Path, *, ours: bool) -> Any:
    """Load a tokenizer with `transformers`, offline.

    Parameters
    ----------
    directory
        A checkpoint's.
    ours
        Whether this project wrote it: then `tokenizer.json` is taken as it is. `AutoTokenizer`, which is right for all
        others, takes some model types' own class instead (Qwen 2's), with another way of cutting text and further ids.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast if ours else AutoTokenizer
    return kind.from_pretrained(str(directory), local_files_only=True)
