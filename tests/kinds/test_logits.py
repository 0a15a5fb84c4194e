"""A teacher's logits that are kept: computed once for all students, and the same wherever that was interrupted."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from taught_students import DISTILL, KEPT, files, finish, last_weights, of_kind, rows
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_processes import start, train

from workbench.config.schema import KindSettings, MixtureSegment
from workbench.forecast.estimate import estimate, kept_bytes
from workbench.forecast.study_facts import make_facts, pending_evaluations
from workbench.kinds.distill.run import trial_step as student_step
from workbench.kinds.logits.kept_logits import IDS, LOG_Q, KeptLogits, bytes_per_token, find_pieces, ids_dtype
from workbench.kinds.logits.plan import kept_for
from workbench.kinds.logits.run import trial_step
from workbench.model.weights import load_model, to_hf
from workbench.study.flops import count_parameters, forward_flops_per_token, training_flops_per_token
from workbench.study.identity import identity
from workbench.study.kind_plan import checkpoint_bytes, flops_per_token
from workbench.study.resources import stage_memory
from workbench.tracking import spool
from workbench.tracking.intended import read_study
from workbench.train import checkpoint as ckpt
from workbench.train.state import initial_state
from workbench.train.throughput import measure_tokens_per_second
from workbench.train.whole_stage import train_stage

# ------------------------------------------------------------------------------------------------ what is planned


def test_students_of_one_teacher_share_what_is_kept(make_study):
    """Of all sizes, shares, temperatures and budgets."""
    sweep = ["then.distill.alpha=0,0.5,1", "then.distill.temperature=1,2", "tokens=2560,5120", "model=m0_03,m0_06"]
    facts = make_study(*KEPT, *sweep)
    [logits] = of_kind(facts, "logits")
    assert logits.stage.end_tokens == 5120
    students = of_kind(facts, "distill")
    assert len(students) == 2 * 2 * 2 * 3  # sizes, shares, temperatures: a trunk and two cooldowns of each
    ends = {student.stage.end_tokens for student in students}
    assert ends <= set(logits.targets)
    assert {student.stage.logits for student in students} == {logits.id}
    assert {student.stage.inputs["teacher"] for student in students} == {logits.stage.inputs["teacher"]}


def test_another_k_stream_or_teacher_is_another_stage(make_study):
    ids = {
        of_kind(make_study(*KEPT, *more), "logits")[0].id
        for more in ([], ["then.distill.teacher.top_k=6"], ["seed_data=1"], ["then.distill.teacher.tokens=2560"])
    }
    assert len(ids) == 4


def test_a_phase_with_a_mixture_of_its_own_is_asked_about_from_where_it_begins(make_study):
    trunk, cooldown = (node.stage for node in of_kind(make_study(*KEPT), "distill"))
    mixture = [*cooldown.stream.mixture, MixtureSegment(cooldown.start_tokens // 32, {"prose": 1.0, "code": 1.0})]
    apart = replace(cooldown, stream=replace(cooldown.stream, mixture=mixture))
    together = kept_for([trunk, cooldown], trunk, 5, None)
    assert together[0] == together[1]
    first, second = kept_for([trunk, apart], trunk, 5, None)
    assert (first.start_tokens, first.end_tokens) == (0, trunk.end_tokens)
    assert (second.start_tokens, second.end_tokens) == (trunk.end_tokens, cooldown.end_tokens)


def test_without_a_k_nothing_has_another_id(make_study):
    plain, kept = make_study(*DISTILL), make_study(*KEPT)
    assert {node.stage.kind for node in plain.plan.nodes.values()} == {"pretrain", "distill"}
    ids = [{node.id for node in of_kind(facts, "distill")} for facts in (plain, kept)]
    assert not ids[0] & ids[1]
    assert not any({"top_k", "logits"} & identity(node.stage).keys() for node in of_kind(plain, "distill"))


def test_what_students_are_called_names_k_and_the_teachers_tokens(make_study):
    [*_, plain] = of_kind(make_study(*DISTILL), "distill")
    [*_, kept] = of_kind(make_study(*KEPT), "distill")
    [*_, other] = of_kind(make_study(*KEPT, "then.distill.teacher.tokens=2560"), "distill")
    assert plain.stage.variety == "distilled 0.5 from m0_06 5.12K"
    assert kept.stage.variety == "distilled 0.5 top 5 from m0_06 5.12K"
    assert other.stage.variety == "distilled 0.5 top 5 from m0_06 2.56K"


def test_the_plan_tells_what_it_costs(make_study):
    facts = make_study(*KEPT, "tokens=2560,5120")
    [logits] = of_kind(facts, "logits")
    assert flops_per_token(logits.stage) == forward_flops_per_token(logits.stage.model)
    for student in of_kind(facts, "distill"):
        assert flops_per_token(student.stage) == training_flops_per_token(student.stage.model)
    assert bytes_per_token(5, 512) == 5 * (2 + 2)
    assert bytes_per_token(5, 1 << 17) == 5 * (4 + 2)
    others = len(facts.plan.nodes) - 1
    assert kept_bytes(facts) > 5120 * 20 + others * checkpoint_bytes(logits.stage, whole=True)
    work = estimate(facts)
    assert work.training_seconds is not None
    assert work.training_seconds[logits.id] > 0
    memory = stage_memory(logits.stage, 1, 8, "cpu")
    assert 4 * count_parameters(logits.stage.model).total < memory.total < 10e6
    assert memory.optimizer == memory.gradients == 0


def test_steps_do_what_is_counted(make_study):
    facts = make_study(*KEPT)
    device = torch.device("cpu")
    [logits] = of_kind(facts, "logits")
    student = of_kind(facts, "distill")[0]
    for stage, step in (
        (logits.stage, trial_step(logits.stage, device)),
        (student.stage, student_step(student.stage, device)),
    ):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step()
        assert counter.get_total_flops() == flops_per_token(stage) * stage.batch_tokens
        assert measure_tokens_per_second(stage, 0.01) > 0


def test_a_budget_in_flops_has_no_teacher_in_it(make_study):
    facts = make_study(*KEPT)
    again = make_study(*KEPT, "tokens=null", f"flops={facts.plan.points[0].flops}")
    assert list(facts.plan.nodes) == list(again.plan.nodes)
    assert facts.plan.points[0].flops == 2560 * training_flops_per_token(facts.plan.points[0].config.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["then.distill.teacher.top_k=0"], "teacher.top_k=0"),
        (["then.distill.teacher.top_k=100000"], "more than the 512 ids"),
    ],
)
def test_what_cannot_be_kept_is_one_line(compose, overrides, experiments, settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        make_facts(compose([*overrides, *DISTILL, *settings], experiments))
    assert "\n" not in str(refused.value)


def test_it_follows_nothing_by_itself():
    with pytest.raises(ValueError, match="kind='logits' cannot come after a recipe"):
        KindSettings.class_of({"kind": "logits"})


# ------------------------------------------------------------------------------------------------ what is computed


def test_of_all_ids_it_is_the_distillation_that_asks_anew(taught, make_study, outputs):
    """Within the error of fp16, in which log-probabilities are kept."""
    facts = finish(taught("kept", "then.distill.teacher.top_k=512", "then.distill.temperature=2"))
    anew = make_study(f"paths.outputs={facts.layout.root}", *DISTILL, "then.distill.temperature=2")
    for node in of_kind(anew, "distill"):
        train_stage(anew.layout, node.id)
    assert len(rows(facts)) == len(rows(anew)) == 10
    for ours, theirs in zip(rows(facts), rows(anew), strict=True):
        # log q to 2^-11 of itself, of about 6 nats: 0.003.
        for name in (spool.TRAIN_LOSS, spool.TRAIN_DIVERGENCE):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)
    first = initial_state(of_kind(anew, "distill")[0].stage, torch.device("cpu")).model
    ours, theirs = flat(last_weights(facts)), flat(last_weights(anew))
    began = flat(to_hf(first.state_dict(), first.config))
    # Of the way that training went, what rounding moved it aside.
    assert (ours - theirs).norm() < 0.005 * (theirs - began).norm()


def flat(weights):
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def test_what_is_kept_is_what_the_teacher_says(taught):
    facts = taught("said")
    [logits] = of_kind(facts, "logits")
    train_stage(facts.layout, logits.id)
    read = logits.stage.inputs["teacher"]
    teacher = load_model(ckpt.find_checkpoint(facts.layout.stage(read.stage), read.tokens))
    ids, log_q = KeptLogits(find_pieces(facts.layout.stage(logits.id), 0, 80)).batch(range(60, 80))
    stream = student_stream(facts)
    tokens = torch.from_numpy(stream.batch(60, 20)[0])
    with torch.no_grad():
        expected, best = teacher(tokens[:, :-1]).log_softmax(-1).topk(5)
    assert (torch.from_numpy(ids).long() == best).float().mean() > 0.999  # equally probable ids may change places
    torch.testing.assert_close(torch.from_numpy(log_q).float(), expected, rtol=2**-11, atol=1e-5)


def student_stream(facts):
    from workbench.data.store import open_prepared
    from workbench.data.stream import Stream

    stage = of_kind(facts, "distill")[-1].stage
    return Stream(open_prepared(facts.layout.data(stage.data_fingerprint)), stage.stream)


@pytest.mark.parametrize(
    "more",
    [
        ["precision=bf16"],
        ["data.document_mask=true", "checkpoint.interval_seconds=1e-6"],
        ["data.packing=best_fit", "data.document_mask=true"],
    ],
)
def test_stopped_and_killed_it_ends_the_same(taught, more):
    untouched, stopped = finish(taught("untouched", *more)), taught("stopped", *more)
    [logits] = of_kind(stopped, "logits")
    assert start(1, train, root=stopped.layout.root, stage=logits.id, stop_after=3)[0].error == "StoppedError"
    assert not stopped.layout.stage(logits.id).list_checkpoints()
    assert start(1, train, root=stopped.layout.root, stage=logits.id, kill_after=2)[0].error == "died"
    [ended] = start(1, train, root=stopped.layout.root, stage=logits.id)
    assert any("goes on at sequence" in line for line in ended.result)
    finish(stopped)
    assert files(untouched) == files(stopped)
    assert rows(untouched) == rows(stopped)
    ours, theirs = last_weights(untouched), last_weights(stopped)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_longer_student_extends_what_is_kept(taught, make_study):
    facts = finish(taught("short"))
    before = files(facts)
    longer = make_study(f"paths.outputs={facts.layout.root}", *KEPT, "tokens=2560,5120")
    [logits] = of_kind(longer, "logits")
    assert facts.tokens_to_train()[logits.id] == 2560
    assert longer.tokens_to_train()[logits.id] == 5120 - 2560
    finish(longer)
    after = files(longer)
    assert before.items() < after.items()
    at_once = finish(taught("at_once", "tokens=2560,5120"))
    assert files(at_once) == after


def test_processes_compute_the_same(taught):
    alone, several = finish(taught("alone")), finish(taught("several", "numerics.micro_batch_sequences=2"), 2)
    [node] = of_kind(alone, "logits")
    found = [KeptLogits(find_pieces(facts.layout.stage(node.id), 0, 80)).batch(range(80)) for facts in (alone, several)]
    assert (found[0][0] == found[1][0]).mean() > 0.999
    np.testing.assert_allclose(found[0][1].astype(float), found[1][1].astype(float), rtol=2**-10, atol=1e-5)
    for name in (spool.TRAIN_LOSS, spool.TRAIN_DIVERGENCE):
        assert [row[name] for row in rows(several)] == pytest.approx([row[name] for row in rows(alone)], abs=1e-4)


# --------------------------------------------------------------------------------------------------- what is wrong


def test_a_damaged_file_is_found_and_made_again(taught):
    facts = finish(taught("damaged"))
    [logits], student = of_kind(facts, "logits"), of_kind(facts, "distill")[0]
    before = files(facts)
    [first, *_] = facts.layout.stage(logits.id).list_checkpoints()
    data = bytearray((first / LOG_Q).read_bytes())
    data[7] ^= 1
    (first / LOG_Q).write_bytes(data)
    shutil.rmtree(facts.layout.stage(student.id).checkpoints)
    with pytest.raises(ckpt.DamagedCheckpointError, match=LOG_Q) as refused:
        train_stage(facts.layout, student.id)
    assert "\n" not in str(refused.value)
    finish(facts)
    assert files(facts) == before


def test_one_that_is_too_short_is_refused_in_one_line(taught):
    facts = taught("short")
    [logits] = of_kind(facts, "logits")
    train_stage(facts.layout, logits.id)
    with pytest.raises(ValueError, match="up to sequence 80, but 0 to 81 are needed") as refused:
        find_pieces(facts.layout.stage(logits.id), 0, 81)
    assert "\n" not in str(refused.value)
    [*_, last] = facts.layout.stage(logits.id).list_checkpoints()
    (last / IDS).write_bytes((last / IDS).read_bytes()[:-2])
    with pytest.raises(ckpt.DamagedCheckpointError, match=IDS) as refused:
        KeptLogits(find_pieces(facts.layout.stage(logits.id), 0, 80))
    assert "\n" not in str(refused.value)


def test_a_student_before_its_logits_misses_them(make_study):
    facts = make_study(*KEPT)
    with pytest.raises(ValueError, match="up to sequence 0, but 0 to "):
        train_stage(facts.layout, of_kind(facts, "distill")[0].id)


def test_a_full_disk_is_told_with_both_numbers(taught):
    facts = taught("full")
    [logits] = of_kind(facts, "logits")
    [ended] = start(1, train, root=facts.layout.root, stage=logits.id, largest_file_bytes=4000)
    assert ended.error == "DiskFullError"
    assert "are free" in ended.text
    finish(facts)


# --------------------------------------------------------------------------------------------------- from end to end


def test_it_is_launched_and_recorded(make_study, run_local):
    facts = make_study(*KEPT, "then.distill.student=chain")
    [logits] = of_kind(facts, "logits")
    assert logits.stage.start_tokens == 0
    run_local(facts)
    assert not pending_evaluations(facts)
    assert not any(facts_of(facts).missing().values())
    record = read_study(facts.layout, "small")
    kept = next(stage for stage in record.stages if stage.id == logits.id)
    assert kept.tags["kinds"] == "logits"
    assert kept.checkpoints == ()
    manifest = ckpt.verify(facts.layout.stage(logits.id).list_checkpoints()[-1])
    assert manifest["flops"] == flops_per_token(logits.stage) * logits.stage.end_tokens
    assert ids_dtype(70_000) == np.dtype("<i4")


def facts_of(facts):
    from workbench.forecast.study_facts import look

    return look(facts.plan)
