"""Adapters beside a base in 4 bits, with a stand-in for `bitsandbytes` that has its interface and NF4's arithmetic."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tests.model.test_transformer import make_model
from workbench.config.schema import LoraConfig
from workbench.forecast.plan_notes import missing_here_note
from workbench.kinds.sft.adapter_sizes import adapted_matrices, four_bit_bytes
from workbench.kinds.sft.run import SftRun, trial_step
from workbench.launch.before_start import check_before_start
from workbench.model.four_bit import FourBitMatrix, check_four_bit
from workbench.model.lora import AdaptedLinear, add_adapters, merged_state, quantise_frozen
from workbench.model.transformer import Transformer
from workbench.study.flops import count_parameters
from workbench.study.identity import identity
from workbench.study.resources import stage_memory
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.distributed import World
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.job import StageJob
from workbench.train.whole_stage import train_stage

NF4 = "then.chat.lora.quantize=nf4"
CODE = torch.tensor(  # Dettmers et al., appendix E
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)


def quantize_4bit(A, *, blocksize, quant_type, compress_statistics):
    assert (quant_type, compress_statistics) == ("nf4", False)
    values = torch.nn.functional.pad(A.flatten(), (0, -A.numel() % blocksize)).reshape(-1, blocksize)
    absmax = values.abs().amax(1)
    scaled = values / absmax.clamp_min(1e-30)[:, None]
    codes = (scaled[..., None] - CODE).abs().argmin(-1).flatten().to(torch.uint8)
    packed = (codes[::2] << 4 | codes[1::2])[:, None]
    return packed, SimpleNamespace(absmax=absmax, shape=A.shape, blocksize=blocksize)


def dequantize_4bit(A, quant_state):
    codes = torch.cat([A >> 4, A & 15], 1).flatten().long()
    values = CODE[codes].reshape(-1, quant_state.blocksize) * quant_state.absmax[:, None]
    return values.flatten()[: quant_state.shape.numel()].reshape(quant_state.shape)


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType("bitsandbytes")
    module.functional = SimpleNamespace(quantize_4bit=quantize_4bit, dequantize_4bit=dequantize_4bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    return module


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)


def tuned(facts):
    return [node for node in facts.plan.nodes.values() if node.stage.kind == "sft"][-1]


def ends(facts, node):
    return checkpoints_by_tokens(facts.layout.stage(node.id))[node.stage.end_tokens]


def job_of(facts):
    node = tuned(facts)
    return StageJob(facts.layout, facts.layout.stage(node.id), node.stage, node.targets, Hooks(), World(), {})


REFUSED = r"lora.quantize='nf4' needs the package bitsandbytes, which is not installed .*lm-scaling-workbench\[qlora\]"


def test_without_the_package_it_is_refused_before_anything_trains(tune, missing):
    facts = tune("sft_lora", NF4)
    for begin in (lambda: check_before_start(facts), lambda: SftRun(job_of(facts))):
        with pytest.raises(ValueError, match=REFUSED) as raised:
            begin()
        assert "\n" not in str(raised.value)
    [note] = missing_here_note(facts)
    assert note.startswith("`workbench run` will refuse this: lora.quantize='nf4' needs the package")
    check_before_start(facts, here=False)  # jobs elsewhere may have it
    check_before_start(tune("sft_lora"))


def test_a_package_that_does_not_work_here_is_refused(stand_in):
    check_four_bit(torch.device("cpu"))

    def fails(*_, **__):
        raise NotImplementedError("no\nkernel")

    stand_in.functional.quantize_4bit = fails
    with pytest.raises(ValueError, match="which does not work on cpu: no kernel"):
        check_four_bit(torch.device("cpu"))
    stand_in.functional.quantize_4bit = quantize_4bit
    stand_in.functional.dequantize_4bit = lambda packed, state: torch.zeros(state.shape)
    with pytest.raises(ValueError, match="does not give back on cpu what it stored"):
        check_four_bit(torch.device("cpu"))


def test_the_choice_is_in_the_id_where_it_is_made(tune, stand_in):
    plain, four = (tuned(tune("sft_lora", *more)).stage for more in ([], [NF4]))
    assert set(identity(plain)["lora"]) == {"rank", "alpha", "targets", "rslora"}
    assert identity(four)["lora"] == {**identity(plain)["lora"], "quantize": "nf4"}
    assert (plain.name, four.name) == ("chat r16", "chat r16 nf4")
    compiled = [tuned(tune("sft_lora", "numerics.compile=true", *more)).stage.numerics.compile for more in ([], [NF4])]
    assert compiled == [True, False]
    with pytest.raises(ValueError, match=r"lora.quantize='int8' is not one of none, nf4"):
        LoraConfig(quantize="int8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_and_its_gradient_are_those_of_the_matrix_that_is_stored(stand_in, dtype):
    matrix = torch.randn(96, 40, generator=torch.Generator().manual_seed(0))
    four = FourBitMatrix(matrix)
    assert 0.01 < (four.values() - matrix).std() / matrix.std() < 0.15
    assert sum(part.nbytes for part in (four._packed, four._state.absmax)) == four_bit_bytes(matrix.numel())
    x = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
    back = torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(2))
    results = []
    for multiply in (four.multiply, lambda x: torch.nn.functional.linear(x, four.values())):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            y = multiply(x)
        results.append((y, *torch.autograd.grad(y, x, back.to(y.dtype))))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("changes", [{}, {"mlp": "gelu", "attention_bias": "all", "mlp_bias": True}], ids=str)
def test_merged_it_computes_the_same(stand_in, changes):
    model = make_model(**changes)
    targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    add_adapters(model, LoraConfig(4, 8.0, targets, quantize="nf4"), 0)
    frozen = {name for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
    quantise_frozen(model, torch.device("cpu"))
    stored = [module.four_bit.values().numel() for module in model.modules() if isinstance(module, AdaptedLinear)]
    assert stored == adapted_matrices(model.config, targets) * model.config.num_layers
    assert not any(f"{name}.weight" in model.state_dict() for name in frozen)
    for name, parameter in model.named_parameters():
        if name.endswith(".B"):
            torch.nn.init.normal_(parameter, 0, 0.2, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(5, 29)[None]
    plain = Transformer(model.config)
    plain.load_state_dict(merged_state(model))
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(tokens), model.eval()(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [[], ["numerics.micro_batch_sequences=1"], ["precision=bf16", "numerics.activation_checkpointing=true"]],
    ids=str,
)
def test_stopped_it_ends_the_same(tune, stand_in, tmp_path, more):
    facts = tune("sft_lora", NF4, *more)
    *before, node = facts.plan.nodes.values()
    for one in before:
        train_stage(facts.layout, one.id)
    seen = []
    with pytest.raises(StoppedError):
        train_stage(facts.layout, node.id, Hooks(should_stop=lambda: seen.append(None) or len(seen) == 7))
    train_stage(facts.layout, node.id)
    interrupted = files_of(ends(facts, node))
    facts.layout.stage(node.id).checkpoints.rename(tmp_path / "aside")
    facts.layout.stage(node.id).metrics.unlink()
    train_stage(facts.layout, node.id)
    assert files_of(ends(facts, node)) == interrupted


def files_of(checkpoint):
    return {str(p.relative_to(checkpoint)): p.read_bytes() for p in sorted(checkpoint.rglob("*.safetensors"))}


def test_a_checkpoint_is_the_dequantised_base_with_its_adapters(tune, run_local, stand_in):
    targets = ["q_proj", "k_proj", "v_proj", "down_proj"]
    facts = tune("sft_lora", NF4, f"then.chat.lora.targets=[{','.join(targets)}]", "then.chat.lora.rank=4")
    run_local(facts)
    node = tuned(facts)
    base = checkpoints_by_tokens(facts.layout.stage(node.stage.parent.stage))[node.stage.start_tokens]
    before, after = (load_file(path / "model.safetensors") for path in (base, ends(facts, node)))
    adapters = load_file(ends(facts, node) / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    fused = torch.cat([before[f"model.layers.0.self_attn.{part}.weight"] for part in ("q_proj", "k_proj", "v_proj")])
    stored = {"self_attn.q_proj": FourBitMatrix(fused).values()[: node.stage.model.width]}
    stored["mlp.down_proj"] = FourBitMatrix(before["model.layers.0.mlp.down_proj.weight"]).values()
    for name, matrix in stored.items():
        a, b = (adapters[f"base_model.model.model.layers.0.{name}.lora_{side}.weight"] for side in "AB")
        assert b.abs().max() > 0
        expected = matrix + b @ a * node.stage.lora.scale
        torch.testing.assert_close(after[f"model.layers.0.{name}.weight"], expected, rtol=0, atol=1e-6)
    for name in before:
        assert torch.equal(before[name], after[name]) == (not any(f"{target}." in name for target in targets)), name


def test_four_bits_are_counted(tune, stand_in):
    plain = tuned(tune("sft_lora")).stage
    four = replace(plain, lora=replace(plain.lora, quantize="nf4"))
    sizes = adapted_matrices(plain.model, plain.lora.targets)
    weights = sum(sizes) * plain.model.num_layers
    norms = plain.model.width * (2 * plain.model.num_layers + 1)
    assert weights == count_parameters(plain.model).non_embedding - norms
    saved = stage_memory(plain, 1, 1, "cpu").total - stage_memory(four, 1, 1, "cpu").total
    assert saved == 4 * weights - four_bit_bytes(weights) - 8 * max(sizes)
    large = replace(four, model=replace(four.model, num_layers=24))
    assert stage_memory(large, 1, 1, "cpu").total < stage_memory(replace(large, lora=plain.lora), 1, 1, "cpu").total


def test_its_speed_can_be_tried(tune, stand_in):
    step = trial_step(tuned(tune("sft_lora", NF4)).stage, torch.device("cpu"))
    assert step().loss > 0
