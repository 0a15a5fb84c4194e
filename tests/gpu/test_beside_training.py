"""What a GPU does beside its training: copies of a checkpoint's state, and a head padded while the loss is computed."""

from dataclasses import replace

import pytest
import torch

from workbench.config.schema import ModelConfig
from workbench.train.distributed import World
from workbench.train.state import initial_state, save_state
from workbench.train.state_copy import HostCopies
from workbench.train.trial_stage import make_trial_stage, make_trial_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda", 0)
VOCABULARY = 50257
STAGE = make_trial_stage(
    ModelConfig(
        name="test",
        num_layers=4,
        width=512,
        num_heads=8,
        num_kv_heads=4,
        mlp_width=1408,
        vocab_size=VOCABULARY,
        context_tokens=256,
    ),
    batch_sequences=8,
)


def step_of(state, stage):
    return make_trial_step(state.model, state.optimizer, stage, DEVICE)


@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared"])
def test_what_is_copied_is_of_its_step_though_training_goes_on(request, tmp_path, shared):
    """Many times, over the same memory: the next update waits for the copies, and the host for nothing."""
    state = initial_state(STAGE, DEVICE, request.getfixturevalue("mesh") if shared else None)
    step, copies, world = step_of(state, STAGE), HostCopies(DEVICE), World(0, 1, DEVICE)
    copies.hold_back(state.optimizer)
    step()
    for number in range(5):
        whole, copied = tmp_path / f"whole-{number}", tmp_path / f"copied-{number}"
        for folder in (whole, copied):
            folder.mkdir()
        save_state(state, whole, tmp_path, 0, None, world)
        taken = copies.copy(state.snapshot(), is_main=True)
        for _ in range(3):
            step()
        copies.wait()
        save_state(taken, copied, tmp_path, 0, None, world)
        assert (whole / "model.safetensors").read_bytes() == (copied / "model.safetensors").read_bytes()
        if not shared:  # of shares, the header's order is the library's
            assert (whole / "optimizer.safetensors").read_bytes() == (copied / "optimizer.safetensors").read_bytes()
        assert (whole / "rng.safetensors").read_bytes() == (copied / "rng.safetensors").read_bytes()
    assert all(tensor.is_pinned() for tensor in taken.weights.values())


def test_a_copy_waits_for_nothing():
    """CUDA's own watch for implicit waits raises errors, once the pinned memory has been taken."""
    state = initial_state(STAGE, DEVICE)
    step, copies = step_of(state, STAGE), HostCopies(DEVICE)
    copies.hold_back(state.optimizer)
    step()
    snapshot = state.snapshot()
    copies.copy(snapshot, is_main=True)
    copies.wait()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copies.copy(snapshot, is_main=True)
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_padded_head_trains_alike_and_no_slower(precision):
    """Of a vocabulary that divides by nothing; how much faster is printed (`pytest -s`)."""
    stage, losses, seconds = replace(STAGE, precision=precision), {}, {}
    for padded_to in (1, 64):
        state = initial_state(stage, DEVICE)
        state.model.head_padded_to = padded_to
        step = step_of(state, stage)
        losses[padded_to] = [step().loss for _ in range(10)]
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(20):
            step()
        ended.record()
        torch.cuda.synchronize()
        seconds[padded_to] = began.elapsed_time(ended) / 20
    print(f"{precision}: {seconds[1]:.2f} ms a step, {seconds[64]:.2f} with a padded head")  # noqa: T201
    assert losses[64] == pytest.approx(losses[1], abs=1e-5 if precision == "fp32" else 1e-2)
    assert seconds[64] < 1.05 * seconds[1]
