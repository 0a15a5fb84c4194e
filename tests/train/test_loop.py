"""One stage: what it writes, and that stopping it anywhere changes nothing."""

import errno
import json
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

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
from workbench.train.step import NonFiniteLossError
from workbench.train.whole_stage import train_stage


def train_all(facts, hooks=None):
    for identifier in facts.plan.nodes:
        train_stage(facts.layout, identifier, hooks)


def rows_of(facts):
    """Rows of every stage, wall-clock columns aside."""
    return {
        i: [
            {k: v for k, v in row.items() if k not in spool.WALL_CLOCK}
            for row in spool.read_rows(facts.layout.stage(i).path)
        ]
        for i in facts.plan.nodes
    }


def weights_of(facts):
    """Weights of every kept checkpoint, and the optimizer's state where it is kept."""
    return {
        (i, tokens, name): load_file(path / name)
        for i, node in facts.plan.nodes.items()
        for tokens, path in checkpoints_by_tokens(facts.layout.stage(i)).items()
        if tokens in node.targets
        for name in ("model.safetensors", OPTIMIZER_FILE)
        if name in ckpt.read_manifest(path)["files"]
    }


def assert_same(first, second):
    """Bit for bit the same weights, optimizer state, losses and metrics."""
    assert rows_of(first) == rows_of(second)
    ours, theirs = weights_of(first), weights_of(second)
    assert ours.keys() == theirs.keys()
    for key, tensors in ours.items():
        assert tensors.keys() == theirs[key].keys()
        assert all(torch.equal(tensors[name], theirs[key][name]) for name in tensors), key


def stop_after(steps):
    """Hooks that stop a stage after so many of its steps."""
    seen = []
    return Hooks(should_stop=lambda: seen.append(1) or len(seen) >= steps)


@pytest.fixture
def fresh(make_study, outputs):
    """The same study under other outputs: call it and get its facts."""

    def make(name, *more):
        root = outputs.parent / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        return make_study(f"paths.outputs={root}", *more)

    return make


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


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(fresh, harm):
    untouched = fresh("untouched", "recipe.milestones=[2560,5120]")
    train_all(untouched)
    facts = fresh("damaged", "recipe.milestones=[2560,5120]")
    trunk = next(iter(facts.plan.nodes))
    with pytest.raises(StoppedError):
        train_stage(facts.layout, trunk, stop_after(25))
    damage(facts.layout.stage(trunk).list_checkpoints()[-1], harm)
    said = []
    train_all(facts, Hooks(log=said.append))
    assert_same(untouched, facts)
    if harm != "manifest":
        assert any("step_00000025" in line and "model.safetensors" in line for line in said)
    assert (facts.layout.stage(trunk).checkpoints / "step_00000025.damaged").exists()


def damage(checkpoint, harm):
    path = checkpoint / ("manifest.json" if harm == "manifest" else "model.safetensors")
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2])


def test_a_parents_damaged_checkpoint_stops_the_child_and_is_named(make_study):
    facts = make_study()
    trunk, cooldown = facts.plan.nodes
    train_stage(facts.layout, trunk)
    damage(facts.layout.stage(trunk).list_checkpoints()[-1], "flip")
    with pytest.raises(ckpt.DamagedCheckpointError, match=r"step_00000032: model\.safetensors"):
        train_stage(facts.layout, cooldown)
    train_all(facts)
    assert facts.layout.stage(cooldown).list_checkpoints()


def test_non_finite_loss_stops_with_step_loss_and_sequences(make_study, monkeypatch):
    facts = make_study()
    trunk = next(iter(facts.plan.nodes))
    steps = []
    original = loop.summed_loss

    def poisoned(model, tokens, **settings):
        steps.append(1)
        total, losses = original(model, tokens, **settings)
        factor = float("nan") if len(steps) == 6 else 1.0
        return total * factor, losses * factor

    monkeypatch.setattr(loop, "summed_loss", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 6: loss nan.*sequences \[40, 48\)"):
        train_stage(facts.layout, trunk)
    status = json.loads(facts.layout.stage(trunk).status.read_text())
    assert status["state"] == "failed"
    assert "step 6" in status["error"]
    assert not facts.layout.stage(trunk).list_checkpoints()


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


def poison(monkeypatch, steps):
    """Have the loss of these steps be no number."""
    original = loop.train_step

    def poisoned(model, loss_function, *rest, **settings):
        factor = float("nan") if settings["step"] in steps else 1.0

        def loss(tokens):
            total, losses = loss_function(tokens)
            return total * factor, losses * factor

        return original(model, loss, *rest, **settings)

    monkeypatch.setattr(loop, "train_step", poisoned)


def test_skipped_updates_are_counted_in_the_rows(make_study, monkeypatch):
    poison(monkeypatch, {3, 4, 9, 34})
    facts, said, told = make_study("optimizer.non_finite=skip"), [], []
    train_all(facts, Hooks(log=said.append, on_progress=told.append))
    trunk, cooldown = ([*spool.read_rows(facts.layout.stage(i).path)] for i in facts.plan.nodes)
    assert [row["step"] for row in trunk if spool.TRAIN_LOSS not in row] == [3, 4, 9]
    assert [row[spool.TRAIN_SKIPPED_UPDATES] for row in trunk] == [0, 0, 1, *[2] * 5, *[3] * 24]
    assert not {spool.TRAIN_GRADIENT_NORM, spool.source_loss("prose"), spool.source_loss("code")} & trunk[2].keys()
    assert [row[spool.TRAIN_SKIPPED_UPDATES] for row in cooldown] == [3, *[4] * 7]  # the parent's are counted on
    assert [line.split(",")[0] for line in said if "skipped" in line] == [
        f"step {step}: update skipped" for step in (3, 4, 9, 34)
    ]
    assert len(told) == 40
    last = facts.layout.stage(list(facts.plan.nodes)[-1]).list_checkpoints()[-1]
    assert ckpt.verify(last)["skipped_updates"] == 4


def test_a_stage_that_skips_resumes_exactly(fresh, monkeypatch):
    """Stopped before, within and behind updates that are skipped."""
    poison(monkeypatch, {3, 4, 9})
    untouched, stopped = (fresh(name, "optimizer.non_finite=skip") for name in ("untouched", "stopped"))
    train_all(untouched)
    for steps in (2, 1, 1, 5):
        with pytest.raises(StoppedError):
            train_stage(stopped.layout, next(iter(stopped.plan.nodes)), stop_after(steps))
    train_all(stopped)
    assert_same(untouched, stopped)


def test_one_skip_too_many_in_a_row_stops_also_after_a_resume(make_study, monkeypatch):
    poison(monkeypatch, {3, 4, 6, 7, 8})
    facts = make_study("optimizer.non_finite=skip", "optimizer.max_skips_in_a_row=2")
    trunk = next(iter(facts.plan.nodes))
    message = r"step 8: loss nan.*it is update 3 in a row to skip: optimizer\.max_skips_in_a_row=2"
    for stop in (None, stop_after(6), stop_after(1), None):
        with pytest.raises(StoppedError) if stop else pytest.raises(NonFiniteLossError, match=message):
            train_stage(facts.layout, trunk, stop)
    assert [row["step"] for row in spool.read_rows(facts.layout.stage(trunk).path)] == list(range(1, 8))
    assert json.loads(facts.layout.stage(trunk).status.read_text())["state"] == "failed"


def test_a_diverged_training_is_not_skipped_through(make_study):
    facts = make_study("optimizer.non_finite=skip", "optimizer.learning_rate=1e30")
    trunk = next(iter(facts.plan.nodes))
    with pytest.raises(NonFiniteLossError, match="update 6 in a row to skip"):
        train_stage(facts.layout, trunk)
    assert len(spool.read_rows(facts.layout.stage(trunk).path)) < 20


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


def test_disk_full_leaves_the_last_good_checkpoint(make_study, monkeypatch):
    facts = make_study("recipe.milestones=[2560]")
    trunk = next(iter(facts.plan.nodes))
    original = loop.save_state

    def full(state, directory, *rest):
        written = original(state, directory, *rest)
        if state.tokens > 2560:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written

    monkeypatch.setattr(loop, "save_state", full)
    with pytest.raises(ckpt.DiskFullError, match=r"needs \d+\.\d MB and \d+\.\d MB are free"):
        train_stage(facts.layout, trunk)
    stage_dir = facts.layout.stage(trunk)
    [good] = stage_dir.list_checkpoints()
    assert ckpt.verify(good)["tokens"] == 2560
    assert sorted(path.name for path in stage_dir.checkpoints.iterdir()) == [good.name]
    monkeypatch.undo()
    train_stage(facts.layout, trunk)
    assert sorted(checkpoints_by_tokens(stage_dir)) == [2560, 8192]


def test_a_file_system_that_refuses_is_disk_full(make_study):
    """A real refusal in the middle of a file, by the limit on a file's size."""
    facts = make_study("recipe.milestones=[2560]")
    trunk = next(iter(facts.plan.nodes))
    train_stage(facts.layout, trunk, wanted=[2560])
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from workbench.study.layout import Layout; from workbench.train.whole_stage import train_stage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "train_stage(Layout(Path(sys.argv[1])), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(facts.layout.root), trunk]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert re.search(r"DiskFullError: no room for checkpoint .*it needs \d+\.\d MB", run.stderr), run.stderr
    [good] = facts.layout.stage(trunk).list_checkpoints()
    assert ckpt.verify(good)["tokens"] == 2560
    train_stage(facts.layout, trunk)
    assert sorted(checkpoints_by_tokens(facts.layout.stage(trunk))) == [2560, 8192]


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


def test_too_little_room_is_found_before_writing(make_study, monkeypatch):
    facts = make_study()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ckpt.DiskFullError, match=r"0\.0 MB are free"):
        train_stage(facts.layout, next(iter(facts.plan.nodes)))


def test_spare_checkpoints_go_and_needed_ones_stay(make_study):
    facts = make_study("checkpoint.interval_seconds=1e-9", "checkpoint.keep_last=2", "recipe.milestones=[2560]")
    trunk = next(iter(facts.plan.nodes))
    with pytest.raises(StoppedError):
        train_stage(facts.layout, trunk, stop_after(20))
    assert sorted(checkpoints_by_tokens(facts.layout.stage(trunk))) == [2560, 19 * 256, 20 * 256]
    train_stage(facts.layout, trunk)
    assert {2560, 8192} <= set(checkpoints_by_tokens(facts.layout.stage(trunk)))


def test_a_later_study_never_loses_an_earlier_ones_milestones(make_study):
    train_all(make_study("recipe.milestones=[2560,5120]"))
    facts = make_study("tokens=40960", "checkpoint.interval_seconds=1e-9", "checkpoint.keep_last=1")
    train_all(facts)
    trunk = next(iter(facts.plan.nodes))
    assert {2560, 5120, 8192} <= set(checkpoints_by_tokens(facts.layout.stage(trunk)))


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
