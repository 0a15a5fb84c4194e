"""Checkpoints as files: hashed as written, whole or of weights alone, and killed at every change of the file system."""

import hashlib
import json
import os
import shutil
import sys

import pytest

from workbench.study.layout import StageDir
from workbench.train import checkpoint as ckpt
from workbench.train.checkpoint import find_checkpoint, list_tokens, read_manifest, verify, write_checkpoint
from workbench.train.clearing import clear_leftovers
from workbench.train.weights_only import OPTIMIZER_DIR, OPTIMIZER_FILE, drop_optimizer, is_resumable

STEP, TOKENS = 7, 1792
LARGE = {"model.safetensors": b"weights" * 100}
MOMENTS = {
    "file": {OPTIMIZER_FILE: b"moments" * 200},
    "folder": {f"{OPTIMIZER_DIR}/shard-1": b"one" * 300, f"{OPTIMIZER_DIR}/shard-2": b"two" * 300},
}
SMALL = {"config.json": b"{}", "rng.safetensors": b"rng"}


class KilledError(BaseException):
    """The process is gone."""


class Killer:
    """Ends a process at its nth change of the file system, and lets it do nothing any more, as SIGKILL does."""

    CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.truncate")

    def __init__(self):
        self.left = None
        sys.addaudithook(self._hear)

    def _hear(self, event, arguments):
        if self.left is None:
            return
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in self.CHANGES:
            self.left -= 1
            if self.left < 0:
                raise KilledError(event)

    def run(self, function, changes):
        """Whether a function came to its end within so many changes."""
        self.left = changes
        try:
            function()
        except KilledError:
            return False
        finally:
            self.left = None
        return True


KILLER = Killer()


def killed_everywhere(prepare, function, check):
    """Kill a function at its first change, at its second, and so on; check what each death leaves. Number of deaths."""
    for changes in range(1000):
        prepare()
        ended = KILLER.run(function, changes)
        check()
        if ended:
            return changes
    raise AssertionError("it never ends")


def facts_of(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write(stage_dir, large, say=lambda text: None, step=STEP):
    def write_files(folder):
        put(folder, {**large, **SMALL})
        return {name: facts_of(content) for name, content in large.items()}

    manifest = {"step": step, "tokens": step * 256, "numerics": {}}
    return write_checkpoint(stage_dir, step, write_files, manifest, keep=True, needed_bytes=1, say=say)


@pytest.fixture
def stage_dir(tmp_path):
    return StageDir(tmp_path / "stage")


def clear(stage_dir):
    """Begin again without any checkpoint."""
    shutil.rmtree(stage_dir.checkpoints, ignore_errors=True)
    stage_dir.checkpoints.mkdir(parents=True)


def drop(checkpoint):
    drop_optimizer(checkpoint, read_manifest(checkpoint))


def names(checkpoint):
    files = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    return files - {"keep", "manifest.json"}


def test_the_manifest_has_what_was_hashed_on_the_way_and_what_was_not(stage_dir, monkeypatch):
    read = []
    monkeypatch.setattr(ckpt, "sha256", lambda path: read.append(path.name) or facts_of(path.read_bytes())["sha256"])
    checkpoint = write(stage_dir, {**LARGE, **MOMENTS["folder"]})
    assert sorted(read) == sorted(SMALL)  # the large files are not read again
    assert set(verify(checkpoint)["files"]) == {*LARGE, *MOMENTS["folder"], *SMALL}


@pytest.mark.parametrize("kind", MOMENTS)
def test_a_writer_killed_anywhere_leaves_a_checkpoint_or_none(stage_dir, kind):
    def check():
        for path in stage_dir.list_checkpoints():
            assert set(verify(path)["files"]) == {*LARGE, *MOMENTS[kind], *SMALL}
        clear_leftovers(stage_dir)
        write(stage_dir, {**LARGE, **MOMENTS[kind]})
        assert [path.name for path in stage_dir.checkpoints.iterdir()] == [f"step_{STEP:08d}"]

    deaths = killed_everywhere(lambda: clear(stage_dir), lambda: write(stage_dir, {**LARGE, **MOMENTS[kind]}), check)
    assert deaths >= len({**LARGE, **MOMENTS[kind], **SMALL}) + 3  # a folder, each file, manifest, keep and a name


@pytest.mark.parametrize("kind", MOMENTS)
def test_dropping_the_optimizer_killed_anywhere(stage_dir, kind):
    """Whole or of weights alone, and whichever it says it is, its files are there and match."""
    seen = set()

    def prepare():
        clear(stage_dir)
        write(stage_dir, {**LARGE, **MOMENTS[kind]})
        put(stage_dir.checkpoint(STEP), {"evals/suite.json": b"scores"})

    def check():
        checkpoint = stage_dir.checkpoint(STEP)
        whole = is_resumable(verify(checkpoint))
        seen.add((whole, bool(names(checkpoint) & set(MOMENTS[kind]))))
        assert (find_checkpoint(stage_dir, TOKENS, resumable=True) == checkpoint) == whole
        assert find_checkpoint(stage_dir, TOKENS) == checkpoint
        clear_leftovers(stage_dir)  # as the next process does
        if is_resumable(read_manifest(checkpoint)):
            drop(checkpoint)
        assert set(verify(checkpoint)["files"]) == {*LARGE, *SMALL}
        assert names(checkpoint) == {*LARGE, *SMALL, "evals/suite.json"}

    assert killed_everywhere(prepare, lambda: drop(stage_dir.checkpoint(STEP)), check) >= 3
    assert seen == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.parametrize("before", MOMENTS)
def test_training_again_gives_the_optimizer_back_killed_anywhere(stage_dir, kind, before):
    seen = set()

    def prepare():
        clear(stage_dir)
        drop(write(stage_dir, {**LARGE, **MOMENTS[before]}))
        put(stage_dir.checkpoint(STEP), {"evals/suite.json": b"scores"})

    def check():
        checkpoint = stage_dir.checkpoint(STEP)
        seen.add(is_resumable(verify(checkpoint)))
        write(stage_dir, {**LARGE, **MOMENTS[kind]})
        assert is_resumable(verify(checkpoint))
        clear_leftovers(stage_dir)
        assert names(checkpoint) == {*LARGE, *MOMENTS[kind], *SMALL, "evals/suite.json"}
        assert [path.name for path in stage_dir.checkpoints.iterdir()] == [checkpoint.name]

    killed_everywhere(prepare, lambda: write(stage_dir, {**LARGE, **MOMENTS[kind]}), check)
    assert seen == {True, False}


def test_other_weights_are_never_mixed_with_those_kept_killed_anywhere(stage_dir):
    """As where the machine computes other last bits: the old ones go aside with their scores, whole."""
    other = {"model.safetensors": b"WEIGHTS" * 100, **MOMENTS["file"]}
    said = []

    def prepare():
        clear(stage_dir)
        drop(write(stage_dir, {**LARGE, **MOMENTS["file"]}))
        put(stage_dir.checkpoint(STEP), {"evals/suite.json": b"scores"})

    def check():
        for path in stage_dir.checkpoints.glob("step_*"):
            manifest = verify(path)
            assert is_resumable(manifest) == (
                manifest["files"]["model.safetensors"] == facts_of(other["model.safetensors"])
            )
        clear_leftovers(stage_dir)
        write(stage_dir, other)
        [place, aside] = sorted(stage_dir.checkpoints.iterdir())
        assert is_resumable(verify(place))
        assert (place / "keep").exists()
        assert not is_resumable(verify(aside))
        assert (aside / "evals" / "suite.json").read_bytes() == b"scores"
        assert ckpt.durable_step(stage_dir, 0) == STEP

    killed_everywhere(prepare, lambda: write(stage_dir, other, said.append), check)
    assert (
        said[-1] == "step_00000007 was trained again and its weights differ from those kept, now step_00000007.replaced"
    )


def test_a_whole_checkpoint_is_not_written_again(stage_dir):
    write(stage_dir, {**LARGE, **MOMENTS["file"]})
    before = (stage_dir.checkpoint(STEP) / "manifest.json").read_bytes()
    write(stage_dir, {"model.safetensors": b"other", **MOMENTS["file"]})
    assert (stage_dir.checkpoint(STEP) / "manifest.json").read_bytes() == before


def test_a_manifest_from_before_is_of_a_whole_checkpoint(stage_dir):
    checkpoint = write(stage_dir, {**LARGE, **MOMENTS["file"]})
    assert "weights_only" not in json.loads((checkpoint / "manifest.json").read_text())
    assert list_tokens(stage_dir) == ({TOKENS}, set())
    drop(checkpoint)
    assert list_tokens(stage_dir) == ({TOKENS}, {TOKENS})
