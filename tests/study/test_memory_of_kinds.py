"""Estimates of peak memory that plans give, for every way of training, against PyTorch's memory tracker."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from workbench.config.schema import (
    ChatDataConfig,
    LoraConfig,
    ModelConfig,
    NumericsConfig,
    OptimizerConfig,
    Parent,
    Schedule,
    StreamConfig,
    TrainingStage,
)
from workbench.kinds.distill.run import distillation_loss
from workbench.kinds.distill.spec import Spec as Distill
from workbench.kinds.logits.run import ask
from workbench.kinds.logits.spec import Spec as Logits
from workbench.kinds.sft.spec import Spec as Sft
from workbench.model.batch import Batch
from workbench.model.lora import add_adapters
from workbench.model.transformer import Transformer, summed_loss
from workbench.study.resources import stage_memory
from workbench.train.optimizer import build_optimizer
from workbench.train.step import train_step

CPU = torch.device("cpu")
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
# Half of the layers: its blocks have as much of the memory as the head then, and time grows with their number.
MIDDLE = replace(
    SMALL,
    name="middle",
    num_layers=2,
    width=768,
    num_heads=12,
    num_kv_heads=4,
    mlp_width=2048,
    vocab_size=8192,
    context_tokens=512,
)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
SIZES = [SMALL, pytest.param(MIDDLE, marks=pytest.mark.slow)]
MODELS = pytest.mark.parametrize("model", SIZES, ids=["small", "middle"])
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16"])
SHAPES = pytest.mark.parametrize(("sequences", "micro_batch"), [(4, 4), (4, 2)], ids=["whole", "micro"])


class Tracker(MemTracker):
    """Without hooks on gradients, which frozen parameters break; they only say what is a gradient."""

    def _track_module_params_and_buffers(self, module, install_grad_hooks=True):
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)


@pytest.fixture(autouse=True)
def fake_values(monkeypatch):
    """Numbers where a tensor without values is asked for some."""
    monkeypatch.setattr(FakeTensor, "tolist", lambda x: [1.0] * len(x))
    monkeypatch.setattr(FakeTensor, "item", lambda x: 1.0)


def common(model, precision, sequences, micro_batch, mask=False, checkpointing=False):
    return {
        "parent": None,
        "model": model,
        "stream": StreamConfig("f" * 16, model.context_tokens, 0, {}, [], document_mask=mask),
        "batch_sequences": sequences,
        "schedule": Schedule(1e-3, 0),
        "optimizer": OptimizerConfig(),
        "precision": precision,
        "numerics": NumericsConfig(micro_batch_sequences=micro_batch, activation_checkpointing=checkpointing),
    }


def peak(
    stage, tune=lambda network: None, loss_of=lambda network: partial(summed_loss, network), beside=(), batch=None
):
    """Most bytes that two steps of a stage hold, the second of which has moments from the start."""
    network = Transformer(stage.model, "sdpa", stage.numerics.activation_checkpointing)
    tune(network)
    optimizer = build_optimizer(network, stage.optimizer)
    tokens = torch.zeros(stage.batch_sequences, stage.stream.context_tokens + 1, dtype=torch.int64)
    sources = torch.zeros(stage.batch_sequences, dtype=torch.int64)
    batch = batch(tokens) if batch else Batch(tokens)
    tracker = Tracker()
    tracker.track_external(network, optimizer, *beside)
    loss = loss_of(network)

    def told(micro):
        tracker.reset_mod_stats()
        return loss(micro)

    step = partial(train_step, network, told, optimizer, batch, sources, num_sources=1, learning_rate=1e-4)
    with tracker:
        for _ in range(2):
            step(
                clip_norm=1.0,
                precision=stage.precision,
                micro_batch_sequences=stage.numerics.micro_batch_sequences,
            )
    return tracker.get_tracker_snapshot("peak")[CPU]["Total"]


def compare(stage, measured):
    estimate = stage_memory(stage, 1, None, "cpu").total
    print(f"{estimate / 1e6:.1f} over {measured / 1e6:.1f} MB")  # noqa: T201
    assert estimate == pytest.approx(measured, rel=0.2)


def chat(tokens):
    """Packed conversations, every other token of which has loss."""
    return Batch.by_document(tokens, 1, torch.ones(tokens.shape[0], tokens.shape[1] - 1))


@MODELS
@PRECISIONS
@SHAPES
@pytest.mark.parametrize("targets", [None, ATTENTION, ALL], ids=["full", "attention", "all"])
def test_fine_tuning(model, precision, sequences, micro_batch, targets):
    lora = None if targets is None else LoraConfig(rank=8, alpha=16.0, targets=targets)
    settings = common(model, precision, sequences, micro_batch, mask=True)
    stage = Sft(**settings, conversations="c" * 16, lora=lora, chat=ChatDataConfig(name="made_up", files=["x"]))
    with FakeTensorMode():
        measured = peak(stage, lambda network: lora and add_adapters(network, lora, 0), batch=chat)
    compare(stage, measured)


@MODELS
@PRECISIONS
@SHAPES
def test_pretraining_with_a_mask_of_documents(model, precision, sequences, micro_batch):
    stage = TrainingStage(**common(model, precision, sequences, micro_batch, mask=True))
    with FakeTensorMode():
        measured = peak(stage, batch=lambda tokens: Batch.by_document(tokens, 1))
    compare(stage, measured)


@MODELS
@PRECISIONS
@SHAPES
@pytest.mark.parametrize("top_k", [None, 50])
def test_distillation(model, precision, sequences, micro_batch, top_k):
    larger = replace(model, num_layers=2 * model.num_layers, name="teacher")
    stage = Distill(
        **common(model, precision, sequences, micro_batch),
        inputs={"teacher": Parent("t" * 16, 1000)},
        alpha=0.5,
        temperature=2.0,
        teacher=larger,
        top_k=top_k,
    )

    def taught(tokens):
        shape = (*tokens[:, 1:].shape, top_k)
        return Batch(
            tokens,
            taught_ids=torch.zeros(shape, dtype=torch.int32),
            taught_log_q=torch.zeros(shape, dtype=torch.float16),
        )

    with FakeTensorMode():
        teacher = None if top_k else Transformer(larger, "sdpa").requires_grad_(False).eval()

        def loss_of(network):
            return lambda batch: distillation_loss(network, teacher, stage, batch)[:2]

        measured = peak(stage, loss_of=loss_of, beside=[teacher] if teacher else [], batch=taught if top_k else None)
    compare(stage, measured)


@MODELS
@PRECISIONS
@SHAPES
def test_keeping_logits(monkeypatch, model, precision, sequences, micro_batch):
    stage = Logits(
        **common(model, precision, sequences, micro_batch),
        inputs={"teacher": Parent("t" * 16, 1000)},
        top_k=50,
        vocab_size=model.vocab_size,
    )
    teacher = Transformer(model, "sdpa").requires_grad_(False).eval()
    for parameter in teacher.parameters():
        parameter.zero_()
    tracker = Tracker()
    tracker.track_external(teacher)
    hidden = teacher.hidden

    def told(*inputs):
        tracker.reset_mod_stats()  # the tracker wants to be told of every pass
        return hidden(*inputs)

    monkeypatch.setattr(teacher, "hidden", told)
    with tracker:
        ask(teacher, stage, Batch(torch.zeros(sequences, model.context_tokens + 1, dtype=torch.int64)), micro_batch)
    compare(stage, tracker.get_tracker_snapshot("peak")[CPU]["Total"])
