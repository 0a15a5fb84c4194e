"""A forward pass for reading alone: in fp32 on the CPU, of tokens of which only some are asked for.

Shapes: B sequences, T tokens, S tokens that they may see, N tokens that are asked for, D width, H query heads, G key-value
heads, K head width, R features of a head that are rotated, V vocabulary.

It computes what `Transformer.hidden` and `Transformer.head` do, up to rounding, from matrices that are prepared once:

* They are laid out as oneDNN reads them, which it else does anew in each product (`workbench.model.matmul.Packed`).
* An RMSNorm's gain is part of the matrix that follows, so that one pass divides by the norm.
* Features that are rotated together are neighbours, so that they are complex numbers and a rotation is one product in place.
  The order of features within a head changes no product of a query with a key.
* The last block computes keys and values of all tokens, and everything else of those alone that are asked for.
* Attention under a mask leaves out what no token of a piece can see (`attend_in_pieces`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.model.attention import attend
from workbench.model.matmul import Packed, uses_onednn
from workbench.model.past import Past
from workbench.model.transformer import GELU, Attention, Block, Linear, Norm, Transformer

if TYPE_CHECKING:
    from jaxtyping import Float, Int

PACKED_BYTES = 2**31
"""A model of more bytes in its products is read as it is: what is prepared is a copy."""
PIECE_TOKENS = 32
"""Queries per piece of attention, at least: as many as PyTorch's kernel has in a block."""
PIECES = 4
"""Pieces of a sequence, at most."""


def can_read(model: Transformer) -> bool:
    """Whether `Reader` takes this model: fp32 on a CPU with oneDNN, not too large, without adapters."""
    weight = model.embedding.weight
    products = [module for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    return (
        weight.dtype == torch.float32
        and uses_onednn(weight.device)
        and model.config.head_width % 2 == 0
        and all(type(module) is Linear for module in products)
        and 4 * (sum(module.weight.numel() for module in products) + weight.numel()) <= PACKED_BYTES
    )


class Reader:
    """A model that is prepared for reading; later changes of its weights are not seen.

    Parameters
    ----------
    model
        One that `can_read` accepts.
    """

    @torch.inference_mode()
    def __init__(self, model: Transformer) -> None:
        assert can_read(model)
        self.model = model
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        self.layers = [Layer(block, model.config.rotary_width, block is blocks[-1]) for block in blocks]
        self._head = Packed(_with_gain(model.norm, model.head_weight) * model.output_multiplier)
        # Cosine and sine of each position, as one complex number: (positions, R/2).
        self.turns = None if model.rope is None else torch.complex(*model.rope)

    @torch.inference_mode()
    def hidden(
        self,
        tokens_BT: Int[Tensor, "B T"],
        wanted_N: Int[Tensor, " N"],
        positions_BT: Int[Tensor, "B T"] | None = None,
        *,
        mask_B1TS: Float[Tensor, "B 1 T S"] | None = None,
        trunk: int = 0,
        pasts: Sequence[Past] | None = None,
    ) -> Float[Tensor, "N D"]:
        """Compute what `head` takes, of the tokens that are asked for.

        Parameters
        ----------
        tokens_BT
            Token ids.
        wanted_N
            Places of the tokens that are asked for, among all B x T; there may be none, where only `pasts` matter.
        positions_BT, mask_B1TS, pasts
            As in `Transformer.hidden`.
        trunk
            With a mask and no past: how many of each sequence's first tokens see all that come before them.
        """
        T = tokens_BT.shape[1]
        x_BTD = self.model.embedding(tokens_BT)
        if self.model.position is not None:
            x_BTD += self.model.position.weight[:T] if positions_BT is None else self.model.position(positions_BT)
        turns = None
        if self.turns is not None:
            turns = (self.turns[:T] if positions_BT is None else self.turns[positions_BT])[..., None, :]
        for i, layer in enumerate(self.layers[:-1]):
            layer.read(x_BTD, turns, mask_B1TS, trunk, None if pasts is None else pasts[i])
        x_ND = self.layers[-1].read_some(x_BTD, wanted_N, turns, mask_B1TS, trunk, pasts[-1] if pasts else None)
        return _normalised(self.model.norm, x_ND)

    def logits(self, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Logits from the residual stream behind the last block."""
        return self._head(_normalised(self.model.norm, x_ND))

    def head(self, h_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N V"]:
        """Logits from what `hidden` gave."""
        return self._head(h_ND)


class LazyReader:
    """One reader for all that read a model alike, made when the first of them asks for it.

    Parameters
    ----------
    model
        The model; changes of its weights after that are not seen.
    precision
        `fp32`, or `bf16`, in which there is no reader.
    """

    def __init__(self, model: Transformer, precision: str) -> None:
        self.model, self.precision = model, precision

    @functools.cached_property
    def reader(self) -> Reader | None:
        """The reader; None where nothing is faster than the model itself."""
        return Reader(self.model) if self.precision == "fp32" and can_read(self.model) else None


class Layer:
    """A block with prepared matrices; the last one has a matrix of queries and one of keys and values."""

    def __init__(self, block: Block, rotary_width: int, last: bool) -> None:
        attention, mlp = block.attention, block.mlp
        self.block, self.R = block, rotary_width
        self.H, self.G, self.K = attention.H, attention.G, attention.K
        order = _neighbours(rotary_width, self.K)
        weight, bias = _with_gain(block.attention_norm, attention.qkv.weight), attention.qkv.bias
        weight, bias = (_reordered(x, attention, order) for x in (weight, bias))
        assert weight is not None
        rows = [self.H * self.K, 2 * self.G * self.K] if last else [len(weight)]
        biases = [None] * len(rows) if bias is None else bias.split(rows)
        self.qkv = [Packed(*pair) for pair in zip(weight.split(rows), biases, strict=True)]
        self.q_norm, self.k_norm = (_reordered_norm(norm, order) for norm in (attention.q_norm, attention.k_norm))
        self.output = Packed(attention.output.weight, attention.output.bias)
        first = mlp.up if isinstance(mlp, GELU) else mlp.gate_up
        self.first = Packed(_with_gain(block.mlp_norm, first.weight), first.bias)
        self.down = Packed(mlp.down.weight, mlp.down.bias)

    def read(self, x_BTD: Tensor, turns: Tensor | None, mask: Tensor | None, trunk: int, past: Past | None) -> None:
        """Apply to the residual stream, in place."""
        q, k, v = self.heads(x_BTD, turns)
        k, v = (k, v) if past is None else past.join(k, v)
        seen = attend_in_pieces(q, k, v, mask, trunk, self.block.attention.scale)
        self.add(x_BTD, seen.flatten(2))

    def heads(self, x_BTD: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Give queries (B, T, H, K), keys and values (B, T, G, K) of tokens, rotated."""
        h_BTD = _normalised(self.block.attention_norm, x_BTD)
        if len(self.qkv) == 2:
            q = self.qkv[0](h_BTD).unflatten(-1, (-1, self.K))
            k, v = self.qkv[1](h_BTD).unflatten(-1, (-1, self.K)).chunk(2, dim=2)
        else:
            heads = self.qkv[0](h_BTD).unflatten(-1, (-1, self.K))
            q, k, v = heads.split((self.H, self.G, self.G), dim=2)
            if self.q_norm is None:
                self._turn(heads[:, :, : self.H + self.G], turns)
                return q, k, v
        q, k = (x if norm is None else norm(x) for x, norm in ((q, self.q_norm), (k, self.k_norm)))
        return self._turn(q, turns), self._turn(k, turns), v

    def read_some(
        self,
        x_BTD: Tensor,
        wanted_N: Tensor,
        turns: Tensor | None,
        mask: Tensor | None,
        trunk: int,
        past: Past | None,
    ) -> Tensor:
        """Keep keys and values of all tokens; give the residual stream of those that are asked for."""
        T = x_BTD.shape[1]
        h_BTD = _normalised(self.block.attention_norm, x_BTD)
        k, v = self.qkv[1](h_BTD).unflatten(-1, (-1, self.K)).chunk(2, dim=2)
        k = self._turn(k if self.k_norm is None else self.k_norm(k), turns)
        k, v = (k, v) if past is None else past.join(k, v)
        x_ND = x_BTD.flatten(0, 1)[wanted_N]
        if not len(wanted_N):
            return x_ND
        # Without a mask, attention counts its queries from the first token.
        first = 0 if mask is None else int((wanted_N % T).min())
        q = self.qkv[0](h_BTD[:, first:]).unflatten(-1, (-1, self.K))
        later = turns if turns is None or not first else turns[..., first:, :, :]
        q = self._turn(q if self.q_norm is None else self.q_norm(q), later)
        seen = attend_in_pieces(q, k, v, mask, trunk, self.block.attention.scale)
        places_N = wanted_N.div(T, rounding_mode="floor") * (T - first) + wanted_N % T - first
        self.add(x_ND, seen.flatten(2).flatten(0, 1)[places_N])
        return x_ND

    def _turn(self, heads: Tensor, turns: Tensor | None) -> Tensor:
        """Rotate queries or keys in place."""
        if turns is not None:
            torch.view_as_complex(heads[..., : self.R].unflatten(-1, (-1, 2))).mul_(turns)
        return heads

    def add(self, x: Tensor, seen: Tensor) -> None:
        """Add what attention saw, and then what the feed-forward block makes of it, to the residual stream."""
        block = self.block
        if block.parallel:
            hidden = self._mlp_hidden(x)
            x.add_(self.output(seen), alpha=block.multiplier)
        else:
            x.add_(self.output(seen), alpha=block.multiplier)
            hidden = self._mlp_hidden(x)
        x.add_(self.down(hidden), alpha=block.multiplier)

    def _mlp_hidden(self, x: Tensor) -> Tensor:
        hidden = self.first(_normalised(self.block.mlp_norm, x))
        if isinstance(self.block.mlp, GELU):
            return F.gelu(hidden)
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate, inplace=True).mul_(up)


def attend_in_pieces(
    q_BQHK: Float[Tensor, "B Q H K"],
    k_BSGK: Float[Tensor, "B S G K"],
    v_BSGK: Float[Tensor, "B S G K"],
    mask_B1TS: Float[Tensor, "B 1 T S"] | None,
    trunk: int,
    scale: float | None,
) -> Float[Tensor, "B Q H K"]:
    """Attention under a tree's mask, without the keys behind the last query of each piece, which none of it sees.

    The kernel multiplies what a mask hides as well: for contexts of 80 tokens with four endings of 24 this takes three
    quarters of the time.

    Parameters
    ----------
    q_BQHK, k_BSGK, v_BSGK
        Queries of the last Q of a sequence's T tokens, keys and values of all that they may see.
    mask_B1TS
        As `tree_mask` makes it; None is causal attention.
    trunk, scale
        As in `Reader.hidden`, and as in `attend`.
    """
    if mask_B1TS is None:
        return attend(q_BQHK, k_BSGK, v_BSGK, "sdpa", None, scale)
    Q, T, S = q_BQHK.shape[1], *mask_B1TS.shape[2:]
    seen_BQHK = torch.empty_like(q_BQHK, memory_format=torch.contiguous_format)
    done = trunk if Q == T == S else 0
    if done:
        q, k, v = (x[:, :done] for x in (q_BQHK, k_BSGK, v_BSGK))
        seen_BQHK[:, :done] = attend(q, k, v, "sdpa", None, scale)
    size = max(PIECE_TOKENS, PIECE_TOKENS * math.ceil((Q - done) / PIECES / PIECE_TOKENS))
    for start in range(done, Q, size):
        end = min(start + size, Q)
        keys = S - Q + end
        mask = mask_B1TS[:, :, T - Q + start : T - Q + end, :keys]
        seen_BQHK[:, start:end] = attend(q_BQHK[:, start:end], k_BSGK[:, :keys], v_BSGK[:, :keys], "sdpa", mask, scale)
    return seen_BQHK


def _normalised(norm: Norm, x: Tensor) -> Tensor:
    """Normalise, without an RMSNorm's gain, which `_with_gain` has put elsewhere."""
    if norm.kind != "rmsnorm":
        return norm(x)
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return x * squares.div_(x.shape[-1]).add_(norm.eps).rsqrt_()


def _with_gain(norm: Norm, weight: Tensor) -> Tensor:
    """Matrix that takes what `_normalised` gives."""
    return weight * norm.weight if norm.kind == "rmsnorm" else weight


def _neighbours(rotary_width: int, head_width: int) -> Tensor:
    """Order of a head's features in which those that are rotated together, i and i + R/2, are side by side."""
    pairs = torch.arange(rotary_width).view(2, -1).t().flatten()
    return torch.cat((pairs, torch.arange(rotary_width, head_width)))


def _reordered(rows: Tensor | None, attention: Attention, order: Tensor) -> Tensor | None:
    """Rows of the matrix of queries, keys and values (or its bias) with the features of queries and keys in an order."""
    if rows is None:
        return None
    turned = (attention.H + attention.G) * attention.K
    qk = rows[:turned].unflatten(0, (-1, attention.K))[:, order].flatten(0, 1)
    return torch.cat((qk, rows[turned:]))


def _reordered_norm(norm: nn.Module | None, order: Tensor) -> Norm | None:
    if not isinstance(norm, Norm):
        return None
    other = Norm.__new__(Norm)
    nn.Module.__init__(other)
    other.weight, other.kind, other.eps = nn.Parameter(norm.weight[order]), norm.kind, norm.eps
    other.bias = None if norm.bias is None else nn.Parameter(norm.bias[order])
    return other
