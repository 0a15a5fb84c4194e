"""Checkpoints written beside the training: the same files, in order, told when they are durable, and killed anywhere."""

import errno
import json
import random
import threading
from dataclasses import replace

import pytest
from safetensors import safe_open
from training_processes import fail_alone_while_writing, start, train

from workbench.config.schema import CheckpointConfig
from workbench.study.checkpoint_copies import copied_bytes, writes_beside
from workbench.study.kind_plan import checkpoint_bytes
from workbench.study.resources import stage_memory
from workbench.tracking import spool
from workbench.train import checkpoint as ckpt
from workbench.train import loop, saving
from workbench.train.attempt_status import read_status
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.hooks import Hooks, StoppedError
from workbench.train.whole_stage import train_stage

BESIDE = "checkpoint.writes=background"
OFTEN = "checkpoint.interval_seconds=1e-9"
MILESTONES = "recipe.milestones=[1024,2560,5120]"
KILLS = 25
PATIENCE_SECONDS = 60


@pytest.fixture
def fresh(make_study, outputs):
    """The same study under other outputs: call it and get the layout and its trunk's id."""

    def make(name, *more):
        root = outputs.parent / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        facts = make_study(f"paths.outputs={root}", MILESTONES, *more)
        return facts.layout, next(node.id for node in facts.plan.nodes.values() if node.stage.parent is None)

    return make


@pytest.fixture
def slowly(monkeypatch):
    """Have each write of a checkpoint wait for an event, until `open_` is called; steps that were begun to be written."""

    class Gate:
        def __init__(self):
            self.event, self.begun, self.ended = threading.Event(), [], []

        def write(self, stage_dir, step, *values, **settings):
            self.begun.append(step)
            assert self.event.wait(PATIENCE_SECONDS)
            path = original(stage_dir, step, *values, **settings)
            self.ended.append(step)
            return path

    original, gate = ckpt.write_checkpoint, Gate()
    monkeypatch.setattr(ckpt, "write_checkpoint", gate.write)
    return gate


def files_of(stage_dir):
    """Contents of every file of every checkpoint, but for the times in the manifests.

    Of shares of an optimizer's state, whose headers the library writes in an order that changes from start to start
    of a process, the numbers.
    """
    found = {}
    for tokens, checkpoint in checkpoints_by_tokens(stage_dir).items():
        manifest = ckpt.verify(checkpoint)
        manifest["files"] = {name: facts for name, facts in manifest["files"].items() if "optimizer/" not in name}
        found[tokens, "manifest"] = {k: v for k, v in manifest.items() if k not in ("time", "pid")}
        for path in checkpoint.rglob("*"):
            if path.is_dir() or path.name == ckpt.MANIFEST:
                continue
            name = str(path.relative_to(checkpoint))
            found[tokens, name] = numbers(path) if name.startswith("optimizer/") else path.read_bytes()
    return found


def numbers(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {key: file.get_tensor(key).numpy().tobytes() for key in sorted(file.keys())}


def rows_of(stage_dir):
    return [{k: v for k, v in row.items() if k not in spool.WALL_CLOCK} for row in spool.read_rows(stage_dir.path)]


def assert_same(ours, theirs):
    """Byte for byte the same checkpoints, and the same rows."""
    mine, its = files_of(ours), files_of(theirs)
    assert mine.keys() == its.keys()
    assert [name for name in mine if mine[name] != its[name]] == []
    assert rows_of(ours) == rows_of(theirs)


def writers():
    return [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["precision=bf16", "model.tie_embeddings=true"],
        ["optimizer=muon", "optimizer.learning_rate=0.01"],
    ],
)
def test_files_are_the_same_byte_for_byte(fresh, settings):
    stages = []
    for way in ("inline", "background"):
        layout, trunk = fresh(way, f"checkpoint.writes={way}", *settings)
        train_stage(layout, trunk)
        stages.append(layout.stage(trunk))
    assert len(checkpoints_by_tokens(stages[0])) == 4
    assert_same(*stages)


def test_every_step_may_have_one_and_stopping_changes_no_bit(fresh):
    layout, trunk = fresh("untouched", "checkpoint.writes=inline")
    train_stage(layout, trunk)
    stopped, _ = fresh("stopped", BESIDE, OFTEN)
    for steps in (1, 3, 9, 8):
        seen = []
        with pytest.raises(StoppedError):
            train_stage(stopped, trunk, Hooks(should_stop=lambda: seen.append(1) or len(seen) >= steps))  # noqa: B023
        assert not writers()
    train_stage(stopped, trunk)
    assert_same(layout.stage(trunk), stopped.stage(trunk))


def test_training_goes_on_and_nothing_is_told_before_it_is_durable(fresh, slowly):
    layout, trunk = fresh("slow", BESIDE)
    stage_dir, told, states = layout.stage(trunk), [], []

    def on_progress(progress):
        if progress.step == 9:  # five steps after the milestone, one before the next
            assert slowly.begun == [4]
            states.append((checkpoints_by_tokens(stage_dir), read_status(stage_dir)["step"], list(told)))
            slowly.event.set()

    hooks = Hooks(on_progress=on_progress, on_checkpoint=lambda path: told.append(ckpt.read_manifest(path)["step"]))
    train_stage(layout, trunk, hooks)
    assert states == [({}, None, [])]
    assert slowly.begun == slowly.ended == told == [4, 10, 20, 32]
    assert read_status(stage_dir)["state"] == "finished"
    assert not writers()


def test_the_next_one_waits_for_the_one_before(fresh, slowly, monkeypatch):
    """One at a time, in order; and the copy of a step is what that step had."""
    layout, trunk = fresh("slow", BESIDE)
    waited = []

    def settle():
        if slowly.begun and not slowly.event.is_set():
            waited.append(list(slowly.begun))
            threading.Timer(0.2, slowly.event.set).start()

    original = loop.StageRun.snapshot
    together = saving.CheckpointWriter.settle
    monkeypatch.setattr(saving.CheckpointWriter, "settle", lambda self: (settle(), together(self))[1])
    copied = []
    monkeypatch.setattr(
        loop.StageRun, "snapshot", lambda self, state: copied.append(list(slowly.ended)) or original(self, state)
    )
    train_stage(layout, trunk)
    assert waited == [[4]]
    assert copied == [[], [4], [4, 10], [4, 10, 20]]  # nothing is copied over what is still being written


@pytest.mark.parametrize("way", ["inline", "background"])
def test_a_stop_at_a_milestone_writes_it_once_and_nothing_else(fresh, monkeypatch, way):
    """In a grace period there is no time for another step and its checkpoint."""
    layout, trunk = fresh(way, f"checkpoint.writes={way}")
    original, begun, steps = ckpt.write_checkpoint, [], []

    def write(stage_dir, step, *values, **settings):
        begun.append(step)
        return original(stage_dir, step, *values, **settings)

    monkeypatch.setattr(ckpt, "write_checkpoint", write)
    hooks = Hooks(on_progress=lambda progress: steps.append(progress.step), should_stop=lambda: len(steps) >= 4)
    with pytest.raises(StoppedError, match="stopped at step 4"):
        train_stage(layout, trunk, hooks)
    assert (begun, steps[-1]) == ([4], 4)
    [(tokens, path)] = checkpoints_by_tokens(layout.stage(trunk)).items()
    assert tokens == 1024
    assert (path / ckpt.KEEP).exists()
    assert not writers()


def test_a_stop_while_one_is_written_takes_both_writes_and_tells_what_each_took(fresh, slowly):
    """What is to be written now is never what is being written, which a step ago at least was begun."""
    layout, trunk = fresh("slow", BESIDE)
    seconds, steps = [], []

    def should_stop():
        if len(steps) == 5:
            threading.Timer(0.3, slowly.event.set).start()
        return len(steps) >= 5

    hooks = Hooks(on_progress=steps.append, should_stop=should_stop, on_written=seconds.append)
    with pytest.raises(StoppedError, match="stopped at step 5"):
        train_stage(layout, trunk, hooks)
    assert slowly.begun == slowly.ended == [4, 5]
    assert len(seconds) == 2
    assert seconds[0] >= 0.3
    assert seconds[1] > 0


def test_a_full_disk_is_said_at_the_next_step(fresh, monkeypatch):
    layout, trunk = fresh("full", BESIDE)
    original, failed = loop.save_state, threading.Event()

    def full(snapshot, *rest):
        if snapshot.tokens > 1024:
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(snapshot, *rest)

    def on_progress(progress):
        if progress.step == 11:
            assert failed.wait(PATIENCE_SECONDS)
            for thread in writers():
                thread.join()

    monkeypatch.setattr(loop, "save_state", full)
    with pytest.raises(ckpt.DiskFullError, match=r"step_00000010: it needs \d+\.\d MB and \d+\.\d MB are free"):
        train_stage(layout, trunk, Hooks(on_progress=on_progress))
    stage_dir = layout.stage(trunk)
    assert rows_of(stage_dir)[-1]["step"] == 11
    assert [path.name for path in stage_dir.checkpoints.iterdir()] == ["step_00000004"]
    assert read_status(stage_dir)["state"] == "failed"
    assert not writers()
    monkeypatch.undo()
    train_stage(layout, trunk)
    assert sorted(checkpoints_by_tokens(stage_dir)) == [1024, 2560, 5120, 8192]


def test_a_training_that_fails_leaves_what_was_under_way(fresh, slowly):
    layout, trunk = fresh("failing", BESIDE)

    def on_progress(progress):
        if progress.step == 6:
            threading.Timer(0.2, slowly.event.set).start()
            raise OSError("out of luck")

    with pytest.raises(OSError, match="out of luck"):
        train_stage(layout, trunk, Hooks(on_progress=on_progress))
    assert not writers()
    assert sorted(checkpoints_by_tokens(layout.stage(trunk))) == [1024]


@pytest.mark.slow
def test_killed_while_it_writes_many_times(fresh):
    """SIGKILL at random moments of a training that writes all the time: what is there is whole, and no bit changes."""
    layout, trunk = fresh("untouched", "checkpoint.writes=inline")
    train_stage(layout, trunk)
    killed, _ = fresh("killed", BESIDE, OFTEN)
    stage_dir, rng, kills, halves = killed.stage(trunk), random.Random(6), 0, 0
    while kills < KILLS:
        within = rng.uniform(0.0, 0.25)
        [ended] = start(1, train, root=killed.root, stage=trunk, kill_within=within, fsync_seconds=0.01)
        kills += ended.exit_code == -9
        assert ended.error in ("died", ""), ended.text
        halves += bool(list(stage_dir.checkpoints.glob(".step_*.partial")))
        for checkpoint in stage_dir.list_checkpoints():
            ckpt.verify(checkpoint)
        if ended.exit_code == 0:  # it came to its end: again from the first milestone
            for tokens, checkpoint in checkpoints_by_tokens(stage_dir).items():
                if tokens > 1024:
                    checkpoint.rename(killed.root / f"{kills}-{tokens}")
    train_stage(killed, trunk)
    assert_same(layout.stage(trunk), stage_dir)
    assert halves >= KILLS // 3


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_several_processes_write_the_same_files_beside(fresh, parallel):
    stages = []
    for way in ("inline", "background"):
        layout, trunk = fresh(way, f"checkpoint.writes={way}", f"numerics.parallel={parallel}")
        ended = start(2, train, root=layout.root, stage=trunk)
        assert [each.text for each in ended] == ["", ""]
        stages.append(layout.stage(trunk))
    assert_same(*stages)


def test_nobody_waits_for_a_writer_that_failed_alone():
    for ended in start(2, fail_alone_while_writing):
        settled, closed, seconds = ended.result
        assert settled == ("KeyError", "'not a matter of files'")
        assert closed == ("", "")
        assert seconds < 20  # a collective would wait for 60


@pytest.mark.parametrize(("rank", "parallel"), [(0, "replicate"), (1, "shard")])
def test_a_killed_process_costs_no_bit(fresh, rank, parallel):
    settings = (BESIDE, OFTEN, f"numerics.parallel={parallel}")
    layout, trunk = fresh("untouched", *settings)
    assert [each.text for each in start(2, train, root=layout.root, stage=trunk)] == ["", ""]
    harmed, _ = fresh("harmed", *settings)
    for steps in (7, 9):
        ended = start(2, train, {rank: {"kill_after": steps}}, root=harmed.root, stage=trunk)
        assert ended[rank].exit_code == -9
        assert ended[1 - rank].exit_code == 1
        assert ended[1 - rank].error not in ("hung", "died")
    assert [each.text for each in start(2, train, root=harmed.root, stage=trunk)] == ["", ""]
    assert_same(layout.stage(trunk), harmed.stage(trunk))


@pytest.mark.parametrize("rank", [0, 1])
def test_no_room_on_one_process_is_said_by_all(fresh, rank):
    layout, trunk = fresh("full", BESIDE, "numerics.parallel=shard")
    start(2, train, root=layout.root, stage=trunk, stop_after=3)
    ended = start(2, train, {rank: {"largest_file_bytes": 100_000}}, root=layout.root, stage=trunk)
    assert [each.error for each in ended] == ["DiskFullError"] * 2, ended
    assert [path.name for path in layout.stage(trunk).checkpoints.iterdir()] == ["step_00000003"]
    assert json.loads(layout.stage(trunk).status.read_text())["error_class"] == "DiskFullError"
    assert [each.text for each in start(2, train, root=layout.root, stage=trunk)] == ["", ""]


def test_where_it_pays_and_what_the_copy_takes(make_study):
    stage = next(iter(make_study().plan.nodes.values())).stage
    whole = checkpoint_bytes(stage, whole=True)
    assert [writes_beside(stage, device) for device in ("cpu", "cuda")] == [False, True]
    asked, refused = (replace(stage, checkpoint=CheckpointConfig(writes=way)) for way in ("background", "inline"))
    assert stage_memory(asked, 1, None, "cpu").total - stage_memory(stage, 1, None, "cpu").total == whole
    assert stage_memory(asked, 1, None, "cuda") == stage_memory(refused, 1, None, "cuda")
    assert not writes_beside(refused, "cuda")
    assert copied_bytes(refused, 4, "cuda") == 0
    shared = replace(asked, numerics=replace(asked.numerics, parallel="shard"))
    assert copied_bytes(asked, 4, "cuda") == whole
    assert checkpoint_bytes(stage, whole=False) < copied_bytes(shared, 4, "cuda") < whole
    with pytest.raises(ValueError, match=r"checkpoint.writes='later'"):
        CheckpointConfig(writes="later")
