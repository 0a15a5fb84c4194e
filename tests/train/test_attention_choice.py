"""`numerics.attention=auto`: the fastest of what is here, measured once, recorded, and kept by whoever goes on."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from workbench.config.schema import ModelConfig, NumericsConfig, OptimizerConfig, Schedule, StreamConfig, TrainingStage
from workbench.train import attention_choice, compiler, loop
from workbench.train import checkpoint as ckpt
from workbench.train.attention_choice import choose_attention, compiled_seconds, measured_seconds
from workbench.train.compiler import missing_for_compile
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.whole_stage import train_stage

needs_compiler = pytest.mark.skipif(bool(missing_for_compile("cpu")), reason="torch.compile has no C++ compiler here")
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


COMPILED = replace(STAGE, precision="fp32", numerics=NumericsConfig(attention="auto", compile=True))


@pytest.mark.parametrize("missing", [None, "a C++ compiler"])
def test_where_training_is_compiled_a_compiled_block_is_measured(monkeypatch, missing):
    said = []
    monkeypatch.setattr(compiler, "missing_for_compile", lambda device: missing)
    monkeypatch.setattr(attention_choice, "measured_seconds", lambda backend, *_: {"sdpa": 1.0, "blocks": 2.0}[backend])
    monkeypatch.setattr(attention_choice, "compiled_seconds", lambda backend, *_: {"sdpa": 4.0, "blocks": 3.0}[backend])
    chosen, said_of = ("sdpa", "a block's attention") if missing else ("blocks", "a compiled block")
    assert choose_attention(COMPILED, 2, CPU, say=said.append) == chosen
    times = "sdpa 1000.000 ms, blocks 2000.000 ms" if missing else "sdpa 4000.000 ms, blocks 3000.000 ms"
    assert said == [f"numerics.attention=auto takes {chosen}: {said_of} and its gradients take {times}"]


def test_a_compiled_stage_that_was_begun_with_a_kernel_measures_nothing_anew():
    for backend in ("sdpa", "blocks"):
        assert choose_attention(COMPILED, 2, CPU, measure=unmeasured, begun_with=backend) == backend


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("backend", "masked", "frugal"), [("sdpa", True, False), ("blocks", False, True)])
def test_the_block_that_is_measured_is_compiled_and_of_the_stages_shapes(monkeypatch, backend, masked, frugal):
    seen = []

    def watched(model, unit):
        seen.append((model.backend, model.activation_checkpointing, unit, model.config.width, len(model.blocks)))
        hidden = model.hidden
        model.hidden = lambda tokens, *rest: seen.append((*tokens.shape, rest[1] is not None)) or hidden(tokens, *rest)
        return original(model, unit)

    original = attention_choice.compile_model
    monkeypatch.setattr(attention_choice, "compile_model", watched)
    numerics = replace(COMPILED.numerics, activation_checkpointing=frugal)
    stage = replace(COMPILED, numerics=numerics, stream=replace(STAGE.stream, document_mask=masked))
    counters.clear()
    random = torch.get_rng_state()
    assert compiled_seconds(backend, stage, 2, CPU) > 0
    assert seen[0] == (backend, frugal, "block", 32, 1)
    assert set(seen[1:]) == {(2, 64, masked)}
    assert counters["frames"]["ok"] >= 1
    assert torch.equal(torch.get_rng_state(), random)


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
