"""One stage: what it writes, and that stopping it anywhere changes nothing."""

import errno
import json
import shutil
import threading
from contextlib import suppress
from functools import partial

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from whole_trainings import assert_same, rows_of, stop_after, train_all

from workbench.data.store import open_prepared
from workbench.data.stream import Stream
from workbench.study.files import exclusive
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train import loop, micro_batch
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.distributed import World
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.state import OPTIMIZER_FILE
from workbench.train.whole_stage import train_stage


def test_rows_and_checkpoints(make_study):
    facts = make_study("recipe.milestones=[2560]")
    train_all(facts)
    trunk, cooldown = facts.plan.nodes.values()
    rows = spool.read_rows(facts.layout.stage(trunk.id).path)
    assert [row["step"] for row in rows] == list(range(1, 33))
    assert [row["tokens"] for row in rows] == [256 * step for step in range(1, 33)]
    assert rows[-1][spool.TRAIN_LOSS] < rows[0][spool.TRAIN_LOSS] - 0.3
    for row in rows:
        by_source = [row[spool.source_loss(s)] for s in ("prose", "code") if spool.source_loss(s) in row]
        assert min(by_source) - 1e-6 <= row[spool.TRAIN_LOSS] <= max(by_source) + 1e-6
        assert row[spool.TRAIN_TOKENS_PER_SECOND] > 0
        assert row[spool.TRAIN_MODEL_FLOPS_UTILISATION] > 0
        assert row[spool.TRAIN_MEMORY_BYTES] > 1e6
    assert sorted(checkpoints_by_tokens(facts.layout.stage(trunk.id))) == [2560, 8192]
    [(tokens, last)] = checkpoints_by_tokens(facts.layout.stage(cooldown.id)).items()
    manifest = ckpt.verify(last)
    assert (tokens, manifest["step"], manifest["annealed"]) == (10240, 40, True)
    assert sum(counts["drawn_tokens"] for counts in manifest["counts"].values()) == 10240
    assert json.loads(facts.layout.stage(cooldown.id).status.read_text())["state"] == "finished"
    assert not [path for path in last.rglob("*") if path.suffix in (".pt", ".pkl", ".bin", ".pth")]


@pytest.mark.parametrize(
    "numerics",
    [
        [],
        ["precision=bf16"],
        ["numerics.threads=2"],
        ["numerics.activation_checkpointing=true"],
        ["recipe=three_stage", "recipe.warmup_tokens=512", "recipe.batch_sequences=8"],
        ["data.document_mask=true"],
        ["data.packing=best_fit"],
        ["data.packing=best_fit", "data.document_mask=true"],
        ["optimizer=muon", "optimizer.learning_rate=0.01", "optimizer.non_finite=skip"],
        [
            "model.parametrisation=complete_p",
            "model.base_width=16",
            "model.base_layers=1",
            "optimizer.learning_rate=0.01",
            "optimizer.z_loss=1e-4",
        ],
        ["optimizer.decay_coupling=independent", "optimizer.weight_decay=1e-3"],
        pytest.param(["numerics.compile=true", "numerics.threads=2"], marks=pytest.mark.slow),
        pytest.param(["numerics.compile=true", "precision=bf16"], marks=pytest.mark.slow),
        pytest.param(["numerics.compile=true", "numerics.compile_unit=block"], marks=pytest.mark.slow),
    ],
)
def test_stopped_anywhere_it_ends_the_same(fresh, numerics):
    untouched = fresh("untouched", *numerics)
    train_all(untouched)
    stopped = fresh("stopped", *numerics)
    stops = 0
    for identifier in stopped.plan.nodes:
        for steps in (1, 7, 11, 1000):
            try:
                train_stage(stopped.layout, identifier, stop_after(steps))
            except StoppedError:
                stops += 1
    assert stops >= 3
    assert_same(untouched, stopped)


def test_batches_drawn_ahead_change_no_bit_and_no_resume(fresh, monkeypatch):
    untouched = fresh("untouched")
    train_all(untouched)
    ahead = []
    monkeypatch.setattr(loop, "batches_ahead", lambda device: ahead.append(device) or 3)
    stopped = fresh("stopped")
    for identifier in stopped.plan.nodes:
        for steps in (1, 7, 11, 1000):
            with suppress(StoppedError):
                train_stage(stopped.layout, identifier, stop_after(steps))
    assert len(ahead) >= 5
    assert_same(untouched, stopped)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_a_draw_ahead_that_fails_ends_the_stage_with_its_message(make_study, monkeypatch):
    monkeypatch.setattr(loop, "batches_ahead", lambda device: 3)
    draw = Stream.draw

    def failing(self, start, count):
        if start >= 20:
            raise ValueError("000004.bin cannot be read")
        return draw(self, start, count)

    monkeypatch.setattr(Stream, "draw", failing)
    facts = make_study()
    trunk, _ = facts.plan.nodes
    with pytest.raises(ValueError, match=r"000004.bin cannot be read"):
        train_stage(facts.layout, trunk)
    rows = spool.read_rows(facts.layout.stage(trunk).path)
    assert [row["step"] for row in rows] == list(range(1, -(-20 // facts.plan.nodes[trunk].stage.batch_sequences) + 1))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_a_stage_continues_with_the_micro_batch_that_it_began_with(fresh, monkeypatch):
    """Where the numerics leave it open, another machine's memory does not change the sums."""
    chosen = micro_batch.choose_micro_batch
    small = partial(chosen, memory_bytes=1_000_000)  # one sequence at a time, the least there is
    untouched, moved = fresh("untouched"), fresh("moved")
    trunk = next(node.id for node in moved.plan.nodes.values() if node.stage.parent is None)
    with monkeypatch.context() as patch:
        patch.setattr("workbench.train.loop.choose_micro_batch", small)
        train_all(untouched)
        with pytest.raises(StoppedError):
            train_stage(moved.layout, trunk, stop_after(7))
    train_stage(moved.layout, trunk)
    manifests = [ckpt.read_manifest(path) for path in moved.layout.stage(trunk).list_checkpoints()]
    assert {manifest["numerics"]["micro_batch_sequences"] for manifest in manifests} == {1}
    with monkeypatch.context() as patch:
        patch.setattr("workbench.train.loop.choose_micro_batch", small)
        train_all(moved)
    assert_same(untouched, moved)


def test_a_longer_budget_trains_the_difference(make_study):
    train_all(make_study("tokens=10240"))
    longer = make_study("tokens=10240,20480")
    left = longer.tokens_to_train()
    assert sorted(left.values()) == [0, 4096, 8192]
    first_losses = []
    hooks = Hooks(on_progress=first_losses.append)
    train_all(longer, hooks)
    assert len(first_losses) == (4096 + 8192) // 256
    trunk = next(n for n in longer.plan.nodes.values() if n.stage.parent is None)
    assert [r["step"] for r in spool.read_rows(longer.layout.stage(trunk.id).path)] == list(range(1, 65))


def test_a_finished_stage_has_its_rows_as_a_table_too(make_study, monkeypatch):
    """It follows a longer budget, and a table that cannot be written fails nothing."""
    facts = make_study("tokens=10240")
    train_all(facts)
    trunk = facts.layout.stage(next(iter(facts.plan.nodes)))
    assert pq.read_table(trunk.metrics_table).to_pylist() == spool.read_rows(trunk.path)
    train_all(make_study("tokens=10240,20480"))
    assert pq.read_table(trunk.metrics_table).column("step").to_pylist() == list(range(1, 65))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("workbench.tracking.metrics_table.fsync", full)
    longer = make_study("tokens=10240,20480,40960")
    train_all(longer)
    assert json.loads(trunk.status.read_text())["state"] == "finished"
    assert not list(trunk.path.glob(".*partial"))


def test_a_milestone_added_later_is_filled_in(make_study, fresh):
    facts = make_study()
    train_all(facts)
    before = rows_of(facts)
    facts = make_study("recipe.milestones=[2560,5120]")
    train_all(facts)
    assert rows_of(facts) == before
    at_once = fresh("at_once", "recipe.milestones=[2560,5120]")
    train_all(at_once)
    assert_same(at_once, facts)


def test_the_loss_that_is_reported_has_no_z_loss(make_study, fresh):
    plain, with_z = fresh("plain"), fresh("z", "optimizer.z_loss=0.01")
    for facts in (plain, with_z):
        train_stage(facts.layout, next(iter(facts.plan.nodes)))
    ours, theirs = (
        [row[spool.TRAIN_LOSS] for row in spool.read_rows(f.layout.stage(next(iter(f.plan.nodes))).path)]
        for f in (with_z, plain)
    )
    assert ours[0] == theirs[0]
    assert ours[-1] != theirs[-1]


def test_a_stage_is_compiled_once(fresh, monkeypatch):
    """Also where it goes on from a checkpoint that lies between milestones filled in before and after it."""
    compiled = []
    monkeypatch.setattr(loop, "missing_for_compile", lambda device: None)
    monkeypatch.setattr(loop, "compile_model", lambda model, unit: compiled.append(model) or model)
    at_once = fresh("at_once", "numerics.compile=true", "recipe.milestones=[2560,5120,7680]")
    train_all(at_once)
    assert len(compiled) == len(at_once.plan.nodes)
    facts = fresh("filled_in", "numerics.compile=true", "recipe.milestones=[5120]")
    trunk = next(iter(facts.plan.nodes))
    train_stage(facts.layout, trunk, wanted=[5120])
    compiled.clear()
    train_stage(facts.layout, trunk, wanted=[2560, 7680, 8192])
    assert len(compiled) == 1
    ours, theirs = (checkpoints_by_tokens(each.layout.stage(trunk)) for each in (facts, at_once))
    for tokens, whole in ((2560, False), (7680, False), (8192, True)):
        for name in ("model.safetensors", *([OPTIMIZER_FILE] if whole else [])):
            mine, its = load_file(ours[tokens] / name), load_file(theirs[tokens] / name)
            assert all(torch.equal(mine[key], its[key]) for key in its)


def test_numerics_say_what_was_chosen_and_training_is_strict(make_study):
    facts, strict = make_study("numerics.micro_batch_sequences=null"), []
    trunk = next(iter(facts.plan.nodes))
    train_stage(
        facts.layout,
        trunk,
        Hooks(on_progress=lambda _: strict.append(torch.get_deterministic_debug_mode())),
        wanted=[512],
    )
    numerics = ckpt.verify(facts.layout.stage(trunk).list_checkpoints()[-1])["numerics"]
    assert (numerics["deterministic"], numerics["micro_batch_sequences"]) == (True, 8)
    assert strict == [2, 2]  # an error, not a warning


def test_waiting_for_another_run_can_be_left(make_study):
    facts = make_study()
    trunk = next(iter(facts.plan.nodes))
    said = []
    with exclusive(facts.layout.stage(trunk).lock), pytest.raises(StoppedError, match="another run"):
        train_stage(facts.layout, trunk, Hooks(should_stop=lambda: True, log=said.append))
    assert said == ["another run trains this stage; waiting for it"]


def test_utilisation_is_a_share(make_study):
    facts = make_study("model=m0_1")
    train_all(facts)
    rows = spool.read_rows(facts.layout.stage(next(iter(facts.plan.nodes))).path)
    assert all(0 < row[spool.TRAIN_MODEL_FLOPS_UTILISATION] < 1 for row in rows)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_same_sequences_reach_the_step_for_every_world_size(make_study, monkeypatch, world_size):
    """The first 1,000 sequences, in order, over all ranks, and after stopping at any index."""
    facts = make_study("tokens=50000")
    identifier = next(iter(facts.plan.nodes))
    stage = facts.plan.nodes[identifier].stage
    prepared = open_prepared(facts.layout.data(stage.stream.data_fingerprint))
    expected = Stream(prepared, stage.stream).batch(0, 1000)
    reached = {}
    original = loop.train_step

    def record(model, loss, optimizer, batch, sources, **settings):
        rank = settings["world"].rank
        reached.setdefault((settings["step"], rank), (batch.tokens.clone(), sources.clone()))
        return original(model, loss, optimizer, batch, sources, **{**settings, "world": World()})

    monkeypatch.setattr(loop, "train_step", record)
    for rank in range(world_size):
        for steps in (1, 37, 59, 125 - 97):
            shutil.rmtree(facts.layout.stage(identifier).checkpoints, ignore_errors=True) if steps == 1 else None
            with pytest.raises(StoppedError):
                run_as_rank(facts, identifier, rank, world_size, steps)
    tokens = torch.cat([reached[step, rank][0] for step in range(1, 126) for rank in range(world_size)])
    sources = torch.cat([reached[step, rank][1] for step in range(1, 126) for rank in range(world_size)])
    assert torch.equal(tokens, torch.from_numpy(expected[0]))
    assert torch.equal(sources, torch.from_numpy(expected[1]))


def run_as_rank(facts, identifier, rank, world_size, steps):
    """Train as one rank would draw; it saves as if it were the only one, so that it can be stopped and go on."""

    class Alone(World):
        @property
        def is_main(self):
            return True

        def any_(self, *flags):
            return flags

        def main_only(self, function):
            return function()

        def together(self, function):
            return function()

        def gather(self, value):
            return [value]

    train_stage(facts.layout, identifier, stop_after(steps), Alone(rank, world_size))
