"""`numerics.attention=auto`: the fastest of what is here, measured once, recorded, and kept by whoever goes on."""

from dataclasses import replace

import pytest
import torch

from workbench.config.schema import ModelConfig, NumericsConfig, OptimizerConfig, Schedule, StreamConfig, TrainingStage
from workbench.train import attention_choice, loop
from workbench.train import checkpoint as ckpt
from workbench.train.attention_choice import choose_attention, measured_seconds
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.whole_stage import train_stage

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
STAGE = TrainingStage(
    parent=None,
    model=ModelConfig("test", 2, 32, 4, 2, 64, 64, 64),
    stream=StreamConfig("none", 64, 0, {}, []),
    batch_sequences=4,
    schedule=Schedule(peak=1e-3, warmup_tokens=0),
    optimizer=OptimizerConfig(),
    precision="bf16",
    seed_init=0,
    numerics=NumericsConfig(attention="auto"),
)
SECONDS = {"sdpa": 3.0, "cudnn": 1.0, "flash_attn": 2.0, "flash_attn_3": 1.5}


@pytest.fixture
def here(monkeypatch):
    """What this machine has: fill it with backends."""
    found = {"sdpa"}

    def check(backend, device):
        if backend not in found:
            raise ValueError("not here")

    monkeypatch.setattr(attention_choice, "check_attention", check)
    return found


def measured(backend, *_):
    return SECONDS[backend]


def unmeasured(*_):
    raise AssertionError("measured")


def test_what_the_numerics_say_is_not_measured(here):
    stage = replace(STAGE, numerics=NumericsConfig(attention="flash_attn"))
    assert choose_attention(stage, 2, CUDA, measure=unmeasured, begun_with="cudnn") == "flash_attn"


def test_a_cpu_in_bf16_a_gpu_in_fp32_and_a_machine_with_one_backend_have_nothing_to_choose(here):
    assert choose_attention(STAGE, 2, CUDA, measure=unmeasured) == "sdpa"
    here.update(SECONDS)
    assert choose_attention(STAGE, 2, CPU, measure=unmeasured, begun_with="cudnn") == "sdpa"
    assert choose_attention(replace(STAGE, precision="fp32"), 2, CUDA, measure=unmeasured) == "sdpa"


def test_a_cpu_in_fp32_has_attention_by_blocks_too():
    exact = replace(STAGE, precision="fp32")
    for faster in ("sdpa", "blocks"):
        seconds = {"sdpa": 2.0, "blocks": 2.0, faster: 1.0}
        assert choose_attention(exact, 2, CPU, measure=lambda backend, *_, s=seconds: s[backend]) == faster
    assert choose_attention(exact, 2, CPU, measure=unmeasured, begun_with="blocks") == "blocks"
    assert all(measured_seconds(backend, exact, 2, CPU) > 0 for backend in ("sdpa", "blocks"))


def test_the_fastest_that_is_here_is_taken(here):
    said = []
    here.update({"flash_attn", "flash_attn_3"})
    assert choose_attention(STAGE, 2, CUDA, measure=measured, say=said.append) == "flash_attn_3"
    assert said == [
        "numerics.attention=auto takes flash_attn_3: a block's attention and its gradients take sdpa 3000.000 ms, "
        "flash_attn 2000.000 ms, flash_attn_3 1500.000 ms"
    ]
    here.add("cudnn")
    assert choose_attention(STAGE, 2, CUDA, measure=measured) == "cudnn"


def test_where_bits_must_repeat_cudnn_is_not_asked(here):
    here.update(SECONDS)
    strict = replace(STAGE, numerics=NumericsConfig(attention="auto", deterministic=True))
    assert choose_attention(strict, 2, CUDA, measure=measured) == "flash_attn_3"
    assert choose_attention(strict, 2, CUDA, measure=measured, begun_with="cudnn") == "flash_attn_3"


def test_what_fails_is_left_out_and_said(here):
    said = []
    here.update({"cudnn", "flash_attn"})

    def failing(backend, *_):
        if backend == "cudnn":
            raise RuntimeError("No available kernel.\nAborting execution.")
        return SECONDS[backend]

    assert choose_attention(STAGE, 2, CUDA, measure=failing, say=said.append) == "flash_attn"
    assert said[0] == "numerics.attention=auto leaves cudnn out: No available kernel. Aborting execution."


def test_what_a_stage_was_begun_with_is_taken_again_while_it_is_here(here):
    here.update(SECONDS)
    assert choose_attention(STAGE, 2, CUDA, measure=unmeasured, begun_with="sdpa") == "sdpa"
    assert choose_attention(STAGE, 2, CUDA, measure=unmeasured, begun_with="flash_attn") == "flash_attn"
    here.remove("flash_attn")
    assert choose_attention(STAGE, 2, CUDA, measure=measured, begun_with="flash_attn") == "cudnn"


@pytest.mark.parametrize("masked", [False, True])
def test_a_measurement_is_of_the_stages_shapes_and_its_mask(masked, monkeypatch):
    seen = []
    original = attention_choice.attend

    def watched(q, k, v, backend, mask):
        seen.append((q.shape, k.shape, q.dtype, backend, None if mask is None else mask.shape))
        return original(q, k, v, backend, mask)

    monkeypatch.setattr(attention_choice, "attend", watched)
    stage = replace(STAGE, stream=replace(STAGE.stream, document_mask=masked))
    assert measured_seconds("sdpa", stage, 2, CPU) > 0
    mask = (2, 1, 64, 64) if masked else None
    assert set(seen) == {((2, 64, 4, 8), (2, 64, 2, 8), torch.bfloat16, "sdpa", mask)}


def test_the_choice_is_recorded_and_kept_by_whoever_goes_on(make_study, monkeypatch):
    """The fast one of two on the first machine; measured no more on the second, where it would be the slow one."""
    asked = []

    def choose(stage, sequences, device, *, begun_with, say):
        asked.append((stage.numerics.attention, sequences, begun_with))
        return begun_with or "sdpa"

    monkeypatch.setattr(loop, "choose_attention", choose)
    facts = make_study("numerics.attention=auto", "numerics.micro_batch_sequences=2")
    trunk = next(iter(facts.plan.nodes))
    steps = []
    hooks = Hooks(on_progress=steps.append, should_stop=lambda: len(steps) >= 3)
    with pytest.raises(StoppedError):
        train_stage(facts.layout, trunk, hooks)
    [path] = facts.layout.stage(trunk).list_checkpoints()
    assert ckpt.read_manifest(path)["numerics"]["attention"] == "sdpa"
    train_stage(facts.layout, trunk)
    assert asked == [("auto", 2, None), ("auto", 2, "sdpa")]
