"""A corpus made by two nodes, one of which dies in the middle, has the bytes of one that was made here."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from pathlib import Path

import pytest
from warm_commands import run_command

from workbench.config.compose import composer
from workbench.data.corpus.pipeline import building_folder
from workbench.data.store import prepare
from workbench.forecast.study_facts import make_facts, stores
from workbench.study.layout import Layout

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]  # patience for a slow and shared machine

SLURM = ("hydra/launcher=slurm", "cluster=slurm_demo", "cluster.prepare_cpus=3", "cluster.prepare_jobs=2")
"""Three of a node's four cores: both jobs do not fit on one node."""


@pytest.fixture(name="settings")
def fixture_settings(tmp_path: Path) -> list[str]:
    """Settings of a study of a corpus of some hundred small tasks."""
    draw = random.Random(5)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(3000)]
    for number in range(3):
        texts = ("\n".join(" ".join(draw.choices(words, k=12)) for _ in range(9)) for _ in range(500))
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return [
        "study=corpus",
        "data=jsonl",
        f"data.sources.text.path={tmp_path}/*.jsonl",
        "data.sources.text.heldout_bytes=20000",
        "data.corpus={shard_bytes: 40000}",
        "tokenizer.vocab_size=300",
        "tokenizer.train_bytes=300000",
        "evaluation=none",
        "tokens=200000",
    ]


def hash_store(directory: Path) -> dict[str, str]:
    """Hash every file; of the manifest all but the seconds."""
    files = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}
    manifest = json.loads(files.pop("manifest.json").read_text())
    del manifest["seconds"]
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return {**hashes, "manifest": json.dumps(manifest, sort_keys=True)}


def wait_until(ready, what, seconds=600, pause=0.05):
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, what()
        time.sleep(pause)


def wait_for_queue(slurm, what):
    """Wait until no job is left: asking Slurm takes a hundredth of the processor time of asking `workbench status`."""
    wait_until(lambda: not slurm.run(["squeue", "--noheader"]).strip(), what, pause=0.5)


def test_two_nodes_of_which_one_is_killed(slurm, tmp_path, settings):
    outputs = tmp_path / "outputs"
    given = [*settings, f"paths.outputs={outputs}"]

    def workbench(*arguments):
        done = run_command(arguments, env=slurm.env, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with composer(None) as hydra:
        facts = make_facts([(point.name, point.config) for point in hydra.points(given)])
    [(fingerprint, config)] = stores(facts.plan).items()
    directory = Layout(outputs).data(fingerprint)
    records = building_folder(directory) / "records"

    def done():
        return len(list(records.rglob("*.json")))

    def story():
        logs = "\n".join(path.read_text() for path in outputs.glob("jobs/*/*_log.*"))
        return slurm.run(["squeue", "--array"]) + logs

    with slurm.drained():
        first = workbench("prepare", *given, *SLURM)
        assert "submitted: 2 jobs" in first
        again = workbench("run", *given, *SLURM)
        assert "submitted" not in again
        assert re.search(r"0 of \d+ tasks are done \(reading\); 0 jobs running, 2 queued", again)
        assert "the same command goes on afterwards" in again
    wait_until(lambda: done() >= 8, story)
    slurm.kill_node("n1")
    wait_until((directory / "manifest.json").is_file, story)
    slurm.clear()

    here = tmp_path / "here"
    prepare(config.data, config.tokenizer, Layout(here), workers=2)
    assert hash_store(directory) == hash_store(Layout(here).data(fingerprint))
    assert not building_folder(directory).exists()
    assert "is being made" not in workbench("status", f"paths.outputs={outputs}", *settings)


def prepare_cluster(slurm, outputs, given):
    """Give a runner of commands, the corpus's folder, and the number of its tasks that are done."""

    def workbench(*arguments, status=0):
        done = run_command(arguments, env=slurm.env, timeout=600)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    with composer(None) as hydra:
        facts = make_facts([(point.name, point.config) for point in hydra.points(given)])
    [fingerprint] = facts.plan.corpora
    directory = Layout(outputs).data(fingerprint)
    records = building_folder(directory) / "records"
    return workbench, directory, lambda: len(list(records.rglob("*.json")))


def row_of(workbench, given):
    """Give the corpus's row of `workbench status --json`, and those of the stages."""
    corpus, *stages = json.loads(workbench("status", "--json", *given))
    assert corpus["kind"] == "corpus"
    return corpus, stages


def test_cancelled_and_requeued_in_the_middle_the_same_command_goes_on(slurm, tmp_path, settings):
    outputs = tmp_path / "outputs"
    given = [*settings, f"paths.outputs={outputs}"]
    workbench, directory, done = prepare_cluster(slurm, outputs, given)

    def story():
        logs = "\n".join(path.read_text() for path in outputs.glob("jobs/*/*_log.*"))
        return slurm.run(["squeue", "--array"]) + logs

    first = workbench("prepare", *given, *SLURM)
    job = re.search(r"submitted: 2 jobs \((\d+)_0, \d+_1\)", first)[1]
    wait_until(lambda: done() >= 4, story)
    slurm.run(["scancel", job])
    wait_for_queue(slurm, story)
    wait_until(lambda: row_of(workbench, given)[0]["state"] == "cancelled", story)
    corpus, _ = row_of(workbench, given)
    assert re.fullmatch(rf"job {job}_\d was cancelled.*", corpus["note"])
    assert 4 <= corpus["tasks_done"] < corpus["tasks"]
    shown = workbench("status", *given)
    assert re.search(rf"{directory.name} +jsonl corpus +cancelled", shown)
    assert "launch again" in shown

    again = re.search(r"submitted: 2 jobs \((\d+)_0", workbench("prepare", *given, *SLURM))[1]
    before = done()
    wait_until(lambda: done() > before, story)
    slurm.run(["scontrol", "requeue", f"{again}_0"])
    wait_until((directory / "manifest.json").is_file, story)
    corpus, _ = row_of(workbench, given)
    assert (corpus["state"], corpus["note"]) == ("finished", None)
    slurm.run(["scancel", "--user", "root"])


def test_trainings_wait_for_the_jobs_that_make_their_corpus(slurm, tmp_path, settings):
    outputs = tmp_path / "outputs"
    given = [*settings, "tokens=20480", "model=m0_03", "model.num_layers=1", "model.context_tokens=32"]
    given += [
        "recipe.warmup_tokens=512",
        "recipe.batch_sequences=8",
        "tracking.publish=false",
        f"paths.outputs={outputs}",
    ]
    workbench, directory, _ = prepare_cluster(slurm, outputs, given)

    def story():
        logs = "\n".join(path.read_text() for path in outputs.glob("jobs/*/*_log.*"))
        return slurm.run(["squeue", "--array"]) + logs

    with slurm.drained():
        said = workbench("run", *given, *SLURM, "cluster.train_after_prepare=true")
        assert "submitted: 2 jobs" in said
        assert re.search(r"submitted: [1-9]\d* trainings", said)
        corpus, stages = row_of(workbench, given)
        assert (corpus["state"], len(corpus["jobs"])) == ("queued", 2)
        assert stages[0]["note"] == f"waits for its corpus {directory.name}"
        again = workbench("run", *given, *SLURM, "cluster.train_after_prepare=true")
        assert "submitted: 0 trainings" in again
        slurm.run(["scancel", corpus["jobs"][0]])
        # The other does its part, and the trainings wait for it.
        time.sleep(3)
        assert row_of(workbench, given)[1][0]["state"] == "queued"
    wait_for_queue(slurm, story)
    wait_until(
        lambda: all(row["state"] == "finished" for row in json.loads(workbench("status", "--json", *given))), story, 60
    )
