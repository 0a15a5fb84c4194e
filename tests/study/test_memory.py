"""Peak memory from shapes against PyTorch's memory tracker, around the training step itself."""

import contextlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from workbench.config.schema import ModelConfig, OptimizerConfig
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss
from workbench.study.memory import peak_memory
from workbench.train.optimizer import build_optimizer
from workbench.train.step import train_step

SMALL = ModelConfig(
    name="small",
    num_layers=4,
    width=256,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=704,
    vocab_size=1024,
    context_tokens=256,
)
# The ladder's upper sizes with a third of their layers, since time grows with those and the counts do not change.
LARGE = {
    99: replace(SMALL, num_layers=8, width=768, num_heads=12, num_kv_heads=4, mlp_width=2048, vocab_size=32000),
    145: replace(SMALL, num_layers=5, width=1152, num_heads=18, num_kv_heads=6, mlp_width=3072, vocab_size=32000),
    307: replace(SMALL, num_layers=4, width=2048, num_heads=32, num_kv_heads=4, mlp_width=5632, vocab_size=32000),
}
LARGE = {size: replace(model, context_tokens=1024) for size, model in LARGE.items()}


def measured_bytes(
    model,
    precision,
    checkpointing,
    micro_batch,
    micro_batches,
    fake,
    document_mask=False,
    kind="adamw",
    attention="sdpa",
):
    """Peak over two steps, the second of which has moments from the start."""
    with FakeTensorMode() if fake else contextlib.nullcontext():
        network = Transformer(model, attention, checkpointing)
        if not fake:
            init_weights(network, 0)
        optimizer = build_optimizer(network, OptimizerConfig(kind=kind))
        sequences = micro_batch * micro_batches
        tokens = torch.zeros(sequences, model.context_tokens + 1, dtype=torch.int64)
        sources = torch.zeros(sequences, dtype=torch.int64)
        batch = Batch.by_document(tokens, 1) if document_mask else Batch(tokens)
        tracker = MemTracker()
        tracker.track_external(network, optimizer)

        def loss(micro_tokens):
            tracker.reset_mod_stats()  # the tracker wants to be told of every pass
            return summed_loss(network, micro_tokens)

        step = partial(train_step, network, loss, optimizer, batch, sources, num_sources=1, learning_rate=1e-4)
        with tracker:
            for _ in range(2):
                step(clip_norm=1.0, precision=precision, micro_batch_sequences=micro_batch)
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.fixture
def fake_values(monkeypatch):
    """Numbers where a tensor without values is asked for some."""
    monkeypatch.setattr(FakeTensor, "tolist", lambda x: [1.0] * len(x))


def estimated(
    model, precision, checkpointing, micro_batch, micro_batches, document_mask=False, kind="adamw", attention="sdpa"
):
    return peak_memory(
        model,
        micro_batch_sequences=micro_batch,
        micro_batches=micro_batches,
        precision=precision,
        activation_checkpointing=checkpointing,
        attention=attention,
        parallel="replicate",
        processes=1,
        device="cpu",
        document_mask=document_mask,
        optimizer=kind,
    )


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", LARGE)
def test_peak_of_large_models(fake_values, size, precision, checkpointing):
    case = (LARGE[size], precision, checkpointing, 2, 1)
    estimate = estimated(*case)
    assert estimate.parameters + estimate.gradients + estimate.optimizer > 1e9
    assert round(estimate.parameters / 4e6) == size
    assert estimate.total == pytest.approx(measured_bytes(*case, fake=True), rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tensors_without_values_measure_the_same(fake_values, precision):
    model = replace(SMALL, num_layers=2, width=64, num_heads=2, num_kv_heads=1, mlp_width=128, context_tokens=64)
    case = (model, precision, precision == "bf16", 2, 2)
    assert measured_bytes(*case, fake=True) == measured_bytes(*case, fake=False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp": "gelu"},
        {"norm": "layernorm"},
        {"position": "none"},
        {"tie_embeddings": True},
        {"qk_norm": True},
        {"num_kv_heads": 4},
        {"attention_bias": "all", "mlp_bias": True},
        {"norm": "layernorm", "norm_bias": True, "mlp": "gelu", "mlp_bias": True},
        {"parallel_residual": True},
        {"rotary_share": 0.5},
        {"parametrisation": "complete_p", "base_width": 128, "base_head_width": 32, "base_layers": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_peak_of_every_switch(fake_values, changes, micro_batches):
    case = (replace(SMALL, **changes), "fp32", False, 4, micro_batches)
    assert estimated(*case).total == pytest.approx(measured_bytes(*case, fake=True), rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peak_with_a_mask_of_documents(fake_values, precision):
    """One mask for all blocks: four of them hold little more than two."""
    for layers in (2, 4):
        case = (replace(SMALL, num_layers=layers, context_tokens=512), precision, False, 4, 1)
        plain, masked = (measured_bytes(*case, fake=True, document_mask=mask) for mask in (False, True))
        assert masked > plain
        assert estimated(*case, document_mask=True).total == pytest.approx(masked, rel=0.15)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"num_kv_heads": 4, "context_tokens": 512}, {"vocab_size": 64, "mlp_width": 256}]
)
def test_peak_with_scores_kept_block_by_block(fake_values, changes, checkpointing):
    case = (replace(SMALL, **changes), "fp32", checkpointing, 4, 1)
    kept = measured_bytes(*case, fake=True, attention="blocks")
    assert kept > measured_bytes(*case, fake=True)
    assert estimated(*case, attention="blocks").total == pytest.approx(kept, rel=0.15)
    assert estimated(*case, attention="auto") == estimated(*case, attention="blocks")  # which it may become


@pytest.mark.parametrize("model", [SMALL, replace(SMALL, vocab_size=64, context_tokens=16)], ids=["wide", "deep"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_muon_has_one_moment_of_the_blocks_matrices(fake_values, model, precision):
    """The second model's peak lies in the update, which Muon makes a matrix at a time."""
    case = (model, precision, False, 1, 1)
    muon, adamw = estimated(*case, kind="muon"), estimated(*case)
    assert muon.total == pytest.approx(measured_bytes(*case, fake=True, kind="muon"), rel=0.15)
    matrices = 4 * (256 * (256 + 256) + 256 * 256 + 3 * 256 * 704)
    assert adamw.optimizer - muon.optimizer == 4 * matrices


def test_sharding_divides_the_state():
    model = LARGE[307]
    one, eight = (
        peak_memory(
            model,
            micro_batch_sequences=1,
            precision="bf16",
            activation_checkpointing=True,
            attention="flash_attn",
            parallel="shard",
            processes=processes,
        )
        for processes in (1, 8)
    )
    assert eight.optimizer == one.optimizer // 8
    assert eight.total < one.total
