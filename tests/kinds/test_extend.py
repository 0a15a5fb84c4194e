"""A longer context: the model as transformers reads it, its training, its ids and its costs."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from workbench.config.schema import MixtureSegment, Parent, TrainingStage
from workbench.evaluate.position_suite.positions import filled_buckets
from workbench.forecast.plan_notes import short_heldout_notes, tokens_beyond
from workbench.forecast.study_facts import make_facts, pending_evaluations, prepare_data
from workbench.kinds.extend.plan import expand
from workbench.model.weights import load_model
from workbench.study.flops import training_flops_per_token
from workbench.study.identity import stage_id
from workbench.study.kind_plan import flops_per_token
from workbench.train.checkpoint import checkpoints_by_tokens, read_manifest
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.whole_stage import train_stage

LONGER = ["recipe=cosine", "recipe.warmup_tokens=512", "recipe.batch_sequences=8", "tokens=2048", "then=extend"]
LONGER += ["then.extend.context_tokens=128"]
TRAINED = [*LONGER, "then.extend.tokens=2048", "then.extend.learning_rate=0.01"]


def stages(facts):
    return [node.stage for node in facts.plan.nodes.values()]


def last_checkpoint(facts, place=-1):
    node = list(facts.plan.nodes.values())[place]
    return checkpoints_by_tokens(facts.layout.stage(node.id))[node.stage.end_tokens]


@pytest.mark.parametrize("method", ["none", "linear", "ntk", "yarn"])
def test_transformers_gives_equal_logits_beyond_the_old_context(make_study, run_local, method):
    facts = make_study(*TRAINED, f"then.extend.method={method}")
    run_local(facts, evaluate=False)
    base, scaled, trained = (last_checkpoint(facts, place) for place in range(3))
    tokens = (torch.arange(128)[None] * 7) % load_model(base).config.vocab_size
    for path in (scaled, trained):
        ours = load_model(path)
        assert ours.config.context_tokens == 128
        assert ours.rope.dtype == torch.float32
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)
    before, after = load_file(base / "model.safetensors"), load_file(scaled / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = load_file(trained / "model.safetensors")
    assert any(not torch.equal(after[name], moved[name]) for name in after)


def test_it_is_scored_counted_and_begins_anew(make_study, run_local):
    facts = make_study(*TRAINED, "then.extend.method=linear", "then.extend.decay=linear")
    run_local(facts)
    assert not pending_evaluations(facts)
    base, scaled, trained = stages(facts)
    assert [stage.kind for stage in (base, scaled, trained)] == ["pretrain", "rescale", "extend"]
    assert trained.stream.context_tokens == trained.model.context_tokens == 128
    assert (trained.batch_sequences, trained.start_tokens, trained.end_tokens) == (2, 2048, 4096)
    assert not trained.resumes
    assert flops_per_token(scaled) == 0
    assert flops_per_token(trained) == training_flops_per_token(scaled.model) > training_flops_per_token(base.model)
    manifests = [read_manifest(last_checkpoint(facts, place)) for place in range(3)]
    first = training_flops_per_token(base.model) * 2048
    assert [m["flops"] for m in manifests] == [first, first, first + flops_per_token(trained) * 2048]
    assert manifests[2]["flops"] == facts.plan.points[0].flops
    assert [m["annealed"] for m in manifests] == [True, True, True]
    assert sum(count["drawn_tokens"] for count in manifests[2]["counts"].values()) == 2048


def test_its_training_resumes_bit_for_bit(make_study, run_local):
    facts = make_study(*TRAINED, "then.extend.method=yarn")
    *before, node = facts.plan.nodes.values()
    for other in before:
        train_stage(facts.layout, other.id)
    seen = []
    hooks = Hooks(on_progress=seen.append, should_stop=lambda: len(seen) == 3)
    with pytest.raises(StoppedError):
        train_stage(facts.layout, node.id, hooks=hooks)
    [stopped] = checkpoints_by_tokens(facts.layout.stage(node.id))
    assert before[-1].stage.end_tokens < stopped < node.stage.end_tokens
    train_stage(facts.layout, node.id)
    first = load_file(last_checkpoint(facts) / "model.safetensors")
    for checkpoint in facts.layout.stage(node.id).list_checkpoints():
        for file in sorted(checkpoint.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        checkpoint.rmdir()
    train_stage(facts.layout, node.id)
    again = load_file(last_checkpoint(facts) / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_without_training_there_is_one_checkpoint_and_methods_share_their_past(compose, overrides, experiments):
    sweep = "then.extend.method=none,linear,ntk,yarn"
    facts = make_facts(compose([*overrides, *LONGER, sweep], experiments))
    base, *scaled = stages(facts)
    assert [stage.kind for stage in scaled] == ["rescale"] * 4
    assert [stage.name for stage in scaled] == ["unscaled x4", "linear x4", "ntk x4", "yarn x4"]
    assert [stage.model.rope_scaling.original_context_tokens for stage in scaled] == [None, None, None, 32]
    assert {stage.model.rope_scaling.factor for stage in scaled[1:]} == {4.0}
    assert {stage.targets[0] for stage in scaled} == {base.end_tokens}
    trained = make_facts(compose([*overrides, *TRAINED, sweep], experiments))
    assert set(facts.plan.nodes) < set(trained.plan.nodes)
    assert len(trained.plan.nodes) == 9
    other = make_facts(compose([*overrides, *TRAINED, "then.extend.learning_rate=0.02"], experiments))
    [changed] = [stage for stage in stages(other) if stage.kind == "extend"]
    assert isinstance(changed, TrainingStage)
    assert list(other.plan.nodes)[-1] not in trained.plan.nodes


def test_text_that_is_too_short_is_refused_before_anything_is_trained(compose, overrides, experiments):
    for longer in (["tokens=500000"], ["tokens=2048", "then.extend.tokens=500000"]):
        once = [f"data.sources.{name}.max_epochs=1" for name in ("prose", "code")]
        facts = make_facts(compose([*overrides, *TRAINED, *once, *longer], experiments))
        with pytest.raises(ValueError, match=r"distinct ones and max_epochs=1.*at most"):
            prepare_data(facts, print)


LONG = ["evaluation=positions", "model.context_tokens=256", "then.extend.context_tokens=1024"]


def test_held_out_documents_that_do_not_reach_beyond_the_old_context_are_named(compose, overrides, experiments):
    """By the documents that are there; without any, by 4 bytes a token. A score beyond 256 tokens takes 512."""

    plain = [override for override in overrides if not override.startswith("evaluation")]

    def notes(*more):
        return short_heldout_notes(make_facts(compose([*plain, *TRAINED, *LONG, *more], experiments)))

    found = notes()
    assert [line.partition(":")[0] for line in found] == ["source 'prose'", "source 'code'"]
    assert all("old context of 256 tokens takes 512: raise data.heldout_document_bytes (some 4096 " in n for n in found)
    assert notes("model.context_tokens=32", "then.extend.context_tokens=128") == []
    assert notes("evaluation=heldout") == []
    nothing = "paths.outputs=/nonexistent"
    [line] = notes(nothing, "then.extend.method=linear,ntk")
    assert line.startswith("held-out documents end at data.heldout_document_bytes=1,500, some 375 tokens")
    assert notes(nothing, "data.heldout_document_bytes=2047") != []
    assert notes(nothing, "data.heldout_document_bytes=2048") == []


def test_the_tokens_that_a_score_beyond_a_context_takes_are_those_of_the_buckets():
    for context in (1, 15, 16, 17, 100, 2047, 2048, 2049):
        needed = tokens_beyond(context)
        assert list(filled_buckets(needed))[-1].stop == needed > context
        assert all(bucket.stop <= context for bucket in filled_buckets(needed - 1))


def test_its_text_is_that_of_the_last_training_on_text(compose, overrides, experiments):
    [(_, config)] = compose([*overrides, *TRAINED], experiments)
    [base, _, _] = stages(make_facts([("one", config)]))
    mixture = [MixtureSegment(0, {"prose": 7, "code": 3}), MixtureSegment(16, {"prose": 1, "code": 1}, 8)]
    mixed = replace(base, stream=replace(base.stream, mixture=mixture))
    parent = Parent(stage_id(mixed), mixed.end_tokens)
    chat = replace(mixed, stream=replace(base.stream, sources={}, mixture=[]), parent=parent)
    [_, trained] = expand(config.then["extend"], config, [mixed, chat], base.data_fingerprint)
    assert trained.stream.mixture == [MixtureSegment(0, {"prose": 1, "code": 1})]
    assert trained.stream.sources == base.stream.sources


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["then.extend.context_tokens=32"], "is not longer than the 32 tokens of m0_03"),
        (["model.position=learned"], "only a model with RoPE"),
        (["then.extend.method=magic"], "not one of none, linear, ntk, yarn"),
        (["then.extend.tokens=100"], "is 0 steps of 256 tokens"),
        (["then.extend.tokens=512", "then.extend.warmup_tokens=512"], "is not below tokens=512"),
        (["model.rope_scaling.kind=linear", "model.rope_scaling.factor=2"], "only method=none can follow"),
        (["then.extend.batch_sequences=0"], "at least 1"),
    ],
)
def test_what_cannot_be_extended_is_one_line(compose, overrides, experiments, settings, message):
    with pytest.raises(ValueError, match=message):
        make_facts(compose([*overrides, *LONGER, *settings], experiments))
