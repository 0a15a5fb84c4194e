"""Several processes of one stage of which one is killed, fails or finds something amiss: all end, and no bit is lost."""

import json
import shutil

import pytest
from trunks import STEPS, TOKENS, Trunk, assert_same

from workbench.train import checkpoint as ckpt


@pytest.fixture
def fresh(fresh):
    """The same study under other outputs: call it and get its trunk."""
    return lambda name, *more: Trunk(fresh(name, *TOKENS, *more))


def test_processes_that_make_no_whole_groups_are_refused(fresh):
    trunk = fresh("trunk", "numerics.parallel=hybrid", "numerics.shard_processes=3")
    ended = trunk.train(4)
    assert [each.error for each in ended] == ["ValueError"] * 4
    assert "numerics.shard_processes=3 does not divide the 4 processes: set one that does, or null" in ended[0].text


@pytest.mark.parametrize(("rank", "parallel"), [(0, "replicate"), (1, "shard")])
def test_a_killed_process_ends_the_other_and_costs_no_bit(fresh, rank, parallel):
    settings = (f"numerics.parallel={parallel}", "checkpoint.interval_seconds=0.1")
    untouched = fresh("untouched", *settings).finish(2)
    harmed = fresh("harmed", *settings)
    ended = harmed.train(2, {rank: {"kill_after": 23}})
    killed, other = ended[rank], ended[1 - rank]
    assert killed.exit_code == -9
    assert other.exit_code == 1
    assert other.error not in ("hung", "died")
    assert harmed.dir.list_checkpoints()
    assert_same(untouched, harmed.finish(2))


@pytest.mark.parametrize("rank", [0, 1])
def test_what_fails_on_one_process_is_said_by_all(fresh, rank):
    failing = fresh("failing", "numerics.parallel=shard")
    ended = failing.train(2, {rank: {"fail_after": 15}})
    assert [each.error for each in ended] == ["OSError"] * 2
    assert all("out of luck" in each.text for each in ended)
    assert json.loads(failing.dir.status.read_text())["state"] == "failed"
    assert failing.finish(2).rows()[-1]["step"] == STEPS


@pytest.mark.parametrize("rank", [0, 1])
def test_no_room_on_one_process_ends_all_and_the_checkpoints_before_stand(fresh, rank):
    full = fresh("full", "numerics.parallel=shard")
    full.train(2, stop_after=5)
    good = full.last()
    ended = full.train(2, {rank: {"largest_file_bytes": 100_000}})
    assert [each.error for each in ended] == ["DiskFullError"] * 2, ended
    assert [path.name for path in full.dir.checkpoints.iterdir()] == [good.name]
    assert ckpt.verify(good)["step"] == 5
    assert full.finish(2).rows()[-1]["step"] == STEPS


def test_a_damaged_share_is_named_and_the_checkpoint_before_used(fresh):
    untouched = fresh("untouched", "numerics.parallel=shard").finish(2)
    damaged = fresh("damaged", "numerics.parallel=shard")
    for steps in (7, 7):
        damaged.train(2, stop_after=steps)
    [*_, share] = sorted((damaged.last() / "optimizer").iterdir())
    share.write_bytes(share.read_bytes()[:-8] + bytes(8))
    ended = damaged.train(2)
    assert [each.exit_code for each in ended] == [0, 0]
    assert any(f"step_00000014: optimizer/{share.name} does not match" in line for line in ended[0].result)
    assert ended[1].result == []
    assert_same(untouched, damaged)


def test_data_missing_on_one_process_ends_all(fresh, tmp_path):
    trunk = fresh("trunk")
    (tmp_path / "empty" / "stages").mkdir(parents=True)
    shutil.copytree(trunk.dir.path, tmp_path / "empty" / "stages" / trunk.node.id)
    ended = trunk.train(2, {1: {"root": tmp_path / "empty"}})
    assert ended[0].error == ended[1].error == "ValueError"
    assert str(tmp_path / "empty" / "data") in ended[0].text


def test_a_batch_that_does_not_divide_is_refused_by_all(fresh):
    ended = fresh("trunk").train(3)
    assert [each.error for each in ended] == ["ValueError"] * 3
    assert "a global batch of 8 sequences does not divide by 3 processes" in ended[2].text
