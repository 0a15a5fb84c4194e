"""Claims: taken once, found again, never removed by somebody else."""

import json
import multiprocessing
import shutil
from dataclasses import replace

import pytest

from workbench.launch.slurm import claim as claims
from workbench.launch.slurm.claim import Claim
from workbench.launch.slurm.commands import JobState
from workbench.study.layout import Layout

CLAIM = Claim("train", "8192", "a" * 16, (4096, 8192), "wb-1", 3, "small")


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path)


def test_a_claim_is_taken_once_and_read_back(layout):
    assert claims.take(layout, CLAIM)
    assert not claims.take(layout, replace(CLAIM, token="wb-2"))
    [found] = claims.list_claims(layout, [CLAIM.stage], "small")
    assert (found.token, found.targets, found.index, found.job) == ("wb-1", (4096, 8192), 3, None)
    assert found.pid
    assert claims.set_job(layout, found, "7_3").job == "7_3"
    assert claims.read(claims.path_of(layout, CLAIM)).job == "7_3"


def take_many(root, token, queue):
    layout = Layout(root)
    queue.put([claims.take(layout, replace(CLAIM, name=str(n), token=token)) for n in range(200)])


def test_of_several_takers_one_wins(layout, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=take_many, args=(tmp_path, f"wb-{n}", queue)) for n in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [sum(taken) for taken in zip(*results, strict=True)] == [1] * 200


def test_a_release_leaves_what_somebody_else_has_claimed_since(layout):
    claims.take(layout, CLAIM)
    claims.release(layout, replace(CLAIM, token="wb-2"))
    assert claims.read(claims.path_of(layout, CLAIM)) is not None
    claims.release(layout, CLAIM)
    assert claims.read(claims.path_of(layout, CLAIM)) is None
    claims.release(layout, CLAIM)


def test_a_job_is_found_by_its_comment_and_index(layout):
    queue = {
        job.id: job
        for job in (
            JobState("7_2", "PENDING", "", "wb-1"),
            JobState("7_3", "RUNNING", "", "wb-1"),
            JobState("8", "RUNNING"),
        )
    }
    assert claims.find_job(CLAIM, queue) == "7_3"
    assert claims.find_job(replace(CLAIM, index=0), {"9": JobState("9", "PENDING", "", "wb-1")}) == "9"
    assert claims.find_job(replace(CLAIM, token="wb-9"), queue) is None


def test_a_young_claim_without_a_job_is_not_judged(layout):
    claims.take(layout, CLAIM)
    path = claims.path_of(layout, CLAIM)
    young = claims.read(path)
    assert claims.is_settling(young, None)
    assert not claims.is_settling(young, "7_3")
    path.write_text(json.dumps({**json.loads(path.read_text()), "time": 1.0}))
    assert not claims.is_settling(claims.read(path), None)


def test_a_half_written_claim_is_none(layout):
    path = claims.path_of(layout, CLAIM)
    path.parent.mkdir(parents=True)
    path.write_text('{"kind": "tra')
    assert claims.read(path) is None
    assert claims.list_claims(layout, [CLAIM.stage], "small") == []


@pytest.mark.parametrize(
    ("state", "live"), [("PENDING", True), ("RUNNING", True), ("FAILED", False), ("UNKNOWN", False)]
)
def test_only_a_job_that_slurm_has_is_live(state, live):
    assert claims.is_live(CLAIM, JobState("7", state)) is live
    assert not claims.is_live(CLAIM, None)


def test_claims_are_found_without_looking_through_all_stages(tmp_path, monkeypatch):
    layout = Layout(tmp_path)
    gone = replace(CLAIM, stage="f" * 16)
    others = replace(CLAIM, stage="e" * 16, study="other")
    for claim in (CLAIM, gone, others):
        assert claims.take(layout, claim)
    monkeypatch.setattr(claims, "_found_stages", lambda *_: pytest.fail("looked through all stages"))
    found = claims.list_claims(layout, [CLAIM.stage], "small")
    assert [claim.stage for claim in found] == [CLAIM.stage, gone.stage]
    assert [claim.stage for claim in claims.list_claims(layout, [others.stage], "small")][-1] == others.stage


def test_claims_of_launches_that_noted_nothing_are_found(tmp_path):
    layout = Layout(tmp_path)
    old = replace(CLAIM, stage="f" * 16)
    claims.take(layout, old)
    shutil.rmtree(layout.study("small") / "claimed")
    assert [claim.stage for claim in claims.list_claims(layout, [], "small")] == [old.stage]
    claims.take(layout, CLAIM)
    assert {path.name for path in (layout.study("small") / "claimed").iterdir()} == {old.stage, CLAIM.stage}
    assert {claim.stage for claim in claims.list_claims(layout, [], "small")} == {old.stage, CLAIM.stage}
