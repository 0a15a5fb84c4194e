"""The tokenizer of a checkpoint's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tokenizer(directory: Path, *, ours: bool, plain: bool = False) -> Any:
    """Load a tokenizer with `transformers`, offline.

    Parameters
    ----------
    directory
        A checkpoint's.
    ours
        Whether this project wrote it: then `tokenizer.json` is taken as it is. `AutoTokenizer`, which takes what else
        others may have, has classes of its own for some model types (Qwen 2's, Llama's), with another way of cutting
        text and further ids.
    plain
        Whether `</s>` in a text is text, as in training documents, also where the directory's chat template, as that of
        a fine-tuned model, needs it to be a token.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind: Any = PreTrainedTokenizerFast if ours else AutoTokenizer
    changes = {"split_special_tokens": True} if plain else {}
    return kind.from_pretrained(str(directory), local_files_only=True, **changes)
