"""A training step never waits for its device but once, at its end, and puts every tensor where the parameters are.

No GPU is needed to see it. Tensors on the meta device have shapes and no values: whatever asks one for a value
(`item`, `tolist`, `bool`, a copy to the host) raises an error, and an operation that mixes devices is found by its
arguments. Autocast and FSDP2 do not know the meta device; PyTorch's fake tensors, which raise the same errors, stand in
there and say that they are on the CPU.
"""

from collections import Counter
from contextlib import nullcontext
from functools import partial
from importlib import import_module

import pytest
import torch
import torch.distributed as dist
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench.config.schema import (
    MixtureSegment,
    ModelConfig,
    NumericsConfig,
    OptimizerConfig,
    Schedule,
    StreamConfig,
    StreamSource,
    TrainingStage,
)
from workbench.model import loss as loss_module
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer, summed_loss
from workbench.train import step as step_module
from workbench.train.distributed import World
from workbench.train.optimizer import build_optimizer
from workbench.train.sharding import empty_sharded
from workbench.train.step import HostCopy, train_step

MODEL = ModelConfig(
    name="test",
    num_layers=1,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=48,
    vocab_size=61,
    context_tokens=16,
    qk_norm=True,
)
SEQUENCES, SOURCES = 4, 2
PROCESSES = 2


class Seen(TorchDispatchMode):
    """Notes of every operation what it was, and the kinds of its tensors."""

    def __init__(self):
        super().__init__()
        self.operations, self.devices, self.dtypes = Counter(), set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = self._body(func)(*args, **(kwargs or {}))
        self.operations[func.overloadpacket] += 1
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        self.devices |= {x.device.type for x in tensors}
        self.dtypes |= {x.dtype for x in tensors}
        return result

    def _body(self, func):
        """An operator of the model's loss is entered; without values PyTorch would ask it for shapes alone."""
        name = func._schema.name
        if "cross_entropy" not in name:
            return func

        def run(*args):
            with self:
                return OPDEFS[name]._init_fn(*args)

        return run


class MetaAutocast(TorchFunctionMode):
    """What autocast does to the model's products, which it does not do on the meta device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (F.linear, F.scaled_dot_product_attention):
            args = tuple(x.bfloat16() if isinstance(x, torch.Tensor) else x for x in args)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def late_copies(monkeypatch):
    """The tensors that a step copies to the host; it is told that all they hold is 1."""
    copied = []

    class Told(HostCopy):
        def __init__(self, numbers):
            copied.append(numbers)

        def read(self):
            return [1.0] * len(copied[-1])

    monkeypatch.setattr(step_module, "HostCopy", Told)
    return copied


@pytest.fixture
def group():
    """Two processes, of which one exists."""
    dist.init_process_group("cpu:fake,meta:fake", store=FakeStore(), rank=0, world_size=PROCESSES)
    yield World(0, PROCESSES, torch.device("cpu"))
    dist.destroy_process_group()


def take_steps(model, device, precision, world=World(), kind="adamw"):  # noqa: B008
    """Two steps of two micro-batches each: the first makes the moments, the second finds them.

    In 16 bits with a padded head.
    """
    model.head_padded_to = 64 if precision == "bf16" else 1
    optimizer = build_optimizer(model, OptimizerConfig(kind=kind, z_loss=1e-4))
    tokens = torch.zeros(SEQUENCES, MODEL.context_tokens + 1, dtype=torch.int64, device=device)
    sources = torch.zeros(SEQUENCES, dtype=torch.int64, device=device)
    for number in (1, 2):
        result = train_step(
            model,
            partial(summed_loss, model, z_loss=1e-4),
            optimizer,
            Batch(tokens),
            sources,
            num_sources=SOURCES,
            learning_rate=1e-3,
            clip_norm=1.0,
            precision=precision,
            micro_batch_sequences=SEQUENCES // 2,
            world=world,
            step=number,
        )
        assert not result.skipped
    return optimizer


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("parallel", ["single", "replicate"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_the_meta_device(monkeypatch, late_copies, request, precision, parallel, kind):
    # Its list of devices with a fused kernel lacks meta, which has one.
    monkeypatch.setattr(import_module("torch.optim.adam"), "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    if precision == "bf16":
        monkeypatch.setattr(step_module, "autocast", lambda *_: MetaAutocast())
        monkeypatch.setattr(loss_module, "compute_dtype", lambda _: torch.bfloat16)
    world = request.getfixturevalue("group") if parallel == "replicate" else World()
    with torch.device("meta"):
        model = Transformer(MODEL)
    with Seen() as seen:
        optimizer = take_steps(model, "meta", precision, world, kind)
    assert seen.devices == {"meta"}
    assert (torch.bfloat16 in seen.dtypes) == (precision == "bf16" or kind == "muon")  # which iterates in 16 bits
    assert_one_copy_a_step(late_copies, "meta")
    state = [x for slots in optimizer.state.values() for x in slots.values()]
    assert {x.device.type for x in state} == {"meta"}


@pytest.mark.parametrize("parallel", ["single", "replicate", "shard"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_values(late_copies, group, precision, parallel):
    """Under real autocast, and shared out by FSDP2."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    with FakeTensorMode(), Seen() as seen:
        if parallel == "shard":
            model = empty_sharded(stage(precision), torch.device("cpu"), mesh)
        else:
            model = Transformer(MODEL)
        take_steps(model, "cpu", precision, World() if parallel == "single" else group)
    assert seen.devices <= {"cpu", "meta"}
    assert (torch.bfloat16 in seen.dtypes) == (precision == "bf16")
    assert all(isinstance(numbers, FakeTensor) for numbers in late_copies)
    # Gradients of two steps of two micro-batches travel once a step: a bucket, or a block's and the root's.
    sums = seen.operations[torch.ops.c10d.allreduce_], seen.operations[torch.ops.c10d._reduce_scatter_base_]
    assert sums == {"single": (0, 0), "replicate": (4, 0), "shard": (2, 4)}[parallel]
    assert_one_copy_a_step(late_copies, "cpu")


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_values(precision, kind):
    """No operation gives a value to the host."""
    model = Transformer(MODEL)
    init_weights(model, 0)
    with Seen() as seen:
        take_steps(model, "cpu", precision, kind=kind)
    aten = torch.ops.aten
    assert not {aten.item, aten.is_nonzero, aten._local_scalar_dense, aten.nonzero, aten.equal} & set(seen.operations)


def test_what_would_be_a_hidden_sync_is_found(late_copies):
    """The net has no hole: each way of asking for a value raises an error."""
    value = torch.zeros(2, device="meta")
    for ask in (lambda: value[0].item(), value.tolist, lambda: bool(value[0] > 0), value.cpu, lambda: value[value > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask()
    with pytest.raises(NotImplementedError, match="no data"):
        HostCopy(value)


def assert_one_copy_a_step(copies, device):
    assert [(len(numbers), numbers.device.type) for numbers in copies] == [(2 * SOURCES + 1, device)] * 2


def stage(precision):
    return TrainingStage(
        parent=None,
        model=MODEL,
        stream=StreamConfig("none", MODEL.context_tokens, 0, {"a": StreamSource()}, [MixtureSegment(0, {"a": 1.0})]),
        batch_sequences=SEQUENCES * PROCESSES,
        schedule=Schedule(peak=1e-3, warmup_tokens=0),
        optimizer=OptimizerConfig(),
        precision=precision,
        seed_init=0,
        numerics=NumericsConfig(parallel="shard"),
    )
