"""Training on one GPU as a process of several would: nccl, FSDP2, its files and its memory."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch.distributed.tensor import DTensor

from workbench.config.schema import ModelConfig, NumericsConfig
from workbench.model.transformer import summed_loss
from workbench.study.memory import peak_memory
from workbench.train.determinism import determinism
from workbench.train.distributed import World, join
from workbench.train.micro_batch import choose_micro_batch
from workbench.train.optimizer import optimizer_tensors
from workbench.train.state import initial_state, load_state, save_state
from workbench.train.trial_stage import make_trial_stage, make_trial_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda", 0)
STAGE = make_trial_stage(
    ModelConfig(
        name="test",
        num_layers=3,
        width=256,
        num_heads=4,
        num_kv_heads=2,
        mlp_width=512,
        vocab_size=512,
        context_tokens=128,
    ),
    batch_sequences=4,
)
WORLD = World(0, 1, DEVICE)
NUMERICS = ("numerics.device=cuda", "numerics.deterministic=true")


def step_of(state, stage, micro_batch_sequences, **settings):
    """One step on one random batch, to be called as often as wanted."""
    settings |= {"micro_batch_sequences": micro_batch_sequences}
    return make_trial_step(state.model, state.optimizer, stage, DEVICE, **settings)


def losses_of(state, stage, steps, micro_batch_sequences=2):
    """Losses of so many steps on one random batch."""
    step = step_of(state, stage, micro_batch_sequences)
    state.step += steps
    return [step().loss for _ in range(steps)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frugal", [False, True])
def test_sharded_losses_are_the_plain_ones(mesh, precision, frugal):
    stage = replace(STAGE, precision=precision, numerics=NumericsConfig(activation_checkpointing=frugal))
    plain = losses_of(initial_state(replace(stage, numerics=NumericsConfig()), DEVICE), stage, 20)
    sharded = losses_of(initial_state(stage, DEVICE, mesh), stage, 20)
    assert sharded == pytest.approx(plain, abs=1e-5 if precision == "fp32" else 1e-2)
    assert plain[-1] < plain[0] - 0.5


def test_shares_are_written_and_read_on_the_gpu(mesh, tmp_path):
    with determinism(True, DEVICE):
        state = initial_state(STAGE, DEVICE, mesh)
        losses_of(state, STAGE, 3)
        save_state(state, tmp_path, tmp_path, 0, None, WORLD)
        ahead = losses_of(state, STAGE, 3)
        assert losses_of(load_state(tmp_path, STAGE, DEVICE, mesh), STAGE, 3) == ahead
        assert losses_of(load_state(tmp_path, STAGE, DEVICE), STAGE, 3) == pytest.approx(ahead, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["sdpa", "flash_attn"])
def test_strict_kernels_repeat_every_bit(precision, attention):
    """Of a model large enough for backward passes whose threads race where they may."""
    if attention == "flash_attn" and (precision == "fp32" or importlib.util.find_spec("flash_attn") is None):
        pytest.skip("needs the package flash-attn, and bf16")
    model = replace(STAGE.model, num_kv_heads=4, context_tokens=1024)
    numerics = NumericsConfig(attention=attention, deterministic=True)
    stage = make_trial_stage(model, batch_sequences=16, precision=precision, numerics=numerics)
    with determinism(True, DEVICE):
        first, second = (losses_of(initial_state(stage, DEVICE), stage, 10, 8) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_operation_of_a_step_waits_for_the_gpu(mesh, precision, shared):
    """But the late copy, which waits for an event of its own; CUDA's own watch for implicit waits raises errors."""
    state = initial_state(STAGE, DEVICE, mesh if shared else None)
    step = step_of(state, replace(STAGE, precision=precision), 2)
    step()  # libraries start
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [step().loss for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
def test_a_skipped_update_changes_no_bit(mesh, shared):
    state = initial_state(STAGE, DEVICE, mesh if shared else None)
    losses_of(state, STAGE, 2)
    before = {key: tensor.clone() for key, tensor in everything(state).items()}

    def poisoned(tokens):
        total, losses = summed_loss(state.model, tokens)
        return total * torch.inf, losses

    result = step_of(state, STAGE, 2, loss=poisoned, skip_non_finite=True)()
    assert result.skipped
    assert all(torch.equal(tensor, before[key]) for key, tensor in everything(state).items())


def everything(state):
    tensors = {**dict(state.model.named_parameters()), **optimizer_tensors(state.model, state.optimizer)}
    return {key: (x.full_tensor() if isinstance(x, DTensor) else x).detach() for key, x in tensors.items()}


def test_an_open_micro_batch_is_what_the_gpu_has_room_for():
    stage = replace(STAGE, batch_sequences=64)
    assert choose_micro_batch(stage, 1, DEVICE) == 64
    large = replace(STAGE.model, num_layers=24, width=2048, num_heads=32, num_kv_heads=32, mlp_width=5632)
    large = replace(large, context_tokens=4096, vocab_size=32000)
    assert 1 <= choose_micro_batch(replace(stage, model=large, batch_sequences=4096), 1, DEVICE) < 4096


def test_a_process_alone_joins_its_gpu():
    with join(0, 1, 0, "127.0.0.1", 1, "cuda", timeout_seconds=10) as world:
        assert (world.size, world.device) == (1, DEVICE)
        assert world.any_(True, False) == (True, False)
        assert torch.cuda.current_device() == 0


def test_a_stage_trains_on_the_gpu_and_resumes_exactly(make_study, tmp_path):
    from workbench.train.checkpoint import find_checkpoint
    from workbench.train.whole_stage import train_stage

    finals = []
    for name, targets in (("at_once", [8192]), ("in_two", [2560, 8192])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(tmp_path / "outputs" / "data")
        facts = make_study(f"paths.outputs={tmp_path / name}", "recipe.milestones=[2560]", *NUMERICS)
        trunk = next(iter(facts.plan.nodes))
        for target in targets:
            train_stage(facts.layout, trunk, world=WORLD, wanted=[target])
        path = find_checkpoint(facts.layout.stage(trunk), 8192)
        assert path is not None
        finals.append((path / "model.safetensors").read_bytes())
    assert finals[0] == finals[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("frugal", [False, True])
@pytest.mark.parametrize(("width", "layers"), [(768, 12), (1024, 16), (1536, 20)])
def test_peak_memory_is_the_planned_one(precision, frugal, width, layers):
    """Of three models whose weights, gradients and moments exceed 1 GB."""
    model = replace(
        STAGE.model,
        width=width,
        num_layers=layers,
        num_heads=width // 64,
        num_kv_heads=width // 64,
        mlp_width=8 * width // 3,
        vocab_size=16384,
        context_tokens=1024,
    )
    numerics = NumericsConfig(activation_checkpointing=frugal)
    stage = make_trial_stage(model, batch_sequences=4, precision=precision, numerics=numerics)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    losses_of(initial_state(stage, DEVICE), stage, 2, micro_batch_sequences=4)
    measured = torch.cuda.max_memory_allocated() - before
    planned = peak_memory(
        model,
        micro_batch_sequences=4,
        precision=precision,
        activation_checkpointing=frugal,
        attention="sdpa",
        parallel="replicate",
        processes=1,
    )
    assert planned.parameters + planned.gradients + planned.optimizer > 1e9
    assert planned.total == pytest.approx(measured, rel=0.15)
