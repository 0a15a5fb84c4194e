"""Several processes training one stage: they compute what one does, stop together and end the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_processes import COMPILING_SECONDS, start, talk, weighted_step, write_again
from trunks import PARALLELS, STEPS, TOKENS, TWO_BY_TWO, Trunk, assert_equal, assert_same, state_of

from workbench.config.schema import COMPILE_UNITS
from workbench.data.store import open_prepared
from workbench.model.weights import load_model
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train.compiler import missing_for_compile
from workbench.train.state import initial_state
from workbench.train.whole_stage import train_stage

MUON_APART = 1e-2
"""Nats: sums in another order reach Muon's iterations in bf16, whose last bits are 2^-8."""


@pytest.fixture
def fresh(fresh):
    """The same study under other outputs: call it and get its trunk."""
    return lambda name, *more: Trunk(fresh(name, *TOKENS, *more))


def test_what_processes_tell_each_other():
    first, second = (each.result for each in start(2, talk))
    assert first["any"] == second["any"] == (True, True, False)
    assert first["result"] == second["result"] == {"rank": 0}
    assert first["kept"] == second["kept"]
    assert first["kept"][0] == "FileNotFoundError"
    assert first["told"] == ("HomeMadeError", "one and two")
    assert second["told"] == ("RemoteError", "rank 0: HomeMadeError: one and two")
    assert first["one_failed"] == second["one_failed"] == ("ValueError", "no")
    assert (first["none_failed"], second["none_failed"]) == (0, 1)
    assert first["all"] == second["all"] == [0, 10]
    assert first["sum"] == second["sum"] == [2.0, 1.0]
    assert first["gradients"] == second["gradients"] == [[11.0] * 6, [22.0] * 2]


@pytest.mark.parametrize("parallel", [*PARALLELS, "hybrid"])
def test_losses_are_those_of_one_process(fresh, parallel):
    """Over 50 steps in fp32; so are the gradients' norms, which FSDP2 would average if it were let."""
    alone = fresh("alone").finish(1)
    assert len(alone.rows()) == STEPS
    for size in (2, 4):
        settings = TWO_BY_TWO if parallel == "hybrid" else (f"numerics.parallel={parallel}",)
        several = fresh(f"on{size}", *settings).finish(size)
        assert several.column(spool.TRAIN_LOSS) == pytest.approx(alone.column(spool.TRAIN_LOSS), abs=1e-5)
        norms = several.column(spool.TRAIN_GRADIENT_NORM)
        assert norms == pytest.approx(alone.column(spool.TRAIN_GRADIENT_NORM), abs=1e-4)
        assert ckpt.verify(several.last())["numerics"]["world_size"] == size
        assert (several.last() / "optimizer").is_dir() == (parallel != "replicate")


@pytest.mark.parametrize("size", [2, 4])
def test_packed_documents_on_several_processes(fresh, size):
    """Each counts its share of the targets; whichever process is first packs the documents, and the others wait for it."""
    settings = ("data.packing=best_fit", f"model.context_tokens={32 + size}")
    several = fresh("several", *settings).finish(size)
    alone = fresh("alone", *settings).finish(1)
    for name, apart in ((spool.TRAIN_LOSS, 1e-5), (spool.TRAIN_GRADIENT_NORM, 1e-4)):
        assert several.column(name) == pytest.approx(alone.column(name), abs=apart)
    counts = ckpt.read_manifest(several.last())["counts"]
    assert counts == ckpt.read_manifest(alone.last())["counts"]
    assert all(0 < count["padded_share"] < 0.05 for count in counts.values())


@pytest.mark.parametrize(("parallel", "precision"), [("replicate", "fp32"), ("shard", "fp32"), ("shard", "bf16")])
def test_stopped_by_one_process_they_end_the_same(fresh, parallel, precision):
    settings = (f"numerics.parallel={parallel}", f"precision={precision}")
    untouched = fresh("untouched", *settings).finish(2)
    stopped = fresh("stopped", *settings)
    for steps, rank in ((7, 1), (11, 0)):
        ended = stopped.train(2, {rank: {"stop_after": steps}})
        assert [each.error for each in ended] == ["StoppedError"] * 2
    assert json.loads(stopped.dir.status.read_text())["state"] == "killed"
    assert_same(untouched, stopped.finish(2))


def test_muon_on_several_processes(fresh):
    """Each makes the whole update; a process that stops or is killed costs no bit."""
    settings = ("optimizer=muon", "optimizer.learning_rate=0.005")
    alone, untouched = fresh("alone", *settings).finish(1), fresh("untouched", *settings).finish(2)
    assert untouched.column(spool.TRAIN_LOSS) == pytest.approx(alone.column(spool.TRAIN_LOSS), abs=MUON_APART)
    stopped = fresh("stopped", *settings)
    ended = stopped.train(2, {1: {"stop_after": 7}})
    assert [each.error for each in ended] == ["StoppedError"] * 2
    ended = stopped.train(2, {0: {"kill_after": 13}})
    assert ended[0].exit_code == -9
    assert_same(untouched, stopped.finish(2))


def test_sharing_changes_no_bit_in_16_bits(fresh):
    """Norms and residual stream stay fp32, products are of the same 16 bits, sums of gradients in fp32.

    The gradients' norm is summed in another order, so nothing is clipped here.
    """
    settings = ("precision=bf16", "model.num_layers=2", "model.qk_norm=true", "optimizer.clip_norm=1000")
    ours, theirs = (fresh(name, f"numerics.parallel={name}", *settings).finish(2) for name in PARALLELS)
    for name in (spool.TRAIN_LOSS, spool.source_loss("prose"), spool.source_loss("code")):
        assert ours.column(name) == theirs.column(name)
    assert ours.column(spool.TRAIN_GRADIENT_NORM) == pytest.approx(theirs.column(spool.TRAIN_GRADIENT_NORM), rel=1e-6)


@pytest.mark.parametrize("parallel", PARALLELS)
def test_what_is_not_finite_on_one_process_is_skipped_by_all(fresh, parallel):
    settings = (f"numerics.parallel={parallel}", "optimizer.non_finite=skip", "numerics.micro_batch_sequences=2")
    alone = fresh("alone", *settings)
    alone.train(1, {0: {"poisoned_steps": (1, 5, 6)}}, stop_after=9)
    several = fresh("several", *settings)
    ended = several.train(2, {1: {"poisoned_steps": (1, 5, 6)}}, stop_after=9)
    assert [each.error for each in ended] == ["StoppedError"] * 2
    assert several.column(spool.TRAIN_SKIPPED_UPDATES) == [1, 1, 1, 1, 2, 3, 3, 3, 3]
    ours, theirs = several.rows(), alone.rows()
    assert [row["step"] for row in ours if spool.TRAIN_LOSS not in row] == [1, 5, 6]
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.get(spool.TRAIN_LOSS) == pytest.approx(its.get(spool.TRAIN_LOSS), abs=1e-5)
        assert mine.get(spool.TRAIN_GRADIENT_NORM) == pytest.approx(its.get(spool.TRAIN_GRADIENT_NORM), abs=1e-4)


def test_any_number_of_processes_goes_on(fresh):
    """From 2 to 1 to 4, between shared and replicated, and back: the losses stay those of one process.

    With tied embeddings, whose shares are used twice, and positions that Llama's layout has no name for.
    """
    switch = ("model.tie_embeddings=true", "model.position=learned")
    alone = fresh("alone", *switch).finish(1)
    changing = fresh("changing", *switch)
    for size, parallel in ((2, "shard"), (1, "shard"), (4, "shard"), (2, "replicate"), (2, "shard")):
        ended = changing.train(size, frozen=in_parallel(changing.node.stage, parallel), stop_after=9)
        assert [each.error for each in ended] == ["StoppedError"] * size
    losses = changing.column(spool.TRAIN_LOSS)
    assert len(losses) == 45
    assert losses == pytest.approx(alone.column(spool.TRAIN_LOSS)[:45], abs=1e-5)


def in_parallel(stage, parallel):
    group = 2 if parallel == "hybrid" else None
    return replace(stage, numerics=replace(stage.numerics, parallel=parallel, shard_processes=group))


def test_groups_that_share_a_copy_each_stop_and_go_on_as_others_do(fresh):
    """Four processes two by two: stopped, they end in the same bits, and from other divisions in the same losses."""
    alone, untouched = fresh("alone").finish(1), fresh("untouched", *TWO_BY_TWO).finish(4)
    stopped, changing = fresh("stopped", *TWO_BY_TWO), fresh("changing")
    stopped.train(4, {2: {"stop_after": 7}})
    assert_same(untouched, stopped.finish(4))
    for size, parallel in ((4, "hybrid"), (1, "hybrid"), (4, "shard"), (4, "hybrid"), (2, "replicate"), (4, "hybrid")):
        ended = changing.train(size, frozen=in_parallel(changing.node.stage, parallel), stop_after=7)
        assert [each.error for each in ended] == ["StoppedError"] * size, ended[0].text
    losses = changing.column(spool.TRAIN_LOSS)
    assert len(losses) == 42
    assert losses == pytest.approx(alone.column(spool.TRAIN_LOSS)[:42], abs=1e-5)


def test_a_share_is_a_share_and_nothing_is_lost_between_sizes(fresh, tmp_path):
    trunk = fresh("trunk", "numerics.parallel=shard")
    trunk.train(2, stop_after=3)
    stage, total = trunk.node.stage, ckpt.read_manifest(trunk.last())["params"]
    tokenizer = open_prepared(trunk.facts.layout.data(stage.stream.data_fingerprint)).tokenizer_dir
    source = trunk.last()
    divisions = ((1, "shard"), (4, "shard"), (4, "hybrid"), (2, "replicate"), (3, "shard"))
    for number, (size, parallel) in enumerate(divisions):
        target = tmp_path / str(number)
        arguments = {"stage": stage, "parallel": parallel, "source": source, "target": target, "tokenizer": tokenizer}
        shares = [each.result for each in start(size, write_again, file_bytes=100_000, **arguments)]
        sharers = {"shard": size, "hybrid": 2, "replicate": 1}[parallel]
        assert sum(shares) == total * size // sharers
        assert max(shares) < 1.1 * total / sharers
        if sharers > 1:
            assert len(list((target / "optimizer").iterdir())) > sharers
        assert_equal(state_of(target), state_of(trunk.last()))
        source = target


def test_initial_weights_are_those_of_one_process(fresh, tmp_path):
    stage = fresh("trunk").node.stage
    start(2, write_again, stage=stage, parallel="shard", source=None, target=tmp_path / "out", tokenizer=tmp_path)
    assert_equal(
        load_model(tmp_path / "out").state_dict(), initial_state(stage, torch.device("cpu")).model.state_dict()
    )


def test_a_job_keeps_the_numerics_and_the_code_it_was_submitted_with(fresh):
    trunk = fresh("trunk", "numerics.micro_batch_sequences=4")
    stage = trunk.node.stage
    frozen = replace(stage, numerics=replace(stage.numerics, micro_batch_sequences=2), end_tokens=999 * 256)
    code = {"commit": "c" * 40, "dirty": True, "copy": "d" * 16}
    train_stage(trunk.facts.layout, trunk.node.id, wanted=[2560], frozen=frozen, code=code)
    manifest = ckpt.verify(trunk.last())
    assert manifest["tokens"] == 2560
    assert manifest["numerics"]["micro_batch_sequences"] == 2
    assert {key: manifest[key] for key in code} == code
    with pytest.raises(ValueError, match="the job was submitted for stage"):
        train_stage(trunk.facts.layout, trunk.node.id, frozen=replace(stage, batch_sequences=16))


def test_processes_take_what_one_of_them_measured(fresh):
    """Each could find something else faster; they end as if they had been told what was recorded."""
    both = fresh("both", "numerics.products=auto", "numerics.attention=auto").finish(2)
    record = ckpt.read_manifest(both.last())["numerics"]
    taken = [f"numerics.{name}={record[name]}" for name in ("products", "attention")]
    assert taken[0] in ("numerics.products=onednn", "numerics.products=openblas")
    assert taken[1] in ("numerics.attention=sdpa", "numerics.attention=blocks")
    assert_same(fresh("told", *taken).finish(2), both)


@pytest.mark.slow
@pytest.mark.parametrize("unit", COMPILE_UNITS)
def test_compiled_they_end_the_same(fresh, unit):
    if missing_for_compile("cpu"):
        pytest.skip(f"torch.compile needs {missing_for_compile('cpu')}")
    settings = (
        "numerics.parallel=shard",
        "numerics.compile=true",
        "numerics.threads=2",
        f"numerics.compile_unit={unit}",
    )
    untouched = fresh("untouched", *settings).finish(2, patience=COMPILING_SECONDS)
    stopped = fresh("stopped", *settings)
    stopped.train(2, stop_after=20, patience=COMPILING_SECONDS)
    assert_same(untouched, stopped.finish(2, patience=COMPILING_SECONDS))
    numerics = ckpt.read_manifest(stopped.last())["numerics"]
    assert (numerics["compile"], numerics["compile_unit"]) == (True, unit)


@pytest.mark.parametrize("parallel", [*PARALLELS, "hybrid"])
@pytest.mark.parametrize("size", [2, 4])
def test_targets_of_unequal_weights_count_once_on_however_many_processes(make_study, parallel, size):
    """One process has most of them, another none: not the mean of the processes' means."""
    stage = next(iter(make_study().plan.nodes.values())).stage
    model = replace(stage.model, vocab_size=61, context_tokens=16)
    stage = in_parallel(replace(stage, model=model), parallel)
    [(whole, moments)] = (each.result for each in start(1, weighted_step, stage=stage))
    for each in start(size, weighted_step, stage=stage):
        assert (each.exit_code, each.text) == (0, "")
        divided, theirs = each.result
        assert divided.loss == pytest.approx(whole.loss, rel=1e-6)
        assert divided.source_losses == pytest.approx(whole.source_losses, rel=1e-6)
        assert divided.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
        for a, b in zip(moments, theirs, strict=True):
            assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a) + 1e-9


@pytest.mark.parametrize("tied", [False, True])
def test_a_padded_head_makes_the_same_step_on_several_processes(make_study, tied):
    stage = next(iter(make_study().plan.nodes.values())).stage
    model = replace(stage.model, vocab_size=61, context_tokens=16, tie_embeddings=tied)
    stage = replace(stage, model=model, numerics=replace(stage.numerics, parallel="shard"))
    [(whole, moments)] = (each.result for each in start(1, weighted_step, stage=stage))
    for each in start(2, weighted_step, stage=stage, padded_to=64):
        assert (each.exit_code, each.text) == (0, "")
        padded, theirs = each.result
        assert padded.loss == pytest.approx(whole.loss, rel=1e-6)
        assert padded.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)
        for a, b in zip(moments, theirs, strict=True):
            assert a.shape == b.shape
            assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(a) + 1e-9
