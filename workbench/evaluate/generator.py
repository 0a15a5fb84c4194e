"""Continuations of many prompts by one model: batched, with a key-value cache, greedy or sampled.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.evaluate.sampling import Sampling, choose, uniforms
from workbench.evaluate.stop_strings import Decode, StopStrings
from workbench.evaluate.worker_threads import interleaved
from workbench.model.decoder import Decoder
from workbench.model.reader import LazyReader, Reader
from workbench.model.transformer import Transformer

CPU_SEQUENCES, GPU_SEQUENCES = 32, 256
"""Sequences of a batch, at most. On a CPU several batches run beside each other (`workbench.evaluate.worker_threads`)."""
CACHE_BYTES = 2**30
"""Bytes of a batch's keys and values, at most (counted in fp32); a longer sequence is a batch of its own."""


@dataclass(frozen=True)
class Prompt:
    """What is to be continued, and how."""

    tokens: Sequence[int]
    """Token ids, at least one; what is left of a prompt that is too long is the caller's to decide."""
    max_tokens: int
    """Tokens of the continuation, at most."""
    stops: tuple[str, ...] = ()
    """Strings at which it ends; the tokens that make them up are part of it."""
    sampling: Sampling | None = None
    """None always takes the likeliest token."""


class Token(NamedTuple):
    """One token of one continuation, as it comes."""

    prompt: int
    """Place of the prompt among those given."""
    token: int
    """Its id."""
    ended: str | None
    """Why the continuation ends here: `eos` (this token, which is not part of it), `stop` or `length`."""


class Continuation(NamedTuple):
    """Tokens that follow a prompt."""

    tokens: list[int]
    """Ids, without the end of sequence."""
    ended: str
    """Why it ends: `eos`, `stop` or `length`."""


class Generator:
    """Continues prompts with one model.

    What follows a prompt does not depend, up to rounding, on the prompts beside it: greedy tokens are those of
    `transformers.generate`, and draws are decided by each prompt's own seed. On a CPU, batches do not depend on how
    many threads there are, which run them beside each other.

    Parameters
    ----------
    model
        The model, on any device.
    eos_ids
        Tokens that end a continuation.
    decode
        Text of token ids, special tokens included; needed where a prompt has stop strings.
    precision
        `fp32`, or `bf16` (autocast).
    sequences
        Of a batch, at most; None takes `CPU_SEQUENCES` or `GPU_SEQUENCES`.
    reader
        The model's in this precision, where another has one as well; None makes one.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        eos_ids: Sequence[int] = (),
        decode: Decode | None = None,
        precision: str = "fp32",
        sequences: int | None = None,
        reader: LazyReader | None = None,
    ) -> None:
        self.model, self.eos_ids, self.decode, self.precision = model, frozenset(eos_ids), decode, precision
        self._lazy = reader or LazyReader(model, precision)
        self._watches: dict[tuple[str, ...], StopStrings] = {}
        self.device = model.embedding.weight.device
        self.sequences = sequences or (CPU_SEQUENCES if self.device.type == "cpu" else GPU_SEQUENCES)

    @property
    def reader(self) -> Reader | None:
        """What reads for the model where there is something faster than the model itself; made when it is first used."""
        return self._lazy.reader

    def generate(self, prompts: Sequence[Prompt]) -> list[Continuation]:
        """Continue prompts; in their order.

        Raises
        ------
        ValueError
            As `check`.
        """
        tokens: list[list[int]] = [[] for _ in prompts]
        reasons = [""] * len(prompts)
        for token in self.stream(prompts):
            if token.ended != "eos":
                tokens[token.prompt].append(token.token)
            reasons[token.prompt] = token.ended or ""
        return [Continuation(*pair) for pair in zip(tokens, reasons, strict=True)]

    def stream(self, prompts: Sequence[Prompt]) -> Iterator[Token]:
        """Tokens as they come: those of a prompt in order, those of several interleaved.

        Raises
        ------
        ValueError
            As `check`.
        """
        for prompt in prompts:
            self.check(prompt)
        _ = self.reader  # made before threads share it
        jobs = [functools.partial(self._continue, prompts, rows) for rows in self._batches(prompts)]
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        beside = min(threads, len(jobs)) > 1
        steps = interleaved(jobs, threads) if beside else (step for job in jobs for step in job())
        for step in steps:
            yield from step

    def check(self, prompt: Prompt) -> None:
        """Refuse what cannot be continued.

        Raises
        ------
        ValueError
            A prompt is empty or has unknown ids, or does not fit into the model's context with what is asked for, of
            which the last token is never read.
        """
        context, count, V = self.model.config.context_tokens, len(prompt.tokens), self.model.config.vocab_size
        if prompt.max_tokens < 1:
            raise ValueError(f"max_tokens={prompt.max_tokens} must be at least 1")
        if not count:
            raise ValueError("a prompt has no tokens: begin it with the token that begins a text")
        unknown = [token for token in prompt.tokens if not 0 <= token < V]
        if unknown:
            raise ValueError(f"token id {unknown[0]} is none of the model's {V}: the tokenizer is another model's")
        if count + prompt.max_tokens - 1 > context:
            raise ValueError(
                f"{count} tokens of text and {prompt.max_tokens} more exceed the model's context of {context}: "
                "ask for fewer tokens, or shorten the text"
            )
        if prompt.stops and self.decode is None:
            raise ValueError(f"stop strings such as {prompt.stops[0]!r} need a tokenizer")

    def _batches(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Places of prompts that are continued together, those of about the same length."""
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].tokens), -prompts[i].max_tokens))
        config = self.model.config
        slot_bytes = 8 * config.num_layers * config.num_kv_heads * config.head_width
        # As many in each as in the others, since they run beside each other.
        even = math.ceil(len(order) / max(math.ceil(len(order) / self.sequences), 1))
        batches: list[list[int]] = []
        slots = 0
        for i in order:
            wanted = len(prompts[i].tokens) + prompts[i].max_tokens
            most = max(slots, wanted)
            batch = batches[-1] if batches else None
            if batch is None or len(batch) == even or (len(batch) + 1) * most * slot_bytes > CACHE_BYTES:
                batches.append([i])
                slots = wanted
            else:
                batch.append(i)
                slots = most
        return batches

    def _continue(self, prompts: Sequence[Prompt], places: Sequence[int]) -> Iterator[list[Token]]:
        """Continue one batch; yields the tokens of each step. A continuation that ends leaves the batch."""
        batch = [_Growing(place, prompts[place], self._watch(prompts[place].stops)) for place in places]
        longest = max(one.prompt.max_tokens for one in batch)
        decoder = Decoder(self.model, [one.prompt.tokens for one in batch], longest - 1, self.reader)
        with torch.inference_mode(), self._autocast():
            logits_BV = decoder.read_prompts()
        while True:
            # Not around the yield, which would leave its reader in inference mode.
            with torch.inference_mode(), self._autocast():
                tokens_B = self._choose(logits_BV, batch)
                step = [one.add(token, self.eos_ids) for one, token in zip(batch, tokens_B.tolist(), strict=True)]
                tokens_B = _leave(batch, step, decoder, tokens_B)
                if batch:
                    logits_BV = decoder.step(tokens_B)
            yield step
            if not batch:
                return

    def _watch(self, stops: tuple[str, ...]) -> StopStrings | None:
        """One for all prompts with these strings, since it remembers which tokens can end one."""
        if self.decode is None or not stops:
            return None
        return self._watches.setdefault(stops, StopStrings(stops, self.decode))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _choose(self, logits_BV: Tensor, batch: Sequence[_Growing]) -> Tensor:
        samplings = [one.prompt.sampling for one in batch]
        uniform_B = torch.tensor([one.uniform() for one in batch] if any(samplings) else [], dtype=torch.float64)
        return choose(logits_BV, samplings, uniform_B)


class _Growing:
    """A continuation that is being made."""

    def __init__(self, place: int, prompt: Prompt, stops: StopStrings | None) -> None:
        self.place, self.prompt, self.tokens = place, prompt, list[int]()
        self.stops = stops
        self._uniforms = [] if prompt.sampling is None else uniforms(prompt.sampling, prompt.max_tokens).tolist()

    def uniform(self) -> float:
        """Draw for the next token; 0 where it is not drawn."""
        return self._uniforms[len(self.tokens)] if self._uniforms else 0.0

    def add(self, token: int, eos_ids: frozenset[int]) -> Token:
        """Take the next token."""
        self.tokens.append(token)
        if token in eos_ids:
            return Token(self.place, token, "eos")
        if self.stops is not None and self.stops.end(self.tokens):
            return Token(self.place, token, "stop")
        return Token(self.place, token, "length" if len(self.tokens) == self.prompt.max_tokens else None)


def _leave(batch: list[_Growing], step: Sequence[Token], decoder: Decoder, tokens_B: Tensor) -> Tensor:
    """Take what ended out of a batch; gives the tokens of the others."""
    ended = [row for row, token in enumerate(step) if token.ended]
    rows = list(range(len(batch)))
    for row in reversed(ended):  # so that the last one, which takes its place, is one that stays
        decoder.drop(row)
        batch[row], rows[row] = batch[-1], rows[-1]
        batch.pop()
        rows.pop()
    return tokens_B[rows] if ended else tokens_B
