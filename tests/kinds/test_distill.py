"""A student that learns from a teacher: what it is equal to, what it shares, and that stopping it changes nothing."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_processes import start, train
from warm_commands import run_command

from workbench.forecast.study_facts import make_facts, pending_evaluations, prepare_data
from workbench.kinds.distill.run import distillation_loss, trial_step
from workbench.kinds.distill.spec import Settings, TeacherSettings
from workbench.launch.snapshot import CodeVersion, freeze_stage
from workbench.model.batch import Batch
from workbench.model.init import init_weights
from workbench.model.transformer import Transformer
from workbench.study.flops import count_parameters, forward_flops_per_token, training_flops_per_token
from workbench.study.identity import stage_id
from workbench.study.kind_plan import flops_per_token
from workbench.study.resources import stage_memory
from workbench.tracking import spool
from workbench.tracking.intended import read_study
from workbench.train import checkpoint as ckpt
from workbench.train.checkpoint import checkpoints_by_tokens, read_manifest
from workbench.train.throughput import measure_tokens_per_second
from workbench.train.whole_stage import train_stage

TEACHER = ["model@then.distill.teacher.model=m0_06", "then.distill.teacher.model.num_layers=1"]
DISTILL = ["tokens=2560", "then=distill", *TEACHER, "then.distill.teacher.tokens=5120"]
TEXT = ["tokens=2560"]


@pytest.fixture
def fresh(make_study, outputs):
    """A study under outputs of its own, with its teacher trained: call it and get its facts."""

    def make(name, *more):
        root = outputs.parent / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        facts = make_study(f"paths.outputs={root}", *DISTILL, *more)
        for node in facts.plan.nodes.values():
            if node.stage.kind != "distill":
                train_stage(facts.layout, node.id)
        return facts

    return make


def distilled(facts):
    return [node for node in facts.plan.nodes.values() if node.stage.kind == "distill"]


def finish(facts, size=1):
    for node in distilled(facts):
        ended = start(size, train, root=facts.layout.root, stage=node.id)
        assert [(each.exit_code, each.text) for each in ended] == [(0, "")] * size
    return facts


def rows(facts):
    """Rows of the distilled stages, wall-clock columns aside."""
    read = [row for node in distilled(facts) for row in spool.read_rows(facts.layout.stage(node.id).path)]
    return [{key: value for key, value in row.items() if key not in spool.WALL_CLOCK} for row in read]


def states(facts):
    """Weights and optimizer state of every checkpoint of the distilled stages."""
    return {
        (node.id, tokens, name): load_file(path / name)
        for node in distilled(facts)
        for tokens, path in checkpoints_by_tokens(facts.layout.stage(node.id)).items()
        for name in ("model.safetensors", "optimizer.safetensors")
        if name in read_manifest(path)["files"]
    }


def assert_same(ours, theirs):
    """Bit for bit."""
    assert ours.keys() == theirs.keys()
    for key, tensors in ours.items():
        assert all(torch.equal(tensor, theirs[key][name]) for name, tensor in tensors.items()), key


# ------------------------------------------------------------------------------------------- what it is equal to


def test_without_a_share_it_is_plain_training_bit_for_bit(fresh, make_study):
    """By the planner it is the same stage; and a distilled stage whose share is set to 0 trains the same weights."""
    assert list(make_study(*TEXT).plan.nodes) == list(make_study(*DISTILL, "then.distill.alpha=0").plan.nodes)
    facts, plain = fresh("distilled"), make_study(*TEXT)
    trunk, zero = next(iter(plain.plan.nodes)), replace(distilled(facts)[0].stage, alpha=0.0)
    freeze_stage(facts.layout.stage(stage_id(zero)), zero, CodeVersion("commit", False, ""))
    ours = facts.layout.stage(stage_id(zero))
    train_stage(facts.layout, ours.id, code={})
    train_stage(plain.layout, trunk)
    theirs = plain.layout.stage(trunk)
    losses = [[row[spool.TRAIN_LOSS] for row in spool.read_rows(each.path)] for each in (ours, theirs)]
    assert losses[0] == losses[1]
    for name in ("model.safetensors", "optimizer.safetensors"):
        both = [load_file(each.list_checkpoints()[-1] / name) for each in (ours, theirs)]
        assert all(torch.equal(both[0][key], both[1][key]) for key in both[1])


@pytest.mark.parametrize("more", [[], ["model.parametrisation=mup", "model.base_width=16"]], ids=["standard", "mup"])
def test_who_is_its_own_teacher_learns_nothing_from_it(fresh, more):
    """Until the weight decay of its steps has taken it away from where it began."""
    same = ["model@then.distill.teacher.model=m0_03", "then.distill.teacher.tokens=2560", *more]
    same += ["optimizer.learning_rate=0.013"]
    same += [f"then.distill.teacher.{setting}" for setting in more]
    own = [*same, "then.distill.student=chain", "then.distill.alpha=1", "then.distill.tokens=1280"]
    facts = fresh("own", *own)
    assert [node.stage.kind for node in facts.plan.nodes.values()] == ["pretrain"] * 2 + ["distill"] * 2
    first = rows(finish(facts))[0]
    assert first[spool.TRAIN_DIVERGENCE] == 0
    assert first[spool.TRAIN_GRADIENT_NORM] == 0
    assert first[spool.TRAIN_LOSS] > 1


def test_it_comes_closer_to_its_teacher(fresh):
    found = rows(finish(fresh("closer", "tokens=10240", "then.distill.alpha=1")))
    assert found[-1][spool.TRAIN_DIVERGENCE] < 0.5 * found[0][spool.TRAIN_DIVERGENCE]
    assert found[-1][spool.TRAIN_LOSS] < found[0][spool.TRAIN_LOSS] - 0.3  # the text's own, though alpha is 1


@pytest.mark.parametrize(
    "more",
    [
        ["precision=bf16"],
        ["data.document_mask=true", "then.distill.temperature=2"],
        ["data.packing=best_fit", "data.document_mask=true"],
    ],
)
def test_stopped_and_killed_it_ends_the_same(fresh, more):
    untouched, stopped = finish(fresh("untouched", *more)), fresh("stopped", *more)
    trunk = distilled(stopped)[0].id
    assert start(1, train, root=stopped.layout.root, stage=trunk, stop_after=3)[0].error == "StoppedError"
    assert start(1, train, root=stopped.layout.root, stage=trunk, kill_after=2)[0].error == "died"
    finish(stopped)
    assert rows(untouched) == rows(stopped)
    assert_same(states(untouched), states(stopped))


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_processes_and_micro_batches_compute_the_same(fresh, parallel):
    alone = rows(finish(fresh("alone")))
    settings = ["numerics.micro_batch_sequences=2", f"numerics.parallel={parallel}"]
    several = rows(finish(fresh("several", *settings), 2))
    for name in (spool.TRAIN_LOSS, spool.TRAIN_DIVERGENCE, spool.source_loss("prose")):
        assert [row.get(name) for row in several] == pytest.approx([row.get(name) for row in alone], abs=1e-5)
    norms = [[row[spool.TRAIN_GRADIENT_NORM] for row in each] for each in (several, alone)]
    assert norms[0] == pytest.approx(norms[1], abs=1e-4)


def test_each_target_counts_by_its_weight(make_study):
    stage = distilled(make_study(*DISTILL, "then.distill.temperature=2"))[0].stage
    student, teacher = Transformer(stage.model), Transformer(stage.teacher)
    for seed, model in enumerate((student, teacher)):
        init_weights(model, seed)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, stage.model.vocab_size, (4, 33), generator=generator)
    batch = Batch(tokens, torch.randint(0, 3, (4, 32), generator=generator).float())
    total, losses, divergences = distillation_loss(student, teacher, stage, batch)
    assert batch.weights is not None
    expected = ((0.5 * 4 * divergences + 0.5 * losses) * batch.weights).sum()
    torch.testing.assert_close(total, expected)
    parts = [distillation_loss(student, teacher, stage, part)[0] for part in batch.split(1)]
    parameters = list(student.parameters())
    whole, summed = (torch.autograd.grad(each, parameters) for each in (total, sum(parts)))
    for a, b in zip(whole, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teacher_is_told_how_many_documents_a_sequence_has(make_study, monkeypatch):
    """Kernels that take documents by their borders are slow, or fail, where each token might be one."""
    stage = distilled(make_study(*DISTILL))[0].stage
    student, teacher = Transformer(stage.model), Transformer(stage.teacher)
    for seed, model in enumerate((student, teacher)):
        init_weights(model, seed)
    told, original = [], Transformer.hidden

    def watched(self, tokens, positions=None, documents=None, documents_at_most=None):
        told.append((self is teacher, documents_at_most))
        return original(self, tokens, positions, documents, documents_at_most)

    monkeypatch.setattr(Transformer, "hidden", watched)
    distillation_loss(student, teacher, stage, Batch.by_document(torch.ones(2, 33, dtype=torch.int64), 0, at_most=4))
    assert sorted(told) == [(False, 4), (True, 4)]


# ------------------------------------------------------------------------------------------------ what is planned


def test_a_teacher_is_trained_once_for_all_that_read_it(make_study):
    alone = make_study("tokens=5120", "model=m0_06")
    facts = make_study(*DISTILL, "then.distill.alpha=0,0.5,1", "tokens=2560,5120", "model=m0_03,m0_06")
    assert set(alone.plan.nodes) < set(facts.plan.nodes)
    kinds = [node.stage.kind for node in facts.plan.nodes.values()]
    assert (kinds.count("pretrain"), kinds.count("distill")) == (2 * 3, 2 * 2 * 3)  # trunk and two cooldowns of each
    [teacher] = {node.stage.inputs["teacher"] for node in distilled(facts)}
    assert teacher.stage == list(alone.plan.nodes)[-1]
    cooldown = facts.plan.nodes[teacher.stage]
    assert cooldown.trajectory == cooldown.stage.parent.stage  # not independent of its trunk


def test_flops_are_the_students_and_a_teachers_forward_pass(fresh):
    facts = fresh("counted")
    [point], [*_, last] = facts.plan.points, distilled(facts)
    assert last.stage.teacher.name == "m0_06"
    per_token = training_flops_per_token(last.stage.model) + forward_flops_per_token(last.stage.teacher)
    assert flops_per_token(last.stage) == per_token
    assert point.flops == per_token * 2560
    finish(facts)
    assert read_manifest(checkpoints_by_tokens(facts.layout.stage(last.id))[2560])["flops"] == point.flops
    assert (point.tokens, point.own_tokens) == (2560, 2560 + 5120)


def test_a_budget_in_flops_is_the_distillations(make_study):
    facts = make_study(*DISTILL)
    again = make_study(*DISTILL, "tokens=null", f"flops={facts.plan.points[0].flops}")
    assert list(facts.plan.nodes) == list(again.plan.nodes)


def test_a_step_does_what_is_counted(make_study):
    stage = distilled(make_study(*DISTILL))[0].stage
    step = trial_step(stage, torch.device("cpu"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == flops_per_token(stage) * stage.batch_tokens
    assert measure_tokens_per_second(stage, 0.01) > 0


def test_memory_holds_the_teacher(make_study):
    stage = distilled(make_study(*DISTILL))[0].stage
    plain = next(iter(make_study(*TEXT).plan.nodes.values())).stage
    more = stage_memory(stage, 1, 8, "cpu").total - stage_memory(plain, 1, 8, "cpu").total
    assert 4 * count_parameters(stage.teacher).total < more < 10e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["then.distill.teacher.model.vocab_size=300"], "they need one tokenizer"),
        (["then.distill.teacher.model.context_tokens=64"], "model.context_tokens=64 and the student 32"),
        (["then.distill.teacher.tokens=null"], "teacher.tokens is not set"),
        (["then.distill.teacher.tokens=400"], "teacher 'm0_06': recipe.warmup_tokens"),
        (["then.distill.teacher.path=/nowhere/at/all"], "neither a directory nor a name"),
        (["then.distill.teacher.revision=main"], "set teacher.path, too"),
        (["then.distill.alpha=1.5"], r"\[0, 1\]"),
        (["then.distill.temperature=0"], "above 0"),
        (["then.distill.student=old"], "not one of fresh, chain"),
        (["+then.again=${then.distill}"], "set student=chain"),
        (["tokens=0"], "at least 1"),
    ],
)
def test_what_is_no_distillation_is_one_line(compose, overrides, experiments, settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        make_facts(compose([*overrides, *DISTILL, *settings], experiments))
    assert "\n" not in str(refused.value)


def test_it_needs_a_teacher(compose, overrides, experiments):
    assert Settings(teacher=TeacherSettings(path="x", tokens=0)).replaces_recipe
    with pytest.raises(ValueError, match="needs a teacher"):
        compose([*overrides, "+then.taught.kind=distill"], experiments)


def test_more_text_than_there_is_is_refused_before_anything_is_trained(make_study):
    facts = make_study(*DISTILL, "tokens=100M", "data.sources.prose.max_epochs=1")
    with pytest.raises(ValueError, match="source 'prose' would give 56000000 tokens, but has "):
        prepare_data(facts, print)


def test_a_teacher_that_is_not_there_yet_is_missed(make_study):
    facts = make_study(*DISTILL)
    with pytest.raises(ValueError, match="has no checkpoint there"):
        train_stage(facts.layout, distilled(facts)[0].id)


# ---------------------------------------------------------------------------------------- teachers from elsewhere


@pytest.fixture
def elsewhere(make_study, tmp_path):
    """A checkpoint of a study with the same tokenizer, as a folder of its own."""
    facts = make_study("tokens=5120", "model=m0_06")
    for node in facts.plan.nodes.values():
        train_stage(facts.layout, node.id)
    [path] = checkpoints_by_tokens(facts.layout.stage(list(facts.plan.nodes)[-1])).values()
    return shutil.copytree(path, tmp_path / "elsewhere")


def test_a_checkpoint_from_outside_may_teach(make_study, run_local, elsewhere):
    """Its chain is one copied checkpoint; what it teaches is what the study's own teacher of the same weights does."""
    facts = make_study(*DISTILL, f"then.distill.teacher.path={elsewhere}")
    assert [node.stage.kind for node in facts.plan.nodes.values()] == ["imported", "distill", "distill"]
    prepare_data(facts, print)
    run_local(facts)
    assert not pending_evaluations(facts)
    inside = make_study(*DISTILL)
    run_local(inside, evaluate=False)
    assert rows(facts) == rows(inside)
    assert facts.plan.points[0].flops == inside.plan.points[0].flops


def test_another_tokenizer_is_refused(make_study, elsewhere):
    file = elsewhere / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    (first, a), (second, b) = list(vocabulary.items())[-2:]
    vocabulary[first], vocabulary[second] = b, a
    file.write_text(json.dumps(values))
    facts = make_study(*DISTILL, f"then.distill.teacher.path={elsewhere}")
    with pytest.raises(ValueError, match="has another tokenizer than the data") as refused:
        prepare_data(facts, print)
    assert "\n" not in str(refused.value)


# --------------------------------------------------------------------------------------------------- from end to end


def test_it_is_launched_scored_and_recorded(overrides, experiments, outputs, make_study, know_speeds):
    """The launcher trains the teacher first, and the record knows what each stage is."""
    settings = know_speeds([*overrides, *DISTILL, "then.distill.student=chain", "then.distill.temperature=2"])
    done = run_command(["run", "--experiments", experiments, *settings])
    assert done.returncode == 0, done.stderr
    assert "m0_03 distilled 0.5 T2 from m0_06" in done.stdout
    facts = make_study(*DISTILL, "then.distill.student=chain", "then.distill.temperature=2")
    assert not pending_evaluations(facts)
    assert not any(facts.missing().values())
    record = read_study(facts.layout, "small")
    last = next(stage for stage in record.stages if stage.id == list(facts.plan.nodes)[-1])
    assert last.tags["kinds"] == "pretrain>distill"
    assert last.checkpoints[-1].params["tokens"] == "5120"
    assert {stage.checkpoints[-1].params["seed_init"] for stage in record.stages} == {"0"}
    assert ckpt.verify(facts.layout.stage(last.id).list_checkpoints()[-1])["kind"] == "distill"
