"""Jobs that make a corpus: how many, what is said of them, and what a worker does when its job is told to leave."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from workbench.config.schema import ClusterConfig, CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.data.corpus.pipeline import begin_corpus, building_folder
from workbench.data.corpus.task_counts import TaskCounts, count_begun
from workbench.data.fingerprint import data_fingerprint
from workbench.launch.slurm.claim import PREPARE, Claim, claim_path, list_corpus_claims, path_of, take
from workbench.launch.slurm.commands import JobState
from workbench.launch.slurm.corpus_jobs import Preparing, describe, free_places, preparing_resources
from workbench.launch.slurm.ledger import Entry, Ledger
from workbench.study.layout import Layout

CLUSTER = ClusterConfig("c", cpus_per_node=8, prepare_jobs=4)
COUNTS = TaskCounts(done=5, tasks=110, doing="reading", done_in_phase=5, tasks_in_phase=50, at_once=50)
FINGERPRINT = "0123456789abcdef"


@pytest.mark.parametrize(
    ("at_once", "live", "numbers", "cores"),
    [
        (50, [], [0, 1, 2, 3], 8),
        (50, [0, 2], [1, 3], 8),
        (50, [0, 1, 2, 3], [], 8),
        (9, [], [0, 1], 8),
        (9, [1], [0], 8),
        (3, [], [0], 3),
        (3, [7], [], 3),
        (0, [], [0], 1),
    ],
)
def test_only_as_many_workers_as_tasks(at_once, live, numbers, cores):
    assert free_places(replace(COUNTS, at_once=at_once), live, CLUSTER) == (numbers, cores)


def test_a_cluster_bounds_the_jobs():
    assert free_places(COUNTS, [], replace(CLUSTER, max_array_tasks=2)) == ([0, 1], 8)
    small = replace(CLUSTER, prepare_cpus=2, prepare_minutes=90, prepare_memory_bytes=10**9)
    assert free_places(COUNTS, [], small) == ([0, 1, 2, 3], 2)
    asked = preparing_resources(small, 2)
    assert (asked.cpus_per_process, asked.gpus_per_node, asked.minutes, asked.memory_bytes_per_node) == (
        2,
        0,
        90,
        10**9,
    )
    with pytest.raises(ValueError, match=r"cluster.prepare_cpus=9 is above cluster.cpus_per_node=8"):
        replace(CLUSTER, prepare_cpus=9)
    with pytest.raises(ValueError, match=r"is not below cluster.prepare_minutes=2: a job would be warned"):
        replace(CLUSTER, prepare_minutes=2)


def make_claim(number: int, job: str | None = None) -> Claim:
    return Claim(PREPARE, f"{FINGERPRINT}-{number}", "", (), f"wb-{number}", number, "study", job)


def test_claims_lie_with_the_data(tmp_path: Path):
    layout = Layout(tmp_path)
    one, two = make_claim(0), make_claim(1)
    assert take(layout, one)
    assert take(layout, two)
    assert not take(layout, replace(one, token="wb-9", study="other"))
    assert path_of(layout, one) == claim_path(layout, PREPARE, one.name, "", "another study")
    assert [claim.token for claim in list_corpus_claims(layout, [FINGERPRINT, "f" * 16])] == ["wb-0", "wb-1"]


def test_progress_in_one_line(tmp_path: Path):
    running = Entry(make_claim(0, "7_0"), JobState("7_0", "RUNNING"))
    queued = Entry(make_claim(1, "7_1"), JobState("7_1", "PENDING"))
    failed = Entry(make_claim(2, "7_2"), JobState("7_2", "FAILED"))
    layout = Layout(tmp_path)
    preparing = Preparing(FINGERPRINT, "web", COUNTS, Ledger((running, queued)))
    line = "data web is being made: 5 of 110 tasks are done (reading); 1 jobs running, 1 queued"
    assert describe(preparing, layout) == line
    (layout.batch("wb-2")).mkdir(parents=True)
    (layout.batch("wb-2") / "7_2_0_log.out").write_text("reading\nfailed: ValueError: a.jsonl, line 3\n")
    ended = describe(Preparing(FINGERPRINT, "web", COUNTS, Ledger((failed,))), layout)
    assert ended.startswith(
        "data web is not made yet: 5 of 110 tasks are done (reading); no job of it is queued or running"
    )
    assert ended.endswith("; job 7_2 FAILED: failed: ValueError: a.jsonl, line 3")


WORKER = """
import sys
from pathlib import Path
from workbench.launch.slurm.corpus_worker import make_corpus
from workbench.launch.slurm.interrupt import Interrupt
if __name__ == "__main__":
    interrupt = Interrupt(lambda: print("left", flush=True), 60.0)
    interrupt.listen()
    finished = make_corpus(Path(sys.argv[1]), 2, interrupt, print)
    print(finished, interrupt.requeue, flush=True)
"""


def test_a_worker_gives_up_its_tasks_when_it_is_told_to(tmp_path: Path):
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(2000)]
    for number in range(60):
        texts = (" ".join(draw.choices(words, k=90)) for _ in range(20))
        (tmp_path / f"{number:02d}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = SourceConfig("jsonl", path=f"{tmp_path}/*.jsonl", heldout_bytes=2000)
    data = DataConfig("web", {"text": source}, corpus=CorpusConfig(shard_bytes=8_000))
    tokenizer = TokenizerConfig(vocab_size=300, train_bytes=50_000)
    directory = Layout(tmp_path).data(data_fingerprint(data, tokenizer))
    assert begin_corpus(directory, data, tokenizer) is not None
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    root = building_folder(directory)

    def start():
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, str(script), str(directory)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    job = start()
    while len(list((root / "records").rglob("*.json"))) < 3:
        assert job.poll() is None
        time.sleep(0.01)
    # As Slurm does: every process of the job.
    for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
        process.send_signal(signal.SIGUSR2)
    said, _ = job.communicate(timeout=100)
    assert said.splitlines()[-1] == "False True"
    assert "the same command goes on" in said
    counts = count_begun(root)
    assert counts is not None
    assert 3 <= counts.done < counts.tasks
    assert not list((root / "claims").glob("[a-z]*"))
    assert not list((root / "scratch").iterdir())
    said, _ = start().communicate(timeout=100)
    assert said.splitlines()[-1] == "True False"
    assert (directory / "manifest.json").is_file()
    assert count_begun(root) is None
