"""Peak memory of one training process, computed from the model's config and from what the code keeps.

Bytes of the tensors that a training step (`workbench.train.step`) holds at once: weights, gradients and the optimizer's
moments in fp32, and what autograd keeps of a micro-batch. What the allocator wastes, libraries keep to themselves
and `torch.compile` saves is left out. On the CPU within 6% of PyTorch's memory tracker for models of 38M to 439M
parameters and every switch, in fp32 and bf16, with and without activation checkpointing; fine-tuning of all weights or
adapters, masks by document, distillation and kept logits within 20% (docs/benchmarks.md).
Shared out between two processes (26M, gloo) it was up to 11% above the allocator's peak. GPUs were not measured.

Shapes: N tokens of a micro-batch of T tokens a sequence, D width, H query heads, G key-value heads, K head width,
F hidden width of the feed-forward block, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.schema import ModelConfig, NumericsConfig
from workbench.study.flops import block_matrices, count_parameters

FP32 = 4
"""Bytes of a weight, a gradient, a moment, and a number of the residual stream."""
_SMALL_FILES_BYTES = 4_000_000
"""Of a checkpoint's tokenizer, configs and counters, and then some."""
LOSS_ROWS = 4096
"""Tokens whose logits a GPU holds at once: it wants large products, and of 32,000 ids these are 0.5 GB."""
LOSS_BYTES = 4 << 20
"""Logits that a CPU holds at once, as fp32; 2 to 8 MB were equally fast, 16 MB half as fast."""

ATTENTION_BLOCK = 64
"""Queries whose scores `workbench.model.attention_blocks` makes at once. Of 32, 64 and 128, 64 was the fastest or within 5% of
it for sequences of 256 and 512 tokens."""


def attention_blocks(context_tokens: int) -> list[tuple[int, int]]:
    """Cut a sequence's queries into blocks: first place and the place behind the last, up to which its keys go."""
    step = ATTENTION_BLOCK
    return [(start, min(start + step, context_tokens)) for start in range(0, context_tokens, step)]


def kept_scores(context_tokens: int) -> int:
    """Count the scores that attention by blocks keeps of one head and one sequence."""
    return sum((end - start) * end for start, end in attention_blocks(context_tokens))


def loss_rows(vocab_size: int, device: str) -> int:
    """Tokens whose logits `workbench.model.loss` makes at once, on a `cpu` or another device."""
    return max(16, LOSS_BYTES // (FP32 * vocab_size)) if device == "cpu" else LOSS_ROWS


HEAD_MULTIPLE = 64
"""Rows of a padded output head: products on a GPU want them to be a multiple of what its tiles and loads take."""


def head_padded_to(numerics: NumericsConfig, vocab_size: int, device: str) -> int:
    """Multiple that the rows of the output head are filled up to where the loss is computed; 1 leaves them.

    Parameters
    ----------
    numerics
        Whose `pad_vocabulary` says so, or leaves it to the device.
    vocab_size
        Rows of the head.
    device
        `cuda` or `cpu`.
    """
    wanted = device == "cuda" if numerics.pad_vocabulary is None else numerics.pad_vocabulary
    return HEAD_MULTIPLE if wanted and vocab_size % HEAD_MULTIPLE else 1


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    parameters: int
    """Weights in fp32: all of them, or a share where they are sharded."""
    gradients: int
    """Gradients in fp32, likewise; whole where sharded ones are summed over several micro-batches."""
    optimizer: int
    """Moments in fp32, likewise: AdamW's two, and one of each matrix that Muon updates."""
    activations: int
    """The most that a forward and backward pass hold besides: what autograd keeps, weights in the precision they
    are multiplied in, gathered shards and their gradients."""
    total: int
    """Peak. Gradients of an only micro-batch come as its activations go, so the parts above may sum to more."""


@dataclass(frozen=True)
class Adapters:
    """What is trained in place of a model's weights."""

    parameters: int
    """Of all adapters."""
    rank: int
    """Of each."""
    targets: tuple[str, ...]
    """Matrices that have one, by their names in `transformers`' Llama."""


@dataclass(frozen=True)
class _Shape:
    """What the counts below depend on."""

    model: ModelConfig
    tokens: int
    """N."""
    size: int
    """Bytes of a number that is multiplied: 2 in bf16."""
    attention: str
    device: str
    adapters: Adapters | None = None
    pads_head: bool = False

    @property
    def keeps_all_inputs(self) -> bool:
        """Whether every matrix keeps its input, for its own gradient or because oneDNN's product keeps it anyway."""
        return self.adapters is None or (self.device == "cpu" and self.size == FP32)

    def is_adapted(self, *matrices: str) -> bool:
        """Whether one of these matrices has an adapter, which keeps its input too."""
        return self.adapters is not None and bool({*matrices} & {*self.adapters.targets})

    @property
    def plain_attention(self) -> bool:
        """Whether all T scores of a token exist: CPU in bf16, and GPU in fp32 where heads share keys and values."""
        grouped = self.model.num_heads != self.model.num_kv_heads
        return self.attention in ("sdpa", "blocks", "auto") and (
            self.size != FP32 if self.device == "cpu" else self.size == FP32 and grouped
        )

    @property
    def attention_by_blocks(self) -> bool:
        """Whether scores are kept block by block: on a CPU in fp32, where that was asked for or may be chosen."""
        return self.attention in ("blocks", "auto") and self.device == "cpu" and self.size == FP32

    @property
    def block_scores(self) -> int:
        """The scores that attention by blocks keeps."""
        return self.scores * kept_scores(self.model.context_tokens) // self.model.context_tokens**2

    @property
    def stream(self) -> int:
        """Residual stream, kept in fp32."""
        return FP32 * self.tokens * self.model.width

    @property
    def scores(self) -> int:
        """All attention scores."""
        return self.size * self.tokens * self.model.num_heads * self.model.context_tokens

    @property
    def mask(self) -> int:
        """One number for each pair of a sequence's tokens."""
        return self.size * self.tokens * self.model.context_tokens

    @property
    def hidden(self) -> int:
        """One row of F numbers a token."""
        return self.size * self.tokens * self.model.mlp_width

    @property
    def table(self) -> int:
        """Weights of the embedding, or of the head."""
        return FP32 * self.model.vocab_size * self.model.width


def peak_memory(
    model: ModelConfig,
    *,
    micro_batch_sequences: int,
    precision: str,
    activation_checkpointing: bool,
    attention: str,
    parallel: str,
    processes: int,
    micro_batches: int = 1,
    device: str = "cuda",
    document_mask: bool = False,
    optimizer: str = "adamw",
    adapters: Adapters | None = None,
    pads_head: bool = False,
) -> Memory:
    """Estimate the peak memory of one training process.

    The peak lies at the loss, in the backward pass of the last block or of the first, or in the update.

    Parameters
    ----------
    model
        Shapes.
    micro_batch_sequences
        Sequences of one forward pass.
    precision, activation_checkpointing, attention, parallel
        As the numerics say.
    processes
        Among which one copy of the model is shared out, unless `parallel` is `replicate`.
    micro_batches
        Forward passes of this process a step; from the second on, gradients stand beside the activations.
    device
        `cuda` or `cpu`: they compute attention, norms and loss differently.
    document_mask
        Whether attention is confined to documents: its mask is held throughout, one number for each pair of tokens.
    optimizer
        `adamw` or `muon`.
    adapters
        What is trained in place of the weights, on a model that is whole on every process: gradients and moments are
        theirs alone, and the frozen matrices' inputs and norms' outputs need not be kept.
    pads_head
        Whether the output head is copied to be filled up with rows of zeros, in fp32 too.
    """
    shape = _Shape(
        model,
        micro_batch_sequences * model.context_tokens,
        2 if precision == "bf16" else FP32,
        attention,
        device,
        adapters,
        pads_head,
    )
    shares = 1 if parallel == "replicate" else processes
    share = -(-FP32 * count_parameters(model).total // shares)
    last, first = _backward_bytes(shape, activation_checkpointing)
    # Of one block alone where the others' passes are over, or yet to be done again.
    copies = _copied_bytes(shape, model.num_layers if shares == 1 else 0)
    copy = _copied_bytes(shape, 1 if shares == 1 else 0)
    if adapters is not None:
        return _adapted_memory(shape, adapters, micro_batches, activation_checkpointing, document_mask)
    # FSDP2 sums gradients after the last micro-batch alone, and keeps them whole until then.
    ready = share * shares if micro_batches > 1 else 0
    # Plain gradients that processes sum have set out as copies when the backward pass ends.
    sums = share if shares == 1 and processes > 1 else 0
    before = share - (0 if ready else shape.table // shares) + (shape.table if shares > 1 else 0)
    held = max(
        ready + _loss_bytes(shape, activation_checkpointing) + copies,
        ready + last + shape.table + (copy if activation_checkpointing else copies),
        before + first + copy + sums,
    ) + (_gathered_bytes(shape) if shares > 1 else 0)
    held += shape.mask if document_mask else 0
    moments, update = 2 * share, share
    if optimizer == "muon":
        moments -= FP32 * model.num_layers * block_matrices(model)
        update += _muon_bytes(model)
    return Memory(share, ready or share, moments, held - ready, share + moments + max(held, update))


def _adapted_memory(
    shape: _Shape, adapters: Adapters, micro_batches: int, checkpointing: bool, document_mask: bool
) -> Memory:
    """Estimate the peak where adapters are trained: the head's gradient is made with the loss, and let go after it."""
    parameters = FP32 * (count_parameters(shape.model).total + adapters.parameters)
    trained = FP32 * adapters.parameters
    ready = trained if micro_batches > 1 else 0
    last, first = _backward_bytes(shape, checkpointing)
    copies = _copied_bytes(shape, shape.model.num_layers)
    copy = _copied_bytes(shape, 1)
    held = max(
        ready + _loss_bytes(shape, checkpointing) + copies,
        ready + last + (copy if checkpointing else copies),
        trained + first + copy,
    )
    held += shape.mask if document_mask else 0
    return Memory(
        parameters, ready or trained, 2 * trained, held - ready, parameters + 2 * trained + max(held, 2 * trained)
    )


def forward_bytes(
    model: ModelConfig,
    *,
    micro_batch_sequences: int,
    precision: str,
    attention: str,
    device: str,
    logit_matrices: int = 3,
) -> int:
    """Bytes of a model that is not trained but asked beside one that is: fp32 weights, and its pass without gradients.

    Of the pass, the widest of three: attention, feed-forward block, and the logits that a loss makes at once.

    Parameters
    ----------
    model, micro_batch_sequences, precision, attention, device
        As `peak_memory` takes them.
    logit_matrices
        How many matrices of a chunk's logits are held at once, in fp32.
    """
    shape = _Shape(
        model, micro_batch_sequences * model.context_tokens, 2 if precision == "bf16" else FP32, attention, device
    )
    heads = 2 * shape.size * shape.tokens * (model.num_heads + 2 * model.num_kv_heads) * model.head_width
    attending = heads + (2 * shape.scores if shape.plain_attention else 0)
    chunk = min(loss_rows(model.vocab_size, device), shape.tokens) * model.vocab_size * logit_matrices * FP32
    # The head's copy in bf16 stands beside the logits.
    logits = chunk + (0 if shape.size == FP32 else shape.table * shape.size // FP32)
    return FP32 * count_parameters(model).total + 3 * shape.stream + max(attending, 3 * shape.hidden, logits)


def _block_bytes(shape: _Shape) -> int:
    """Count what autograd keeps of one block.

    Its input and the stream between its halves, what each norm gives to the matrices after it, queries, keys and
    values before and after the rotation, the heads' output, and the feed-forward block's hidden rows.
    """
    model, size, tokens = shape.model, shape.size, shape.tokens
    heads = size * tokens * model.head_width
    if shape.plain_attention:
        attention = 3 * model.num_heads * heads + shape.scores
    elif shape.attention_by_blocks:  # queries, keys and values of every head by itself, the weights, and the output
        attention = 4 * model.num_heads * heads + shape.block_scores
    else:
        attention = (2 * model.num_heads + 3 * model.num_kv_heads) * heads + FP32 * tokens * model.num_heads
    if model.qk_norm:
        attention += FP32 * tokens * (model.num_heads + model.num_kv_heads) * model.head_width
    # On the CPU, RMSNorm is several operations, and keeps what it multiplies by the gain.
    norms = 2 * shape.stream if model.norm == "rmsnorm" and shape.device == "cpu" and shape.adapters is None else 0
    rows, inputs = 4 if model.mlp == "swiglu" else 2, 3
    if not shape.keeps_all_inputs:
        rows -= not shape.is_adapted("down_proj")
        inputs -= (
            (not shape.is_adapted("q_proj", "k_proj", "v_proj"))
            + (not shape.is_adapted("o_proj"))
            + (not shape.is_adapted("gate_proj", "up_proj"))
        )
    between = size * tokens * shape.adapters.rank * len(shape.adapters.targets) if shape.adapters else 0
    return 2 * shape.stream + norms + inputs * size * tokens * model.width + attention + rows * shape.hidden + between


def _kept_bytes(shape: _Shape, checkpointing: bool) -> int:
    """Count what the forward pass keeps of all blocks."""
    return shape.model.num_layers * (shape.stream if checkpointing else _block_bytes(shape))


def _loss_bytes(shape: _Shape, checkpointing: bool) -> int:
    """Count what is held while the loss is computed, or taken back.

    Beside the hidden states and their gradient, two matrices of the head's gradient; or one, its part from a
    chunk of tokens, the head's copy and the chunk's logits.
    """
    vocabulary = shape.model.vocab_size
    rows = loss_rows(vocabulary, shape.device)
    # Logits and probabilities, of this chunk and the one before.
    wide = 3 if shape.tokens > rows else 2
    chunk = min(rows, shape.tokens) * vocabulary * (wide * FP32 + (2 if shape.size == 2 else 0))
    part = shape.table * shape.size // FP32
    forward = shape.table + part + (part if shape.size == 2 or shape.pads_head else 0) + chunk
    backward = 2 * shape.table + shape.stream
    return _kept_bytes(shape, checkpointing) + 3 * shape.stream + max(forward, backward)


def _backward_bytes(shape: _Shape, checkpointing: bool) -> tuple[int, int]:
    """Count what is held while gradients pass through the last block, and through the first."""
    block, kept = _block_bytes(shape), _kept_bytes(shape, checkpointing)
    # Gradients of the hidden rows, less the row that the last matrix has let go; or those of the scores,
    # when the feed-forward block's rows are gone.
    rows = 2 if shape.model.mlp == "swiglu" else 1
    temporary = rows * shape.hidden
    if shape.plain_attention:
        temporary = max(temporary, 2 * shape.scores - 2 * rows * shape.hidden)
    elif shape.attention_by_blocks:
        # Gradients of queries, keys, values and output, and the scores' of the last block, the largest.
        last = shape.size * shape.tokens * shape.model.num_heads * min(ATTENTION_BLOCK, shape.model.context_tokens)
        heads = 4 * shape.size * shape.tokens * shape.model.num_heads * shape.model.head_width
        temporary = max(temporary, last + heads - 2 * rows * shape.hidden)
    temporary += shape.stream
    last = kept + temporary + (block - shape.stream if checkpointing else 0)
    return last, block + temporary


def _copied_bytes(shape: _Shape, layers: int) -> int:
    """Count the bf16 copies that autocast makes of so many blocks' matrices, and keeps until the pass ends."""
    return 0 if shape.size == FP32 else shape.size * layers * _block_weights(shape.model)


def _block_weights(model: ModelConfig) -> int:
    return (count_parameters(model).non_embedding - model.width) // model.num_layers


def _muon_bytes(model: ModelConfig) -> int:
    """Count what an update of the largest matrix holds: old and new values of momentum and weights, and its iterations."""
    rows = 2 * model.mlp_width if model.mlp == "swiglu" else model.mlp_width
    largest = model.width * max(rows, model.width + 2 * model.num_kv_heads * model.head_width)
    return 5 * FP32 * largest


def _gathered_bytes(shape: _Shape) -> int:
    """Count what FSDP2 gathers: the root's tables, and two blocks, one of them with gradients on their way."""
    count = count_parameters(shape.model)
    return FP32 * (count.total - count.non_embedding) + _block_weights(shape.model) * (3 * shape.size + FP32)


def state_bytes(params: int) -> int:
    """Bytes of a checkpoint on disk: weights and two moments in fp32, and a margin for the small files; at most, for Muon."""
    return 3 * FP32 * params + _SMALL_FILES_BYTES


def weights_bytes(params: int) -> int:
    """Bytes of a checkpoint that keeps its weights alone."""
    return FP32 * params + _SMALL_FILES_BYTES
