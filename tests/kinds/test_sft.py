"""Fine-tuning as a stage: what it begins from, what it leaves, and that stopping changes no bit."""

import gzip
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from training_processes import start, train
from transformers import AutoModelForCausalLM

from workbench.config.kind_registry import find_kind
from workbench.data.chat_store import find_named
from workbench.data.python_questions import write_questions
from workbench.evaluate.reconcile import EvaluationError, Evaluator
from workbench.forecast.plan_notes import plan_json
from workbench.forecast.study_facts import make_facts, pending_evaluations
from workbench.kinds.sft.adapter_sizes import adapter_parameters
from workbench.kinds.sft.plan import checkpoint_bytes, flops_per_token
from workbench.kinds.sft.run import SftRun, trial_step
from workbench.launch.before_start import check_before_start
from workbench.launch.snapshot import freeze_study
from workbench.model.lora import adapter_tensors
from workbench.model.pretrained import weight_files
from workbench.study.chain import build_chain
from workbench.study.kind_plan import unprepared_bytes
from workbench.study.layout import Layout
from workbench.study.resources import stage_memory
from workbench.tracking import spool
from workbench.tracking.intended import read_study
from workbench.train.checkpoint import DamagedCheckpointError, checkpoints_by_tokens, read_manifest
from workbench.train.distributed import World
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.job import StageJob
from workbench.train.whole_stage import train_stage

UNGATED = "[q_proj,k_proj,v_proj,o_proj,up_proj,down_proj]"


def test_conversations_to_prepare_are_counted_until_they_are(tune, conversations):
    facts = tune("sft")
    node = tuned(facts)
    assert unprepared_bytes(node.stage, facts.layout) == {}
    elsewhere = Layout(facts.layout.root / "elsewhere")
    assert list(unprepared_bytes(node.stage, elsewhere).values()) == [conversations.stat().st_size]
    packed = conversations.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(conversations.read_bytes()))
    there = replace(node.stage, chat=replace(node.stage.chat, files=[str(packed)]))
    assert list(unprepared_bytes(there, elsewhere).values()) == [4 * packed.stat().st_size]
    ours = replace(node.stage, chat=replace(node.stage.chat, kind="python_questions", files=[]))
    written = facts.layout.root / "questions.jsonl"
    write_questions(written)
    [size] = unprepared_bytes(ours, elsewhere).values()
    assert size == pytest.approx(written.stat().st_size, rel=0.2)


def tuned(facts):
    return [node for node in facts.plan.nodes.values() if node.stage.kind == "sft"][-1]


def ends(facts, node):
    return checkpoints_by_tokens(facts.layout.stage(node.id))[node.stage.end_tokens]


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
def test_it_learns_the_answers_and_is_scored_beside_its_base(tune, run_local, then):
    facts = tune(then, "then.chat.tokens=32768", "then.chat.learning_rate=0.01")
    run_local(facts)
    assert not pending_evaluations(facts)
    node = tuned(facts)
    base = facts.plan.nodes[node.stage.parent.stage]
    scores = []
    for one in (base, node):
        [file] = [p for p in (ends(facts, one) / "evals").glob("chat-*.json") if "documents" not in p.name]
        scores.append(json.loads(file.read_text())["results"]["chat_response"]["bits_per_byte,none"])
    assert scores[1] < scores[0] - 0.3
    record = read_study(facts.layout, facts.plan.study)
    last = record.stages[-1]
    assert (last.tags["kinds"], last.tags["stage_kind"]) == ("pretrain>sft", "sft")
    assert last.tags["model"] == ("m0_03 chat" if then == "sft" else "m0_03 chat r16")
    manifest = read_manifest(ends(facts, node))
    assert manifest["flops"] == pytest.approx(facts.plan.points[0].flops, rel=1e-12)
    assert manifest["counts"]["python_questions"]["drawn_assistant_tokens"] > 0


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
@pytest.mark.parametrize("after", [1, 7, 15])
def test_stopped_anywhere_it_ends_the_same(tune, then, after, tmp_path):
    facts = tune(then)
    *before, node = facts.plan.nodes.values()
    for one in before:
        train_stage(facts.layout, one.id)
    seen = []

    def stop():
        seen.append(None)
        return len(seen) == after

    with pytest.raises(StoppedError):
        train_stage(facts.layout, node.id, Hooks(should_stop=stop))
    train_stage(facts.layout, node.id)
    interrupted = {name: file.read_bytes() for name, file in files_of(ends(facts, node))}
    rows = facts.layout.stage(node.id).metrics.read_text().splitlines()
    facts.layout.stage(node.id).checkpoints.rename(tmp_path / "aside")
    facts.layout.stage(node.id).metrics.unlink()
    train_stage(facts.layout, node.id)
    assert {name: file.read_bytes() for name, file in files_of(ends(facts, node))} == interrupted
    again = facts.layout.stage(node.id).metrics.read_text().splitlines()
    losses = [[json.loads(line)["train/loss"] for line in lines] for lines in (rows, again)]
    assert losses[0] == losses[1]
    assert len(again) == 16


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
def test_checkpoints_written_beside_the_training_are_the_same(tune, outputs, tmp_path, then):
    found = []
    for way in ("inline", "background"):
        root = tmp_path / way
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        settings = (f"checkpoint.writes={way}", "checkpoint.interval_seconds=1e-9", "checkpoint.keep_last=9")
        facts, seen = tune(then, f"paths.outputs={root}", *settings), []
        *before, node = facts.plan.nodes.values()
        for one in before:
            train_stage(facts.layout, one.id)
        with pytest.raises(StoppedError):
            train_stage(facts.layout, node.id, Hooks(should_stop=lambda: seen.append(1) or len(seen) >= 6))  # noqa: B023
        checkpoints = facts.layout.stage(node.id).list_checkpoints()
        found.append({path.name: {name: file.read_bytes() for name, file in files_of(path)} for path in checkpoints})
    inline, beside = found
    assert len(inline) == 6
    assert len(beside) >= 2  # what became due while one was written waits
    assert {name: inline[name] for name in beside} == beside


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
def test_killed_it_ends_the_same(tune, outputs, tmp_path, then):
    """SIGKILL twice: with no checkpoint of its own yet, and with one; rows and weights are those of a run without."""
    found = []
    for name in ("untouched", "killed"):
        root = tmp_path / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        facts = tune(then, f"paths.outputs={root}")
        *before, node = facts.plan.nodes.values()
        for one in before:
            train_stage(facts.layout, one.id)
        if name == "killed":
            for more in ({"kill_after": 3}, {"stop_after": 4}, {"kill_after": 5}):
                [ended] = start(1, train, root=root, stage=node.id, **more)
                assert ended.error == ("StoppedError" if "stop_after" in more else "died")
        train_stage(facts.layout, node.id)
        files = {name: file.read_bytes() for name, file in files_of(ends(facts, node))}
        kept = spool.read_rows(facts.layout.stage(node.id).path)
        found.append((files, [{k: v for k, v in row.items() if k not in spool.WALL_CLOCK} for row in kept]))
    assert len(found[0][1]) == 16
    assert found[0] == found[1]


def files_of(checkpoint):
    return [(str(p.relative_to(checkpoint)), p) for p in sorted(checkpoint.rglob("*.safetensors"))]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_merged_checkpoint_is_the_base_with_its_adapters(tune, run_local, peft):
    facts = tune("sft_lora", "then.chat.lora.rank=4", "then.chat.lora.targets=[q_proj,v_proj,down_proj]")
    run_local(facts, evaluate=False)
    node = tuned(facts)
    base = checkpoints_by_tokens(facts.layout.stage(node.stage.parent.stage))[node.stage.start_tokens]
    tokens = torch.arange(5, 40)[None]
    merged = AutoModelForCausalLM.from_pretrained(ends(facts, node))(tokens).logits
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert (plain(tokens).logits - merged).abs().max() > 1e-3
    adapted = peft.PeftModel.from_pretrained(plain, ends(facts, node) / "adapter")
    torch.testing.assert_close(adapted(tokens).logits, merged, atol=1e-5, rtol=0)
    named = json.loads((ends(facts, node) / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(base)
    alone = peft.AutoPeftModelForCausalLM.from_pretrained(ends(facts, node) / "adapter")
    torch.testing.assert_close(alone(tokens).logits, merged, atol=1e-5, rtol=0)
    assert weight_files(ends(facts, node))
    frozen = load_file(base / "model.safetensors"), load_file(ends(facts, node) / "model.safetensors")
    same = {name for name in frozen[0] if torch.equal(frozen[0][name], frozen[1][name])}
    assert {name for name in frozen[0] if name not in same} == {
        name for name in frozen[0] if any(part in name for part in ("q_proj", "v_proj", "down_proj"))
    }


@pytest.mark.parametrize("then", ["sft", "sft_lora"])
def test_what_ranks_draw_is_the_batch_of_one(tune, run_local, then):
    """Losses of uneven masks over ranks are tests/train/test_distributed.py's; here: each draws its own sequences."""
    facts = tune(then)
    run_local(facts, evaluate=False)
    node = tuned(facts)
    directory = facts.layout.stage(node.id)

    def attempt(world):
        job = StageJob(facts.layout, directory, node.stage, node.targets, Hooks(), world, {})
        return SftRun(job)

    whole, _ = attempt(World()).draw(range(16))
    uneven = []
    for size in (2, 4):
        parts = [attempt(World()).draw(range(r * 16 // size, (r + 1) * 16 // size))[0] for r in range(size)]
        for one, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            assert all(piece is None for piece in pieces) if one is None else torch.equal(one, torch.cat(pieces))
        uneven.append(len({float(part.targets) for part in parts}) > 1)
    assert any(uneven)


def test_flops_are_those_that_pytorch_counts(tune):
    for then, layers in (("sft", 1), ("sft_lora", 1), ("sft_lora", 3)):
        facts = tune(then, "numerics.micro_batch_sequences=4", f"model.num_layers={layers}")
        stage = tuned(facts).stage
        step = trial_step(stage, torch.device("cpu"))
        with FlopCounterMode(display=False) as counter:
            step()
        # It does not know the CPU's attention.
        attention = 12 * stage.model.num_layers * stage.stream.context_tokens * stage.model.width
        assert counter.get_total_flops() / stage.batch_tokens == flops_per_token(stage) - attention


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_adapters_are_counted(tune, mlp):
    targets = [] if mlp == "swiglu" else [f"then.chat.lora.targets={UNGATED}"]
    stage = tuned(tune("sft_lora", "then.chat.lora.rank=4", f"model.mlp={mlp}", *targets)).stage
    step = trial_step(stage, torch.device("cpu"))
    [model] = [argument for argument in step.args if hasattr(argument, "embedding")]
    count = sum(tensor.numel() for tensor in adapter_tensors(model).values())
    assert count == adapter_parameters(stage.model, stage.lora.targets, 4)


def test_adapters_that_cannot_be_trained_are_refused_when_planned(tune):
    with pytest.raises(
        ValueError, match=r"then.chat.lora.targets=.*model.mlp='gelu' has no gate_proj: set it to some of \[q_proj, k_"
    ) as raised:
        tune("sft_lora", "model.mlp=gelu")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"then.chat.lora: .* numerics.parallel='shard': use replicate, or set"):
        tune("sft_lora", "numerics.parallel=shard", "resources.processes=2")
    tune("sft_lora", "numerics.parallel=shard", "resources.processes=1")
    tune("sft", "numerics.parallel=shard", "resources.processes=2")


def test_attention_without_masks_is_that_of_other_stages(tune):
    """Conversations are always masked; the trunk is computed as asked for."""
    facts = tune("sft", "numerics.attention=flash_attn", "precision=bf16")
    *before, node = facts.plan.nodes.values()
    assert {one.stage.numerics.attention for one in before} == {"flash_attn"}
    assert node.stage.numerics.attention == "sdpa"
    assert node.id == tuned(tune("sft", "precision=bf16")).id
    with pytest.raises(ValueError, match=r"numerics.attention='flash_attn' .*flash-attn|CUDA"):
        check_before_start(facts)
    for attention in ("flash_attn", "flash_attn_3", "cudnn"):
        wide = tune("sft", f"numerics.attention={attention}", "precision=fp32")
        with pytest.raises(ValueError, match=f"numerics.attention='{attention}' computes in bf16 alone"):
            check_before_start(wide)


def test_attention_by_blocks_is_for_fp32(tune):
    facts = tune("sft", "numerics.attention=blocks", "precision=fp32")
    check_before_start(facts)
    *before, node = facts.plan.nodes.values()
    assert {one.stage.numerics.attention for one in before} == {"blocks"}
    assert node.stage.numerics.attention == "sdpa"
    with pytest.raises(ValueError, match=r"numerics\.attention='blocks' computes in fp32 alone: set precision=fp32"):
        check_before_start(tune("sft", "numerics.attention=blocks", "precision=bf16"))


def test_products_by_openblas_are_for_fp32_and_auto_is_for_either(tune):
    with pytest.raises(ValueError, match=r"numerics\.products='openblas' computes in fp32 alone: set precision=fp32"):
        check_before_start(tune("sft", "numerics.products=openblas", "precision=bf16"))
    for precision in ("fp32", "bf16"):
        check_before_start(tune("sft", "numerics.products=auto", f"precision={precision}"))


def test_milestones_share_one_trunk_and_are_scored_as_bases(tune):
    facts = tune("sft", "recipe=constant", "recipe.warmup_tokens=512", "recipe.batch_sequences=4")
    many = tune(
        "sft",
        "recipe=constant",
        "recipe.warmup_tokens=512",
        "recipe.batch_sequences=4",
        "then.chat.at_tokens=2560,5120",
    )
    [trunk] = [node for node in many.plan.nodes.values() if node.stage.kind == "pretrain"]
    assert trunk.id in facts.plan.nodes
    starts = [node.stage.start_tokens for node in many.plan.nodes.values() if node.stage.kind == "sft"]
    assert starts == [2560, 5120]
    assert set(starts) <= set(trunk.stage.milestones)
    assert trunk.stage.end_tokens == 5120  # no more is trained than the points need
    assert len({point.chain[0][0] for point in many.plan.points}) == 1


def test_the_plan_tells_what_it_costs(tune):
    from workbench.forecast.estimate import estimate

    facts = tune("sft_lora")
    values = plan_json(facts, estimate(facts, 1, measure=False))
    [stage] = [stage for stage in values["stages"] if stage["kind"] == "sft"]
    assert stage["tokens_to_train"] == 8192
    assert stage["flops_to_train"] == 8192 * flops_per_token(tuned(facts).stage)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["then.chat.chat.files=[/nowhere.jsonl]"], "nowhere"),
        (["then.chat.context_tokens=4096"], "longer than model.context_tokens"),
        (["then.chat.tokens=100", "then.chat.warmup_tokens=0"], "raise tokens"),
        (["then.chat.at_tokens=10M"], "beyond the recipe's end"),
        (["then.chat.learning_rate=0"], "above 0"),
        (["then.chat.chat.template=mine"], "not one of llama2"),
        (["then.chat.chat.max_epochs=0.01"], "allow repetition"),
    ],
)
def test_what_cannot_be_is_one_line(tune, settings, message):
    with pytest.raises(ValueError, match=message):
        tune("sft", *settings)


def test_files_that_changed_are_another_stage_and_refused_for_the_old(
    tune, compose, overrides, experiments, tmp_path, conversations
):
    mine = tmp_path / "mine.jsonl"
    mine.write_bytes(conversations.read_bytes())
    first = tuned(tune("sft", f"then.chat.chat.files=[{mine}]"))
    assert tuned(tune("sft")).id == first.id  # the same content elsewhere
    mine.write_bytes(b"\n".join(conversations.read_bytes().splitlines()[1:]) + b"\n")
    assert tuned(tune("sft", f"then.chat.chat.files=[{mine}]")).id != first.id


def test_a_suite_of_conversations_needs_them(compose, overrides, experiments, run_local):
    given = [override for override in overrides if "suites.embedded" not in override]
    facts = freeze_study(make_facts(compose([*given, "evaluation=chat"], experiments)))
    run_local(facts, evaluate=False)
    [(checkpoint, _), *_] = pending_evaluations(facts)
    with pytest.raises(EvaluationError, match="only studies with a stage `sft`"):
        Evaluator(facts.layout, facts.plan.evaluation).evaluate(checkpoint, "chat")


def test_a_stage_that_was_never_prepared_says_so(tune):
    facts = tune("sft")
    stage = tuned(facts).stage
    assert find_named(stage.conversations, stage.data_fingerprint, facts.layout) is not None
    job = StageJob(
        facts.layout,
        facts.layout.stage(tuned(facts).id),
        replace(stage, conversations="0" * 16),
        [1],
        Hooks(),
        World(),
        {},
    )
    with pytest.raises(ValueError, match="are not prepared"):
        SftRun(job)


def test_a_place_in_the_recipe_is_refused_after_another_kind(tune):
    facts = tune("sft", "recipe=constant", "recipe.warmup_tokens=512", "recipe.batch_sequences=4")
    config = facts.config
    average = find_kind("average").spec.Settings(checkpoints=3)
    chat = replace(config.then["chat"], at_tokens=2560)
    with pytest.raises(ValueError, match="'average' comes after it"):
        build_chain(replace(config, then={"average": average, "chat": chat}), "f" * 16)


def test_a_base_that_was_damaged_since_is_not_resumed_onto(tune):
    facts = tune("sft_lora")
    *before, node = facts.plan.nodes.values()
    for one in before:
        train_stage(facts.layout, one.id)
    seen = []
    with pytest.raises(StoppedError):
        train_stage(facts.layout, node.id, Hooks(should_stop=lambda: seen.append(None) or len(seen) == 3))
    base = checkpoints_by_tokens(facts.layout.stage(node.stage.parent.stage))[node.stage.start_tokens]
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors"):
        train_stage(facts.layout, node.id)


def test_adapters_are_planned_as_what_they_are(tune):
    full, adapted = (tuned(tune(then)).stage for then in ("sft", "sft_lora"))
    for stage in (full, adapted):
        assert checkpoint_bytes(stage, whole=True) > checkpoint_bytes(stage, whole=False)
    assert checkpoint_bytes(adapted, whole=True) < checkpoint_bytes(full, whole=True)
    memory = [stage_memory(stage, 1, None, "cpu").total for stage in (full, adapted)]
    assert memory[1] < memory[0]
