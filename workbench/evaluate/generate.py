"""Continue texts, or answer them, and write what comes as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.evaluate.generator import Prompt, Token


DEFAULT_TOKENS = 64
"""Tokens of a continuation, at most, where no number is asked for."""


@dataclass(frozen=True)
class Asked:
    """What of a continuation is the user's to say."""

    max_tokens: int | None = None
    """Tokens of each text's continuation, at most; None takes `DEFAULT_TOKENS`, or as many as the context has room for."""
    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_k: int | None = None
    """As in `workbench.evaluate.sampling.Sampling`."""
    top_p: float | None = None
    """As in `workbench.evaluate.sampling.Sampling`."""
    seed: int = 0
    """Of the first text's draws; that of each further text is one higher."""
    chat: bool = False
    """Whether each text is a user's message, put into the checkpoint's chat template; the answer alone is written."""

    def __post_init__(self) -> None:
        """Refuse what is not sampled from."""
        for name in ("top_k", "top_p"):
            value = getattr(self, name)
            if value is not None and self.temperature == 0:
                raise ValueError(f"{name}={value} is for sampling: set a temperature above 0 as well")


def generate(checkpoint: Path, texts: Sequence[str], asked: Asked, write: Callable[[str], object]) -> None:
    """Continue all texts at once, and write them one after the other, the first as its tokens come.

    A checkpoint from outside reads a text by the token ids by which it is scored, where it can be: a special token's name in
    the text is text. With `chat`, tokens are those of `transformers`, whose template has to write special ones.

    Parameters
    ----------
    checkpoint
        A directory: ours, of a family that `Transformer` can represent, or any other that `transformers` reads.
    texts
        What to continue.
    asked
        How.
    write
        Takes pieces of the output, in whole characters.

    Raises
    ------
    ValueError
        The directory is not a checkpoint or has no chat template, or a text does not fit the model.
    """
    from workbench.evaluate.generator import Prompt
    from workbench.evaluate.outside_checkpoint import load_as_scored
    from workbench.evaluate.sampling import Sampling
    from workbench.evaluate.saved_tokenizer import load_tokenizer
    from workbench.evaluate.stop_strings import TextStream
    from workbench.model.weights import is_ours

    if not (checkpoint / "config.json").exists():
        raise ValueError(f"{checkpoint} is not a checkpoint: it has no config.json")
    tokenizer = own = load_tokenizer(checkpoint, ours=is_ours(checkpoint))
    if not asked.chat and not is_ours(checkpoint) and _is_represented(checkpoint):
        tokenizer = load_as_scored(checkpoint, own)
    if asked.chat and not tokenizer.chat_template:
        raise ValueError(f"{checkpoint} has no chat template: leave out --chat")
    stops = _turn_ends(tokenizer) if asked.chat else ()
    context = None if asked.max_tokens is not None else _context_tokens(checkpoint)
    prompts: list[Prompt] = []
    for i, text in enumerate(texts):
        sampling = None
        if asked.temperature != 0:
            sampling = Sampling(asked.temperature, asked.top_k, asked.top_p, asked.seed + i)
        ids = _chat_ids(tokenizer, text) if asked.chat else _with_bos(tokenizer(text).input_ids, own.bos_token_id)
        room = DEFAULT_TOKENS if context is None else max(1, min(DEFAULT_TOKENS, context - len(ids)))
        prompts.append(Prompt(ids, room if asked.max_tokens is None else asked.max_tokens, stops, sampling))

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    streams = [TextStream(decode, [] if asked.chat else prompt.tokens, stops) for prompt in prompts]
    beginnings = ["" if asked.chat else text for text in texts]
    _write_in_order(_tokens(checkpoint, own, tokenizer.decode, prompts), streams, beginnings, write)


def _write_in_order(
    tokens: Iterator[Token], streams: Sequence[Any], beginnings: Sequence[str], write: Callable[[str], object]
) -> None:
    """Write the first text that is not done as it grows; what the others grow by meanwhile waits."""
    waiting = list(beginnings)
    done, shown = [False] * len(waiting), 0
    write(waiting[0])
    waiting[0] = ""
    for token in tokens:
        i = token.prompt
        waiting[i] += "" if token.ended == "eos" else streams[i].push(token.token)
        if token.ended:
            waiting[i] += streams[i].close() + "\n"
            done[i] = True
        while shown < len(waiting):
            if waiting[shown]:
                write(waiting[shown])
                waiting[shown] = ""
            if not done[shown]:
                break
            shown += 1
            if shown < len(waiting):
                write("\n")


def _context_tokens(checkpoint: Path) -> int | None:
    """Tokens that a checkpoint can read at once; None where its config does not say."""
    from transformers import AutoConfig

    from workbench.model.weights import any_config

    if _is_represented(checkpoint):
        return any_config(checkpoint).context_tokens
    config: Any = AutoConfig.from_pretrained(checkpoint)
    return getattr(config, "max_position_embeddings", None)


def _is_represented(checkpoint: Path) -> bool:
    """Whether `Transformer` can represent a checkpoint; no other is scored."""
    from workbench.model.pretrained import UnsupportedModelError
    from workbench.model.weights import any_config

    try:
        any_config(checkpoint)
    except UnsupportedModelError:
        return False
    return True


def _tokens(
    checkpoint: Path, own: Any, decode: Callable[[Sequence[int]], str], prompts: Sequence[Prompt]
) -> Iterator[Token]:
    """Tokens by our model where it can represent the checkpoint, else by `transformers`."""
    import torch

    from workbench.evaluate.generator import Generator
    from workbench.model.weights import load_any

    ends = eos_ids(checkpoint, own)
    if not _is_represented(checkpoint):
        return _by_transformers(checkpoint, prompts, ends)
    model = load_any(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    generator = Generator(model, eos_ids=ends, decode=lambda ids: decode(ids))
    for prompt in prompts:  # before anything is written
        generator.check(prompt)
    return generator.stream(prompts)


def _by_transformers(checkpoint: Path, prompts: Sequence[Prompt], ends: Sequence[int]) -> Iterator[Token]:
    """Continue one prompt after the other, each whole before its first token is given."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from workbench.evaluate.generator import Token

    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, use_safetensors=True)
    context = getattr(model.config, "max_position_embeddings", None)
    for prompt in prompts:
        if prompt.max_tokens < 1:
            raise ValueError(f"max_tokens={prompt.max_tokens} must be at least 1")
        count = len(prompt.tokens) + prompt.max_tokens
        if context is not None and count > context:
            raise ValueError(
                f"{len(prompt.tokens)} tokens of text and {prompt.max_tokens} more exceed the model's context of {context}: "
                "ask for fewer tokens, or shorten the text"
            )

    def continued() -> Iterator[Token]:
        for i, prompt in enumerate(prompts):
            options: dict[str, Any] = {"do_sample": False}
            if prompt.sampling is not None:
                s = prompt.sampling
                torch.manual_seed(s.seed)
                top = {"top_k": s.top_k or 0, "top_p": 1.0 if s.top_p is None else s.top_p}
                options = {"do_sample": True, "temperature": s.temperature, **top}
            ids = torch.tensor([prompt.tokens])
            if ends:
                options |= {"eos_token_id": list(ends), "pad_token_id": ends[0]}
            with torch.inference_mode():
                out = model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=prompt.max_tokens, **options
                )
            made: list[int] = out[0, len(prompt.tokens) :].tolist()
            for token in made[:-1]:
                yield Token(i, token, None)
            yield Token(i, made[-1], "eos" if made[-1] in ends else "length")

    return continued()


def eos_ids(checkpoint: Path, tokenizer: Any) -> list[int]:
    """Read which ids end a text: those of `generation_config.json`, or else of `config.json`, and the tokenizer's."""
    found: Any = None
    for name in ("generation_config.json", "config.json"):
        path = checkpoint / name
        if found is None and path.is_file():
            found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    ids: list[int] = found if isinstance(found, list) else [] if found is None else [found]
    own = tokenizer.eos_token_id
    return ids if own is None or own in ids else [*ids, own]


def _chat_ids(tokenizer: Any, text: str) -> list[int]:
    messages = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def _turn_ends(tokenizer: Any) -> tuple[str, ...]:
    """Find what the template writes behind an answer, which need not be the end of sequence."""
    answer = "answer"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any conversation; then the end of sequence is all there is
        return ()
    end = text.rpartition(answer)[2].strip()
    return (end,) if end else ()


def _with_bos(ids: list[int], bos_id: int | None) -> list[int]:
    """Begin as every training document does (some tokenizers do this themselves, and some have no such token)."""
    return ids if bos_id is None or ids[:1] == [bos_id] else [bos_id, *ids]
