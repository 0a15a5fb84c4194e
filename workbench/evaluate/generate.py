"""Continue a text, using Hugging Face's generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def generate(checkpoint: Path, text: str, max_tokens: int, temperature: float, seed: int) -> str:
    """Continue `text` by up to `max_tokens` tokens; temperature 0 always takes the most likely one.

    Raises
    ------
    ValueError
        The directory is not a checkpoint, or the number of tokens is not positive.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    import workbench.model.hf  # noqa: F401  (registers model_type workbench)
    from workbench.evaluate.saved_tokenizer import load_tokenizer
    from workbench.model.weights import is_ours

    if not (checkpoint / "config.json").exists():
        raise ValueError(f"{checkpoint} is not a checkpoint: it has no config.json")
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens} must be at least 1")
    logging.disable_progress_bar()
    tokenizer = load_tokenizer(checkpoint, ours=is_ours(checkpoint))
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, use_safetensors=True)
    torch.manual_seed(seed)
    ids = torch.tensor([_with_bos(tokenizer(text).input_ids, tokenizer.bos_token_id)])
    context = model.config.max_position_embeddings
    if ids.shape[1] + max_tokens > context:
        raise ValueError(
            f"{ids.shape[1]} tokens of text and {max_tokens} more exceed the model's context of {context}: "
            "set a smaller --max-tokens, or shorten the text"
        )
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.inference_mode():
        output = model.generate(ids, max_new_tokens=max_tokens, pad_token_id=tokenizer.eos_token_id, **sampling)
    return tokenizer.decode(output[0], skip_special_tokens=True)


def _with_bos(ids: list[int], bos_id: int | None) -> list[int]:
    """Begin as every training document does (some tokenizers do this themselves, and some have no such token)."""
    return ids if bos_id is None or ids[:1] == [bos_id] else [bos_id, *ids]
