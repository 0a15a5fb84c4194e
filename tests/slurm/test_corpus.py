"""A corpus made by two nodes, one of which dies in the middle, has the bytes of one that was made here."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.config.compose import composer
from workbench.data.corpus.pipeline import building_folder
from workbench.data.store import prepare
from workbench.forecast.study_facts import make_facts, stores
from workbench.study.layout import Layout

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

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


def wait_until(ready, what, seconds=90):
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, what()
        time.sleep(0.05)


def test_two_nodes_of_which_one_is_killed(slurm, tmp_path, settings):
    outputs = tmp_path / "outputs"
    given = [*settings, f"paths.outputs={outputs}"]

    def workbench(*arguments):
        command = [sys.executable, "-m", "workbench.cli", *arguments]
        done = subprocess.run(command, env=slurm.env, capture_output=True, text=True, timeout=120, check=False)
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
    wait_until((directory / "manifest.json").is_file, story, 150)
    slurm.clear()

    here = tmp_path / "here"
    prepare(config.data, config.tokenizer, Layout(here), workers=2)
    assert hash_store(directory) == hash_store(Layout(here).data(fingerprint))
    assert not building_folder(directory).exists()
    assert "is being made" not in workbench("status", f"paths.outputs={outputs}", *settings)
