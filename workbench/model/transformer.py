"""A decoder with Llama 2's architecture and the switches that ablations turn.

Shapes: B sequences, T tokens, D width, H query heads, G key-value heads, K head width, F hidden width
of the feed-forward block, V vocabulary.

References
----------
Touvron et al., "Llama 2", arXiv:2307.09288; Zhang et al., "TinyLlama", arXiv:2401.02385.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from workbench.config.schema import ModelConfig
from workbench.model import in_place
from workbench.model.attention import Borders, attend, check_attention, document_borders, document_mask, takes_borders
from workbench.model.batch import Batch
from workbench.model.distillation import Lesson, summed_distillation
from workbench.model.loss import cross_entropy_per_token, summed_cross_entropy
from workbench.model.matmul import compute_dtype, linear
from workbench.model.parametrisation import attention_scale, output_multiplier, residual_multiplier
from workbench.model.past import Past
from workbench.model.rope import rope_table, rotate
from workbench.model.sparse_distillation import SparseLesson, summed_sparse_distillation

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Linear(nn.Linear):
    """A matrix, without bias unless asked; NaN until `init_weights` or a checkpoint fills it, so neither is forgotten."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Fill with NaN; draws no random numbers."""
        for parameter in self.parameters():
            nn.init.constant_(parameter, math.nan)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, and add the bias."""
        products = linear(input, self.weight)
        # pyright does not know that a bias may be None.
        return products if self.bias is None else products + self.bias.to(products.dtype)  # pyright: ignore


class Embedding(nn.Embedding):
    """A table of vectors; NaN until filled, as `Linear`."""

    def reset_parameters(self) -> None:
        """Fill with NaN; draws no random numbers."""
        nn.init.constant_(self.weight, math.nan)


class Norm(nn.Module):
    """RMSNorm, or LayerNorm with or without bias, over the last axis."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm_bias else None
        self.kind, self.eps = config.norm, config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in the gain's dtype (fp32 under autocast); keeps the dtype of `x`."""
        wide, shape = x.to(self.weight.dtype), self.weight.shape
        if self.kind == "rmsnorm":
            return F.rms_norm(wide, shape, self.weight, self.eps).to(x.dtype)
        return F.layer_norm(wide, shape, self.weight, self.bias, self.eps).to(x.dtype)

    def beside(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Give the residual stream for whatever else reads it, and its norm."""
        if self.kind == "rmsnorm" and x_BTD.dtype == self.weight.dtype and in_place.pays(x_BTD):
            return in_place.stream_and_norm(x_BTD, self.weight, self.eps)
        return x_BTD, self(x_BTD)


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values come from one matrix."""

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.H, self.G, self.K = config.num_heads, config.num_kv_heads, config.head_width
        self.backend, self.scale = backend, attention_scale(config)
        self.qkv = Linear(config.width, (self.H + 2 * self.G) * self.K, config.attention_bias != "none")
        self.q_norm = Norm(config, self.K) if config.qk_norm else None
        self.k_norm = Norm(config, self.K) if config.qk_norm else None
        self.output = Linear(config.width, config.width, config.attention_bias == "all")

    def forward(
        self, x_BTD: Tensor, rope: Tensor | None, mask: Tensor | Borders | None, past: Past | None = None
    ) -> Tensor:
        """Attend; `rope` holds the rotations of these T positions, `mask` is added to the scores if there is one."""
        heads = self.qkv(x_BTD).unflatten(-1, (-1, self.K))
        if rope is not None and self.q_norm is None and 2 * rope.shape[-1] == self.K and in_place.pays(heads):
            q_BTHK, k_BTGK, v_BTGK = in_place.split_and_rotate(heads, rope, self.H, self.G)
        else:
            q_BTHK, k_BTGK, v_BTGK = self._split(heads, rope)
        if past is not None:
            k_BTGK, v_BTGK = past.join(k_BTGK, v_BTGK)
        return self.output(attend(q_BTHK, k_BTGK, v_BTGK, self.backend, mask, self.scale).flatten(2))

    def _split(self, heads_BTNK: Tensor, rope: Tensor | None) -> tuple[Tensor, ...]:
        """Give queries and keys, normalised and rotated where they are to be, and values."""
        qk, v_BTGK = heads_BTNK.split((self.H + self.G, self.G), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHK, k_BTGK = qk.split((self.H, self.G), dim=2)
            qk = torch.cat((self.q_norm(q_BTHK), self.k_norm(k_BTGK)), dim=2)
        if rope is not None:
            qk = rotate(qk, rope)
        return *qk.split((self.H, self.G), dim=2), v_BTGK


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))`; gate and up are one matrix. Shazeer, arXiv:2002.05202, eq. 6."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.width, 2 * config.mlp_width, config.mlp_bias)
        self.down = Linear(config.mlp_width, config.width, config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply to each token."""
        gate_up = self.gate_up(x_BTD)
        if in_place.pays(gate_up):
            return self.down(in_place.gated(gate_up))
        gate_BTF, up_BTF = gate_up.chunk(2, dim=-1)
        return self.down(F.silu(gate_BTF) * up_BTF)


class GELU(nn.Module):
    """`down(gelu(up(x)))`, the feed-forward block of GPT-2, with exact GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.mlp_width, config.mlp_bias)
        self.down = Linear(config.mlp_width, config.width, config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Apply to each token."""
        return self.down(F.gelu(self.up(x_BTD)))


class Block(nn.Module):
    """Attention and feed-forward, each added to the residual stream after a norm at its entry."""

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.parallel, self.multiplier = config.parallel_residual, residual_multiplier(config)
        self.attention_norm = Norm(config, config.width)
        self.attention = Attention(config, backend)
        self.mlp_norm = Norm(config, config.width)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else GELU(config)

    def forward(
        self, x_BTD: Tensor, rope: Tensor | None, mask: Tensor | Borders | None = None, past: Past | None = None
    ) -> Tensor:
        """Apply to the residual stream."""
        if self.parallel:
            both = (self.attention(self.attention_norm(x_BTD), rope, mask, past), self.mlp(self.mlp_norm(x_BTD)))
            return self._add(self._add(x_BTD, both[0]), both[1])
        x_BTD, normed_BTD = self.attention_norm.beside(x_BTD)
        x_BTD = self._add(x_BTD, self.attention(normed_BTD, rope, mask, past))
        x_BTD, normed_BTD = self.mlp_norm.beside(x_BTD)
        return self._add(x_BTD, self.mlp(normed_BTD))

    def _add(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return torch.add(x_BTD, branch_BTD, alpha=self.multiplier)


class Transformer(nn.Module):
    """Decoder-only language model. Can be built on the meta device; see `init_weights`.

    Parameters
    ----------
    config
        Shapes and switches.
    attention
        Backend, as `check_attention` knows it; it does not change the weights.
    activation_checkpointing
        Keep only each block's input for the backward pass, and compute the rest again there.
    """

    rope: Tensor | None

    def __init__(self, config: ModelConfig, attention: str = "sdpa", activation_checkpointing: bool = False) -> None:
        super().__init__()
        if attention not in ("sdpa", "blocks"):
            check_attention(attention, "cuda")
        self.config, self.activation_checkpointing = config, activation_checkpointing
        self.backend = attention
        self.output_multiplier = output_multiplier(config)
        self.head_padded_to = 1
        """Rows of the head are a multiple of this where the loss multiplies by it; the weights stay as they are."""
        self.embedding = Embedding(config.vocab_size, config.width)
        self.position = Embedding(config.context_tokens, config.width) if config.position == "learned" else None
        self.blocks = nn.ModuleList(Block(config, attention) for _ in range(config.num_layers))
        self.norm = Norm(config, config.width)
        self.output = None if config.tie_embeddings else Linear(config.width, config.vocab_size)
        self.register_buffer("rope", self._rope_table(), persistent=False)

    def _rope_table(self) -> Tensor | None:
        c = self.config
        if c.position != "rope":
            return None
        return rope_table(c.context_tokens, c.rotary_width, c.rope_theta, c.rope_scaling)

    def reset_buffers(self) -> None:
        """Compute the rotations anew, on the parameters' device; needed after `to_empty`."""
        table = self._rope_table()
        self.rope = None if table is None else table.to(self.embedding.weight.device)

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """Matrix of the output head; the embedding's where they are tied."""
        return self.embedding.weight if self.output is None else self.output.weight

    def hidden(
        self,
        tokens_BT: Int[Tensor, "B T"],
        positions_BT: Int[Tensor, "B T"] | None = None,
        documents_BT: Int[Tensor, "B T"] | None = None,
        documents_at_most: int | None = None,
        *,
        mask_B1TS: Float[Tensor, "B 1 T S"] | None = None,
        pasts: Sequence[Past] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Residual stream after the final norm.

        Parameters
        ----------
        tokens_BT
            Token ids.
        positions_BT
            Each token's position; None counts from 0.
        documents_BT
            Number of each token's document, to which attention is confined; None lets it see all before.
        documents_at_most
            Documents of a sequence, at most, which some backends ask; None is one for each token.
        mask_B1TS
            What each token sees, as `tree_mask` makes it, instead of documents. Positions are needed then, and a
            sequence of several branches may have more tokens than the model's context, which bounds their positions.
        pasts
            Of each block, keys and values of tokens that come before; a mask that lets them be seen is needed then.

        Raises
        ------
        ValueError
            The sequences are longer than the model's context.
        """
        T = tokens_BT.shape[1]
        if mask_B1TS is None and self.config.context_tokens < T:
            raise ValueError(f"sequences of {T} tokens exceed model.context_tokens={self.config.context_tokens}")
        x_BTD = self.embedding(tokens_BT)
        if self.position is not None:
            x_BTD = x_BTD + (self.position.weight[:T] if positions_BT is None else self.position(positions_BT))
        rope = self.rope
        if rope is not None:
            rope = rope[:, :T] if positions_BT is None else rope[:, positions_BT]
        mask = mask_B1TS if documents_BT is None else self._mask(documents_BT, documents_at_most, x_BTD)
        for i, block in enumerate(self.blocks):
            if self.activation_checkpointing and torch.is_grad_enabled():
                # Nothing here draws random numbers, so their state need not be kept.
                x_BTD = checkpoint(block, x_BTD, rope, mask, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD = block(x_BTD, rope, mask, None if pasts is None else pasts[i])
        return self.norm.beside(x_BTD)[1]

    def _mask(self, documents_BT: Tensor, at_most: int | None, x_BTD: Tensor) -> Tensor | Borders:
        if takes_borders(self.backend):
            return document_borders(documents_BT, at_most)
        return document_mask(documents_BT, compute_dtype(x_BTD))

    def head(self, h: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape V"]:
        """Logits from what `hidden` gave, for all of its tokens or some."""
        return linear(self.before_head(h), self.head_weight)

    def before_head(self, h: Tensor) -> Tensor:
        """Scale hidden states as the logits are to be: the loss takes both and makes no logits to be scaled."""
        return h if self.output_multiplier == 1 else h * self.output_multiplier

    def forward(
        self,
        tokens_BT: Int[Tensor, "B T"],
        targets_BT: Int[Tensor, "B T"] | None = None,
        *,
        weights_BT: Float[Tensor, "B T"] | None = None,
        positions_BT: Int[Tensor, "B T"] | None = None,
        documents_BT: Int[Tensor, "B T"] | None = None,
        documents_at_most: int | None = None,
        summed: bool = False,
        z_loss: float = 0.0,
        cross_entropy: str = "own",
        lesson: Lesson | SparseLesson | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, T, V); with targets, each target's cross-entropy in nats instead, (B, T) in fp32.

        With targets and `summed`, their sum, each times its weight, which alone has a gradient, and beside it the terms
        without weights; `z_loss` adds its part to the sum, and `cross_entropy` names the kernel that makes it
        (`workbench.model.loss`). With a teacher's `lesson`, what
        `workbench.model.distillation` or `workbench.model.sparse_distillation` gives. Positions and documents are as in `hidden`.
        The loss is part of `forward` so that it passes through whatever wraps the model (compilation,
        data-parallel and sharding wrappers), and so that the logits never exist all at once.
        """
        h_BTD = self.hidden(tokens_BT, positions_BT, documents_BT, documents_at_most)
        if targets_BT is None:
            return self.head(h_BTD)
        h_BTD, padded_to = self.before_head(h_BTD), self.head_padded_to
        if isinstance(lesson, SparseLesson):
            return summed_sparse_distillation(
                h_BTD, self.head_weight, targets_BT, lesson, weights_BT, z_loss, padded_to
            )
        if lesson is not None:
            return summed_distillation(h_BTD, self.head_weight, targets_BT, lesson, weights_BT, z_loss, padded_to)
        if summed:
            return summed_cross_entropy(
                h_BTD, self.head_weight, targets_BT, weights_BT, z_loss, cross_entropy, padded_to
            )
        return cross_entropy_per_token(h_BTD, self.head_weight, targets_BT, padded_to)


def loss_per_token(model: nn.Module, tokens_BT1: Int[Tensor, "B T+1"]) -> Float[Tensor, "B T"]:
    """Cross-entropy of each token but the first, given those before it: fp32, in nats.

    Parameters
    ----------
    model
        A `Transformer`, compiled or wrapped or neither.
    tokens_BT1
        Sequences of one token more than are predicted.
    """
    return model(tokens_BT1[:, :-1], tokens_BT1[:, 1:])


def summed_loss(
    model: nn.Module, batch: Batch, z_loss: float = 0.0, cross_entropy: str = "own"
) -> tuple[Float[Tensor, ""], Float[Tensor, "B T"]]:
    """Sum of the targets' losses times their weights, which alone has a gradient, and the losses: what a step takes.

    With `z_loss`, the sum has that part too, and the losses do not; `cross_entropy` names its kernel
    (`summed_cross_entropy`).
    """
    return model(
        batch.tokens[:, :-1],
        batch.tokens[:, 1:],
        weights_BT=batch.weights,
        positions_BT=batch.positions,
        documents_BT=batch.documents,
        documents_at_most=batch.documents_at_most,
        summed=True,
        z_loss=z_loss,
        cross_entropy=cross_entropy,
    )
