"""Pieces of kept logits: what of them is safe, what is left, and what becomes of one that is damaged or lost."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from taught_students import KEPT, files, finish, of_kind, rows
from training_processes import start, train

from workbench.config.plain import to_dict
from workbench.data.store import open_prepared
from workbench.forecast.estimate import kept_bytes, training_bytes
from workbench.forecast.study_facts import look
from workbench.kinds.logits import kept_logits
from workbench.kinds.logits.kept_logits import IDS, LOG_Q
from workbench.kinds.logits.plan import check, name_vocabulary
from workbench.launch.slurm.on_node import _TURNS, Job
from workbench.model.weights import WEIGHTS
from workbench.study.files import sha256
from workbench.train import checkpoint as ckpt
from workbench.train.weights_only import drop_optimizer
from workbench.train.whole_stage import train_stage


def test_turns_in_the_queue_that_end_between_two_checkpoints_are_progress(taught, tmp_path, monkeypatch):
    facts = taught("turns")
    [logits] = of_kind(facts, "logits")
    file = tmp_path / "batch.json"
    element = {"name": "kept", "stage": logits.id, "targets": logits.targets, "frozen": to_dict(logits.stage)}
    fixed = {"outputs": str(facts.layout.root), "kind": "train", "cluster": {"name": "none"}}
    file.write_text(json.dumps({**fixed, "elements": {"0": element}}))
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    job = Job(file)
    for _ in range(_TURNS + 2):
        assert start(1, train, root=facts.layout.root, stage=logits.id, stop_after=1)[0].error == "StoppedError"
        assert not facts.layout.stage(logits.id).list_checkpoints()
        assert not job._stands_still()
        assert not job._gained_nothing()
    start(1, train, root=facts.layout.root, stage=logits.id)
    assert not job._stands_still()
    assert [job._stands_still() for _ in range(_TURNS)] == [False] * (_TURNS - 1) + [True]


def flip(path):
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


@pytest.fixture
def extended(taught, make_study):
    """Logits and students at 2560 tokens, then logits at 5120 with another share: facts of both plans, and the bytes."""
    before = finish(taught("extended"))
    after = make_study(f"paths.outputs={before.layout.root}", *KEPT, "tokens=5120", "then.distill.alpha=0.7")
    [logits] = of_kind(after, "logits")
    train_stage(after.layout, logits.id, wanted=logits.targets)
    return before, after, files(after)


def test_a_damaged_piece_of_an_earlier_plan_is_made_again(extended):
    before, after, kept = extended
    [logits], student = of_kind(after, "logits"), of_kind(after, "distill")[0]
    [early] = {node.targets[0] for node in of_kind(before, "logits")} - set(logits.targets)
    folder = ckpt.find_checkpoint(after.layout.stage(logits.id), early)
    flip(folder / LOG_Q)
    with pytest.raises(ckpt.DamagedCheckpointError, match=LOG_Q):
        train_stage(after.layout, student.id, wanted=student.targets)
    again = look(after.plan)
    assert again.missing()[logits.id] == logits.targets
    train_stage(after.layout, logits.id, wanted=logits.targets)
    assert files(after) == kept
    assert not look(after.plan).missing()[logits.id]
    train_stage(after.layout, student.id, wanted=student.targets)
    assert rows(after)


def test_neighbours_that_are_lost_are_made_again_as_they_were_and_nothing_else(extended):
    _, after, kept = extended
    [logits] = of_kind(after, "logits")
    stage = after.layout.stage(logits.id)
    first, second, *rest = stage.list_checkpoints()
    for folder in (first, second):
        shutil.rmtree(folder)
    written = {folder: (folder / LOG_Q).stat().st_mtime_ns for folder in rest}
    assert start(1, train, root=after.layout.root, stage=logits.id, stop_after=3)[0].error == "StoppedError"
    train_stage(after.layout, logits.id, wanted=logits.targets)
    assert files(after) == kept
    assert {folder: (folder / LOG_Q).stat().st_mtime_ns for folder in rest} == written


def test_a_shorter_student_finds_its_logits_among_those_of_a_longer_one(taught, make_study):
    longer = taught("longer", "tokens=5120")
    [logits] = of_kind(longer, "logits")
    train_stage(longer.layout, logits.id)
    kept = files(longer)
    shorter = make_study(f"paths.outputs={longer.layout.root}", *KEPT, "tokens=2560")
    assert not shorter.missing()[logits.id]
    assert shorter.tokens_to_train()[logits.id] == 0
    finish(shorter)
    assert files(longer) == kept


def hashed(world, root, stage, stop_after=None):
    """Train on these ranks; by rank, which checkpoints' kept logits were hashed, in turns of no time."""
    found = []
    original = kept_logits.Verification.go_on

    def go_on(self, seconds):
        found.append(self._piece.stop)
        return original(self, 1e-9)

    kept_logits.Verification.go_on = go_on
    train(world, root, stage, stop_after=stop_after)
    return found


def test_only_what_a_student_reads_is_hashed_once_and_when_it_gets_there(taught):
    facts = taught("hashed", "checkpoint.interval_seconds=3600")
    [logits], [trunk, cooldown] = of_kind(facts, "logits"), of_kind(facts, "distill")
    train_stage(facts.layout, logits.id)
    root = facts.layout.root
    first, last = facts.layout.stage(logits.id).list_checkpoints()
    flip(last / LOG_Q)
    ended = start(2, hashed, root=root, stage=trunk.id)
    assert [each.error for each in ended] == [""] * 2, ended[0].text
    assert ended[0].result == [64, 64]  # each file once, and not those of the piece after
    assert ended[1].result == []
    flip(first / LOG_Q)
    ended = start(2, hashed, root=root, stage=cooldown.id)
    assert [each.error for each in ended] == ["DamagedCheckpointError"] * 2
    assert all(LOG_Q in each.text and last.name in each.text for each in ended)
    assert first.exists()
    train_stage(facts.layout, logits.id)
    [ended] = start(1, hashed, root=root, stage=cooldown.id)
    assert ended.error == "", ended.text
    assert ended.result == [80, 80]


def test_the_sizes_of_all_pieces_are_checked_before_the_first_step(taught):
    facts = taught("sizes", "then.distill.teacher.tokens=2560")
    [logits], student = of_kind(facts, "logits"), of_kind(facts, "distill")[0]
    train_stage(facts.layout, logits.id)
    [first, *_] = facts.layout.stage(logits.id).list_checkpoints()
    (first / LOG_Q).unlink()
    with pytest.raises(ckpt.DamagedCheckpointError, match="0 bytes"):
        train_stage(facts.layout, student.id)
    assert not rows(facts)


def test_the_disk_of_what_is_left_is_that_of_the_sequences_that_are_not_kept(taught, make_study):
    longer = ["tokens=2560,5120", "checkpoint.keep_last=3"]
    empty = taught("estimated", *longer)
    [logits] = of_kind(empty, "logits")
    per_token = 5 * (2 + 2)

    def left():
        """Bytes that the stage adds to the disk for good, and those that come and go."""
        found, others = look(empty.plan), look(empty.plan)
        others.left[logits.id] = 0
        others.existing[logits.id] = set(logits.targets)
        return kept_bytes(found) - kept_bytes(others), training_bytes(found, 9) - training_bytes(others, 9)

    assert left() == (5120 * per_token, 0)
    train_stage(empty.layout, logits.id, wanted=[2560])
    assert left() == (2560 * per_token, 0)
    assert start(1, train, root=empty.layout.root, stage=logits.id, stop_after=2)[0].error == "StoppedError"
    assert left() == ((2560 - 2 * 256) * per_token, 0)
    work = empty.layout.stage(logits.id).path / "logits"
    sizes = {path.name: path.stat().st_size for path in work.iterdir()}
    assert sizes[IDS] + sizes[LOG_Q] == 2 * 256 * per_token
    train_stage(empty.layout, logits.id)
    assert left() == (0, 0)
    [first, *_] = empty.layout.stage(logits.id).list_checkpoints()
    lost = sum((first / name).stat().st_size for name in (IDS, LOG_Q))
    shutil.rmtree(first)
    assert left() == (lost, 0)
    assert look(empty.plan).missing()[logits.id] == logits.targets


def retrain_teacher(facts):
    """Put other weights where the teacher's were, as a training on another machine would."""
    [logits] = of_kind(facts, "logits")
    read = logits.stage.inputs["teacher"]
    folder = ckpt.find_checkpoint(facts.layout.stage(read.stage), read.tokens)
    manifest, path = ckpt.read_manifest(folder), folder / WEIGHTS
    save_file({name: tensor * 1.01 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    manifest["files"][WEIGHTS] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_answers_of_two_teachers_are_not_mixed(taught):
    longer = ["tokens=2560,5120"]
    facts, anew = taught("retrained", *longer), taught("anew", *longer)
    [logits] = of_kind(facts, "logits")
    stage, goal = facts.layout.stage(logits.id), [logits.targets[1]]
    train_stage(facts.layout, logits.id, wanted=goal)
    assert len(stage.list_checkpoints()) == 2
    assert start(1, train, root=facts.layout.root, stage=logits.id, stop_after=2)[0].error == "StoppedError"
    for each in (facts, anew):
        retrain_teacher(each)
    train_stage(anew.layout, logits.id)
    [ended] = start(1, train, root=facts.layout.root, stage=logits.id)
    assert ended.error == "", ended.text
    assert sum("trained anew" in line for line in ended.result) == 2
    assert not any("goes on at sequence" in line for line in ended.result)
    assert files(facts) == files(anew)
    assert len(list(stage.checkpoints.glob("*.replaced"))) == 2


def test_pieces_that_were_mixed_before_do_not_count(taught):
    facts = taught("mixed")
    [logits] = of_kind(facts, "logits")
    train_stage(facts.layout, logits.id)
    kept = files(facts)
    [first, last] = facts.layout.stage(logits.id).list_checkpoints()
    manifest = ckpt.read_manifest(first)
    manifest["logits"]["teacher_files"][WEIGHTS]["sha256"] = "0" * 64
    (first / "manifest.json").write_text(json.dumps(manifest))
    assert look(facts.plan).missing()[logits.id] == logits.targets
    finish(facts)
    assert files(facts) == kept
    assert last.exists()


def test_only_the_weights_of_a_teacher_tell_it_from_another(taught):
    facts = taught("bare")
    [logits] = of_kind(facts, "logits")
    read = logits.stage.inputs["teacher"]
    folder = ckpt.find_checkpoint(facts.layout.stage(read.stage), read.tokens)
    train_stage(facts.layout, logits.id, wanted=logits.targets[:1])
    drop_optimizer(folder, ckpt.read_manifest(folder))
    [ended] = start(1, train, root=facts.layout.root, stage=logits.id)
    assert ended.error == "", ended.text
    assert not any("trained anew" in line for line in ended.result)


def test_a_teacher_from_outside_with_other_ids_than_the_data_is_not_asked(taught):
    facts = taught("ids")
    [logits] = of_kind(facts, "logits")
    check(replace(logits.stage, vocabulary=name_vocabulary(student_tokenizer(facts))), facts.layout)
    with pytest.raises(ValueError, match="another tokenizer than the data"):
        check(replace(logits.stage, vocabulary="others"), facts.layout)


def student_tokenizer(facts):
    [logits] = of_kind(facts, "logits")
    return open_prepared(facts.layout.data(logits.stage.data_fingerprint)).tokenizer_dir
