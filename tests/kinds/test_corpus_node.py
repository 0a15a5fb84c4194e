"""A corpus as a node of a study's graph: planned, made once, gone on with where it was killed, and seen by every verb."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.cli.show import data_records
from workbench.config.kind_registry import find_kind
from workbench.data.corpus.pipeline import building_folder
from workbench.data.store import open_prepared
from workbench.data.store import prepare as prepare_store
from workbench.forecast.study_facts import make_facts, prepare_data
from workbench.kinds.corpus.run import run
from workbench.kinds.corpus.source_files import read_files
from workbench.launch.slurm import commands as slurm
from workbench.launch.slurm.claim import PREPARE, Claim, take
from workbench.launch.slurm.commands import JobState
from workbench.launch.slurm.ledger import Entry, Ledger, read_ledger
from workbench.launch.slurm.queue_view import study_states
from workbench.launch.snapshot import freeze_study
from workbench.study.causes import INPUT, PARENT
from workbench.study.stage_states import Scheduled
from workbench.study.study_record import read_record

STATE = find_kind("corpus").plan.state


def write_texts(folder: Path, files: int = 2, documents: int = 300) -> None:
    """Write jsonl files of made words."""
    draw = random.Random(3)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(2000)]
    for number in range(files):
        texts = (" ".join(draw.choices(words, k=80)) for _ in range(documents))
        (folder / f"{number}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(name="given")
def fixture_given(tmp_path: Path) -> list[str]:
    """Overrides of a small study on a made corpus."""
    write_texts(tmp_path)
    return [
        "study=web",
        "data=jsonl",
        "data.name=web",
        f"data.sources.text.path={tmp_path}/*.jsonl",
        "data.sources.text.heldout_bytes=4000",
        "data.corpus={shard_bytes: 20000}",
        "tokenizer.vocab_size=300",
        "tokenizer.train_bytes=50000",
        "model=m0_03",
        "model.context_tokens=32",
        "model.num_layers=1",
        "recipe.warmup_tokens=512",
        "recipe.batch_sequences=8",
        "evaluation=none",
        "tokens=10240,20480",
        f"paths.outputs={tmp_path}/outputs",
    ]


@pytest.fixture(name="facts")
def fixture_facts(given, compose):
    """The study, of which nothing was done."""
    return make_facts(compose(given))


def the_corpus(facts):
    [node] = facts.plan.corpora.values()
    return node


def row_of(facts):
    """State of the corpus, as `workbench status` has it."""
    return study_states(make_facts([(p.name, p.config) for p in facts.plan.points]), None)[0]


def silent(text: str, done: int, total: int | None) -> None:
    """Take no notice of progress."""


def call(capsys, *arguments):
    """Run a command; give its status and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code, capsys.readouterr()


def hash_files(directory: Path) -> dict[str, str]:
    """Hash every file; of the manifest all but the seconds."""
    files = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*") if p.is_file()}
    manifest = json.loads(files.pop("manifest.json").read_text())
    del manifest["seconds"]
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return {**hashes, "manifest": json.dumps(manifest, sort_keys=True)}


def test_points_share_one_node_that_all_stages_read(facts, overrides, experiments, compose):
    node = the_corpus(facts)
    assert node.spec.label == "web corpus"
    assert node.points == tuple(point.name for point in facts.plan.points)
    assert set(node.stages) == set(facts.plan.nodes)
    assert {stage.stage.data_fingerprint for stage in facts.plan.nodes.values()} == {node.id}
    assert make_facts(compose(overrides, experiments)).plan.corpora == {}


def test_two_corpora_are_two_nodes(given, compose):
    facts = make_facts(compose([*given, "+data.corpus.overlap_words=13,14"]))
    one, two = facts.plan.corpora.values()
    assert not set(one.points) & set(two.points)
    assert not set(one.stages) & set(two.stages)
    assert len(one.stages) + len(two.stages) == len(facts.plan.nodes)


def test_a_corpus_cannot_come_after_a_recipe(given, compose):
    with pytest.raises(ValueError, match="kind='corpus' cannot come after a recipe"):
        compose([*given, "++then.more.kind=corpus"])


def test_plan_shows_it_among_the_stages(given, facts, capsys):
    node = the_corpus(facts)
    status, printed = call(capsys, "plan", *given)
    assert status == 0, printed.err
    [row] = [line for line in printed.out.splitlines() if line.startswith(node.id)]
    assert row.split()[1:3] == ["web", "corpus"]
    assert "tasks" in row
    assert "data web is not made yet" in printed.out
    assert "CPU hours" in printed.out
    status, printed = call(capsys, "plan", "--json", *given)
    values = json.loads(printed.out)
    [corpus] = values["corpora"]
    assert (corpus["id"], corpus["kind"], corpus["state"]) == (node.id, "corpus", "planned")
    assert (corpus["points"], corpus["stages"]) == (list(node.points), list(node.stages))
    assert corpus["inputs"]["text"]["kind"] == "jsonl"
    assert corpus["tasks"] > corpus["shards"] > 4
    assert corpus["seconds"] > 0
    assert {stage["data"] for stage in values["stages"]} == {node.id}


def test_a_cluster_is_asked_for_its_jobs_in_the_same_table(given, facts, capsys):
    status, printed = call(capsys, "plan", *given, "hydra/launcher=slurm", "cluster=slurm_demo", "--no-measure")
    assert status == 0, printed.err
    [row] = [line for line in printed.out.splitlines() if line.startswith(the_corpus(facts).id)]
    assert "CPU" in row
    assert "not estimated" in row


def test_it_is_made_once_whoever_reads_it(given, facts, compose):
    said: list[str] = []
    prepare_data(facts, said.append)
    directory = facts.layout.data(the_corpus(facts).id)
    made = (directory / "manifest.json").stat().st_mtime_ns
    assert any(line.startswith("reading: ") for line in said)
    other = make_facts(compose([*given, "study=other", "data.name=same", "model.num_layers=2"]))
    assert the_corpus(other).id == the_corpus(facts).id
    again: list[str] = []
    prepare_data(other, again.append)
    assert again == []
    assert (directory / "manifest.json").stat().st_mtime_ns == made
    state = row_of(other)
    assert (state.kind, state.state) == ("corpus", "finished")
    assert state.tokens == len(open_prepared(directory).sources["text"])


def test_a_store_is_the_same_as_without_the_graph(facts, tmp_path):
    node = the_corpus(facts)
    run(node.spec, facts.layout, silent, 1)
    elsewhere = type(facts.layout)(tmp_path / "elsewhere")
    prepare_store(node.spec.data, node.spec.tokenizer, elsewhere, 1)
    assert hash_files(facts.layout.data(node.id)) == hash_files(elsewhere.data(node.id))


WORKER = """
import sys
from workbench.config.compose import composer
from workbench.forecast.study_facts import make_facts, prepare_data
if __name__ == "__main__":
    with composer(None) as hydra:
        facts = make_facts([(point.name, point.config) for point in hydra.points(sys.argv[1:])])
    prepare_data(facts, print)
"""


def test_killed_and_run_again_it_continues(given, facts, tmp_path):
    node, script = the_corpus(facts), tmp_path / "worker.py"
    root = building_folder(facts.layout.data(node.id))
    script.write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = subprocess.Popen(
        [sys.executable, str(script), *given], env=environment, start_new_session=True, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 90
    while len(list((root / "records").rglob("*.json"))) < 4:
        assert command.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    assert row_of(facts).state == "running"
    os.killpg(command.pid, signal.SIGKILL)
    command.wait()
    until = time.monotonic() + 10
    while (state := row_of(facts)).state == "running" and time.monotonic() < until:
        time.sleep(0.05)  # its workers end a moment later
    assert (state.state, state.tokens) == ("killed", None)
    assert state.note == "its process died without a message; the same command continues with what is not done"
    assert 4 <= state.tasks_done < state.tasks
    done = {path: path.stat().st_mtime_ns for path in (root / "records" / "read").glob("*.json")}
    kept: dict[Path, int] = {}

    def look(text: str, *_: object) -> None:
        if not kept:
            kept.update({path: path.stat().st_mtime_ns for path in done})

    run(node.spec, facts.layout, look, 1)
    assert kept == done
    assert row_of(facts).state == "finished"


def test_status_says_why_it_failed_and_where_its_log_is(given, facts, tmp_path, capsys, know_speeds):
    damaged = tmp_path / "1.jsonl"
    lines = damaged.read_text().splitlines()
    damaged.write_text("\n".join([*lines[:5], '{"text": 5', *lines[5:]]) + "\n")
    facts = make_facts([(p.name, p.config) for p in facts.plan.points])
    know_speeds(given)
    status, printed = call(capsys, "run", *given)
    assert status != 0
    state = row_of(facts)
    assert (state.state, state.cause) == ("failed", INPUT)
    assert "1.jsonl" in state.note
    assert "line 6" in state.note
    assert Path(state.log).read_text().splitlines()[-1].endswith(state.note)
    behind = study_states(facts, None)[1]
    assert (behind.state, behind.cause) == ("planned", PARENT)
    assert behind.note == f"its corpus {state.stage} failed"
    status, printed = call(capsys, "status", *given)
    assert f"web corpus {state.stage} failed (ValueError: " in printed.out
    assert f"its log: {state.log}" in printed.out
    assert "would fail again in the same way" in printed.out
    status, printed = call(capsys, "status", "--json", *given)
    [corpus, *stages] = json.loads(printed.out)
    assert (corpus["kind"], corpus["state"]) == ("corpus", "failed")
    assert corpus["tasks_done"] < corpus["tasks"]
    assert {stage["kind"] for stage in stages} == {"pretrain"}


@pytest.mark.slow
def test_a_corpus_that_fails_leaves_other_points_alone(given, tmp_path, compose, capsys, know_speeds):
    good = tmp_path / "good"
    good.mkdir()
    write_texts(good)
    (tmp_path / "1.jsonl").write_text('{"text": 5')
    both = [
        *given,
        f"data.sources.text.path={tmp_path}/*.jsonl,{good}/*.jsonl",
        "tokens=10240",
        "tracking.publish=false",
    ]
    status, printed = call(capsys, "run", *know_speeds(both))
    assert status != 0
    facts = make_facts(compose(both))
    states = study_states(facts, None)
    bad, fine = facts.plan.corpora.values()
    assert [state.state for state in states[:2]] == ["failed", "finished"]
    assert {state.state for state in states[2:] if state.stage in fine.stages} == {"finished"}
    assert {(state.state, state.cause) for state in states[2:] if state.stage in bad.stages} == {("planned", PARENT)}
    assert f"failed: prepare web corpus {bad.id}: ValueError: " in printed.err


def test_inputs_that_changed_since_the_plan_are_refused(facts, tmp_path):
    write_texts(tmp_path, files=1, documents=200)
    with pytest.raises(ValueError, match=r"the inputs of data 'web' have changed since this was planned"):
        run(the_corpus(facts).spec, facts.layout, silent, 1)
    assert not building_folder(facts.layout.data(the_corpus(facts).id)).exists()


def test_it_leads_to_its_files_by_their_hashes(facts, tmp_path):
    prepare_data(facts, lambda line: None)
    facts = freeze_study(facts)
    node = the_corpus(facts)
    files = read_files(facts.layout, node.id)["text"]["files"]
    texts = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    assert [file["path"] for file in files] == [str(path) for path in texts]
    assert [file["sha256"] for file in files] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in texts]
    shown = data_records(facts, "")[node.id]
    assert shown["inputs"]["text"]["files"] == files
    assert shown["inputs"]["text"]["bytes"] == sum(path.stat().st_size for path in texts)
    assert {reader["stage"]: tuple(reader["points"]) for reader in shown["read_by"]} == {
        i: stage.points for i, stage in facts.plan.nodes.items()
    }
    record = read_record(facts.layout, "web")["corpora"][node.id]
    assert record == {"kind": "corpus", "name": "web", "points": list(node.points), "stages": list(node.stages)}


def making(facts, number: int, state: str, reason: str = "") -> Entry:
    """Entry of a job that makes the corpus."""
    claim = Claim(PREPARE, f"{the_corpus(facts).id}-{number}", "", (), f"wb-{number}", number, "web", f"7_{number}")
    return Entry(claim, JobState(f"7_{number}", state, reason))


def training(facts, state: str, reason: str) -> Entry:
    """Entry of the job that trains the first stage."""
    node = next(iter(facts.plan.nodes.values()))
    claim = Claim("train", str(node.stage.end_tokens), node.id, tuple(node.targets), "wb-t", 0, "web", "8")
    return Entry(claim, JobState("8", state, reason))


@pytest.mark.parametrize(
    ("jobs", "state", "note", "waits"),
    [
        (
            [("RUNNING", ""), ("PENDING", "Resources")],
            "running",
            "1 jobs running, 1 queued",
            "waits for its corpus {corpus}",
        ),
        (
            [("REQUEUED", ""), ("PENDING", "BeginTime")],
            "queued",
            "0 jobs running, 2 queued",
            "waits for its corpus {corpus}",
        ),
        (
            [("PENDING", "BeginTime")],
            "queued",
            "0 jobs running, 1 queued; requeued, begins again soon",
            "waits for its corpus {corpus}",
        ),
        ([("COMPLETED", ""), ("CANCELLED", "by 0")], "cancelled", "job 7_1 was cancelled by 0", "waits for its parent"),
        ([("CANCELLED", ""), ("NODE_FAIL", "")], "failed", "job 7_1: NODE_FAIL", "waits for its parent"),
    ],
)
def test_what_its_jobs_do_is_one_state(facts, jobs, state, note, waits):
    entries = [making(facts, number, *job) for number, job in enumerate(jobs)]
    trained = training(facts, "PENDING", "Dependency")
    [corpus, first, *_] = study_states(facts, Ledger((*entries, trained)))
    assert (corpus.state, corpus.note) == (state, note)
    assert (first.state, first.note) == ("queued", waits.format(corpus=corpus.stage))
    assert Ledger((*entries, trained)).making(corpus.stage) == entries


def test_a_training_that_was_cancelled_with_its_corpus_says_so(facts):
    entries = (making(facts, 0, "FAILED"), training(facts, "CANCELLED", ""))
    [corpus, first, *_] = study_states(facts, Ledger(entries))
    assert (first.state, first.note, first.cause) == ("cancelled", f"its corpus {corpus.stage} failed", PARENT)


def test_the_ledger_has_its_jobs_until_it_is_made(facts, monkeypatch):
    monkeypatch.setattr(slurm, "list_queue", lambda: {"7_0": JobState("7_0", "RUNNING")})
    entry = making(facts, 0, "RUNNING")
    assert take(facts.layout, entry.claim)
    assert read_ledger(facts.plan, facts.layout).live_jobs() == ["7_0"]
    others = dataclasses.replace(facts.plan, study="other")
    assert read_ledger(others, facts.layout).live_jobs() == ["7_0"]
    store = facts.layout.data(the_corpus(facts).id)
    store.mkdir()
    (store / "manifest.json").touch()
    assert read_ledger(others, facts.layout).entries == ()
    assert read_ledger(facts.plan, facts.layout).live_jobs() == ["7_0"]


@pytest.mark.parametrize(
    ("scheduled", "state", "note"),
    [
        (Scheduled("queued", ("7_0", "7_1"), "0 jobs running, 2 queued"), "queued", "0 jobs running, 2 queued"),
        (Scheduled("failed", ("7_0",), "job 7_0: OUT_OF_MEMORY"), "failed", "job 7_0: OUT_OF_MEMORY"),
        (Scheduled("cancelled", ("7_0",), "job 7_0 was cancelled by 0"), "cancelled", "job 7_0 was cancelled by 0"),
    ],
)
def test_a_scheduler_is_believed(facts, scheduled, state, note):
    found = STATE(the_corpus(facts), facts.layout, scheduled)
    assert (found.state, found.jobs, found.note) == (state, scheduled.jobs, note)
    assert (found.tasks_done, found.tasks) == (None, None)
