"""Decoding with a key-value cache: each step reads one token of each sequence of a batch.

Shapes: B sequences, D width, H query heads, G key-value heads, R query heads of each (H / G), K head width, P tokens of
the longest prompt, C slots of the cache, S slots that are read, V vocabulary.

Sequences end at the same slot: a shorter prompt begins at a later one. A new token's keys and values then are one slice
of the cache whatever the prompts' lengths, and only prompts of different lengths need a mask. A sequence that leaves is
overwritten with the last one, so that no step allocates or copies the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.model.matmul import activated, combined
from workbench.model.past import Past
from workbench.model.reader import Reader
from workbench.model.rope import rotate
from workbench.model.transformer import GELU, Attention, Block, Transformer

if TYPE_CHECKING:
    from jaxtyping import Float

PROMPT_TOKENS = 2048
"""Padded tokens of prompts that are read at once, at most; a longer prompt is read by itself."""


class Decoder:
    """A batch of sequences that grow by one token each at a time.

    Products are as in `Transformer`, of which each step is a forward pass over one token; prompts go through
    `Transformer.hidden` itself, padded on the right, so that causal attention is the only mask they need.

    Parameters
    ----------
    model
        The model, on any device; under autocast its arithmetic is autocast's.
    prompts
        Token ids of each sequence, at least one each.
    new_tokens
        How many tokens are read after the prompts, at most: the cache has slots for the longest prompt and these.
    reader
        The model prepared for reading, which computes the same up to rounding in less time; None takes the model.

    Attributes
    ----------
    size
        Sequences that are left.
    """

    def __init__(
        self, model: Transformer, prompts: Sequence[Sequence[int]], new_tokens: int, reader: Reader | None = None
    ) -> None:
        self.model, self.reader, self.size = model, reader, len(prompts)
        lengths = [len(prompt) for prompt in prompts]
        self._longest = self._next = max(lengths)
        self._slots = self._longest + new_tokens
        self._starts = [self._longest - length for length in lengths]
        self._first = min(self._starts)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._mask: Tensor | None = None
        self._starts_B = torch.tensor(self._starts, device=model.embedding.weight.device)
        self._prompts = prompts

    @torch.inference_mode()
    def read_prompts(self) -> Float[Tensor, "B V"]:
        """Logits of the token that follows each prompt."""
        device = self.model.embedding.weight.device
        last_hidden: list[Tensor] = []
        for rows in _batches([len(prompt) for prompt in self._prompts]):
            longest = max(len(self._prompts[row]) for row in rows)
            tokens_BT = torch.zeros(len(rows), longest, dtype=torch.long)
            for i, row in enumerate(rows):
                tokens_BT[i, : len(self._prompts[row])] = torch.tensor(self._prompts[row])
            pasts = [Past(grows=True) for _ in self.model.blocks]
            ends_B = torch.tensor([len(self._prompts[row]) for row in rows])
            last_B = ((torch.arange(len(rows)) * longest) + ends_B - 1).to(device)
            if self.reader is not None:
                last_hidden.append(self.reader.hidden(tokens_BT, last_B, pasts=pasts))
            else:
                last_hidden.append(self.model.hidden(tokens_BT.to(device), pasts=pasts).flatten(0, 1)[last_B])
            self._keep(rows, pasts)
        return (self.reader or self.model).head(torch.cat(last_hidden))

    def _keep(self, rows: range, pasts: Sequence[Past]) -> None:
        """Move prompts' keys and values to where they end with the longest prompt."""
        for layer, past in enumerate(pasts):
            assert past.keys is not None
            assert past.values is not None
            if len(self._keys) == layer:
                # Zeros and not just any memory: what a mask hides is still multiplied, and must not be NaN.
                shape = (self.size, past.keys.shape[2], self._slots, past.keys.shape[3])
                self._keys.append(past.keys.new_zeros(shape))
                self._values.append(past.values.new_zeros(shape))
            for i, row in enumerate(rows):
                length, place = len(self._prompts[row]), slice(self._starts[row], self._longest)
                self._keys[layer][row, :, place] = past.keys[i, :length].transpose(0, 1)
                self._values[layer][row, :, place] = past.values[i, :length].transpose(0, 1)
        if self._mask is None and len(set(self._starts)) > 1:
            dtype, G = self._keys[0].dtype, self._keys[0].shape[1]
            hidden_BC = torch.arange(self._slots, device=self._starts_B.device) < self._starts_B[:, None]
            mask_BC = torch.zeros(hidden_BC.shape, dtype=dtype, device=hidden_BC.device)
            mask_BC.masked_fill_(hidden_BC, float("-inf"))
            self._mask = mask_BC[:, None].repeat(1, G, 1)

    @torch.inference_mode()
    def step(self, tokens_B: Tensor) -> Float[Tensor, "B V"]:
        """Read one more token of each sequence, and give the logits of the one after it."""
        assert self._next < self._slots
        model = self.model
        x_BD = model.embedding(tokens_B)
        alike = self._mask is None
        # One position for all where prompts are of one length: a slice is all that it takes.
        position = slice(self._next - self._first, self._next - self._first + 1)
        positions_B = None if alike else self._next - self._starts_B[: self.size]
        if model.position is not None:
            x_BD = x_BD + (model.position.weight[position] if positions_B is None else model.position(positions_B))
        self._next += 1
        if self.reader is not None:
            return self._read(self.reader, x_BD, position if positions_B is None else positions_B)
        rope = model.rope
        if rope is not None:
            rope = rope[:, position] if positions_B is None else rope[:, positions_B, None]
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x_BD = self._block(layer, block, x_BD, rope)
        return model.head(model.norm(x_BD))

    def _read(self, reader: Reader, x_BD: Tensor, positions: slice | Tensor) -> Tensor:
        """Read a token of each sequence with prepared matrices."""
        turns = None if reader.turns is None else reader.turns[positions][:, None, None]
        for i, layer in enumerate(reader.layers):
            q, k, v = layer.heads(x_BD[:, None], turns)
            layer.add(x_BD, self._look(i, q[:, 0], k[:, 0], v[:, 0], layer.block.attention.scale))
        return reader.logits(x_BD)

    def _block(self, layer: int, block: Block, x_BD: Tensor, rope: Tensor | None) -> Tensor:
        heads_BD = self._attend(layer, block.attention, block.attention_norm(x_BD), rope)
        if block.parallel:
            mlp_BF = _mlp_hidden(block, block.mlp_norm(x_BD))
            x_BD = _add(block, x_BD, heads_BD, block.attention.output)
            return _add(block, x_BD, mlp_BF, block.mlp.down)
        x_BD = _add(block, x_BD, heads_BD, block.attention.output)
        return _add(block, x_BD, _mlp_hidden(block, block.mlp_norm(x_BD)), block.mlp.down)

    def _attend(self, layer: int, attention: Attention, x_BD: Tensor, rope: Tensor | None) -> Tensor:
        """Heads' outputs side by side, before the output matrix."""
        B, H, G, K = self.size, attention.H, attention.G, attention.K
        heads = activated(x_BD, attention.qkv.weight, attention.qkv.bias).view(B, 1, -1, K)
        qk, v = heads[:, :, : H + G], heads[:, 0, H + G :]
        if attention.q_norm is not None and attention.k_norm is not None:
            qk = torch.cat((attention.q_norm(qk[:, :, :H]), attention.k_norm(qk[:, :, H:])), dim=2)
        if rope is not None:
            qk = rotate(qk, rope)
        return self._look(layer, qk[:, 0, :H], qk[:, 0, H:], v, attention.scale)

    def _look(self, layer: int, q_BHK: Tensor, k_BGK: Tensor, v_BGK: Tensor, scale: float | None) -> Tensor:
        """Keep a token's keys and values, and give what its queries see, heads side by side."""
        (B, H, K), G, place = q_BHK.shape, k_BGK.shape[1], self._next - 1
        self._keys[layer][:B, :, place] = k_BGK
        self._values[layer][:B, :, place] = v_BGK
        seen = slice(self._first, place + 1)
        keys, values = (x[layer][:B].flatten(0, 1)[:, seen] for x in (self._keys, self._values))
        q = q_BHK.reshape(B * G, H // G, K)
        factor = K**-0.5 if scale is None else scale
        if self._mask is None:
            scores = torch.baddbmm(q.new_empty(()), q, keys.transpose(1, 2), beta=0, alpha=factor)
        else:
            mask = self._mask[:B].flatten(0, 1)[:, None, seen]
            scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=factor)
        return torch.bmm(scores.softmax(-1).to(values.dtype), values).view(B, H * K)

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Take a sequence out of the batch; the last one takes its place."""
        last = self.size - 1
        if row != last:
            seen = slice(self._starts[last], self._next)
            for cache in (*self._keys, *self._values):
                cache[row, :, seen] = cache[last, :, seen]
            self._starts[row] = self._starts[last]
            self._starts_B[row] = self._starts_B[last]
            if self._mask is not None:
                self._mask[row] = self._mask[last]
        self.size, self._starts = last, self._starts[:last]
        if self._starts:
            self._first = min(self._starts)
            if max(self._starts) == self._first:
                self._mask = None


def _batches(lengths: Sequence[int]) -> Iterator[range]:
    """Ranges of rows that are read at once."""
    start = longest = 0
    for row, length in itertools.chain(enumerate(lengths), [(len(lengths), 0)]):
        padded = (row + 1 - start) * max(longest, length)
        if row > start and (padded > PROMPT_TOKENS or row == len(lengths)):
            yield range(start, row)
            start, longest = row, 0
        longest = max(longest, length)


def _mlp_hidden(block: Block, x_BD: Tensor) -> Tensor:
    """Hidden state of the feed-forward block, before its `down`."""
    mlp = block.mlp
    if isinstance(mlp, GELU):
        return activated(x_BD, mlp.up.weight, mlp.up.bias, "gelu")
    (gate, up), bias = mlp.gate_up.weight.chunk(2), mlp.gate_up.bias
    gate_bias, up_bias = (None, None) if bias is None else bias.chunk(2)  # pyright: ignore
    return combined(x_BD, up, up_bias, activated(x_BD, gate, gate_bias, "silu"), "mul")


def _add(block: Block, x_BD: Tensor, hidden: Tensor, matrix: torch.nn.Linear) -> Tensor:
    """Put a branch's last matrix behind it, and add it to the residual stream."""
    if block.multiplier == 1:
        return combined(hidden, matrix.weight, matrix.bias, x_BD, "add")
    return torch.add(x_BD, activated(hidden, matrix.weight, matrix.bias), alpha=block.multiplier)
