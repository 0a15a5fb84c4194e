"""Commands that are killed, stopped, or started twice on one folder: the same command gives the same bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.data.corpus.conftest import make_corpus_data, make_full_data
from workbench.config.schema import DataConfig, to_dict
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.data.corpus.pipeline import building_folder
from workbench.data.fingerprint import data_fingerprint
from workbench.data.store import prepare
from workbench.study.layout import Layout

COMMAND = """
import json, sys
from pathlib import Path
from workbench.config.schema import DataConfig, TokenizerConfig, from_dict
from workbench.data.store import prepare
from workbench.study.layout import Layout
if __name__ == "__main__":
    data, tokenizer, outputs, workers = json.loads(sys.argv[1])
    config = from_dict(DataConfig, data), from_dict(TokenizerConfig, tokenizer)
    say = lambda text, done, total: print(text, file=sys.stderr, flush=True)
    prepare(*config, Layout(Path(outputs)), workers=workers, progress=say)
"""

SHORT = """
from workbench.data.corpus import corpus_progress, local_workers, silent_owners, task_claims
task_claims.STALE_SECONDS, silent_owners.NOTICE_SECONDS, silent_owners._LOOK_SECONDS = 3.0, 1.0, 0.2
local_workers._LAST_SECONDS = local_workers._END_SECONDS = 2.0
"""
"""The same with less patience."""


@pytest.fixture(name="data", scope="module")
def fixture_data(tmp_path_factory) -> DataConfig:
    """A corpus of many shards with every step."""
    folder = tmp_path_factory.mktemp("given")
    full = make_full_data(make_corpus_data(folder), folder)
    corpus = dataclasses.replace(full.corpus, shard_bytes=15_000, near_duplicates=NearDuplicates(bands=3, rows=4))
    capped = dataclasses.replace(full.sources["b"], max_bytes=20_000)
    return dataclasses.replace(full, corpus=corpus, sources={**full.sources, "b": capped})


@pytest.fixture(name="whole", scope="module")
def fixture_whole(data, small_tokenizer, tmp_path_factory) -> Path:
    """The store that one process makes of it when nobody disturbs it."""
    return prepare(data, small_tokenizer, Layout(tmp_path_factory.mktemp("whole")), workers=1).directory


@pytest.fixture(name="start")
def fixture_start(data, small_tokenizer, tmp_path: Path):
    """Start the command that prepares the corpus; what is left of it is killed at the end."""
    started: list[subprocess.Popen] = []

    def start(outputs: Path, workers: int, before: str = "") -> subprocess.Popen:
        script = tmp_path / f"command{len(started)}.py"
        script.write_text(before + COMMAND)
        values = json.dumps([to_dict(data), to_dict(small_tokenizer), str(outputs), workers])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        started.append(
            subprocess.Popen([sys.executable, script, values], stderr=subprocess.PIPE, text=True, env=environment)
        )
        return started[-1]

    start.fingerprint = data_fingerprint(data, small_tokenizer)  # type: ignore[attr-defined]
    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(root: Path, records: int, process: subprocess.Popen) -> bool:
    """Wait until so many tasks are done; False where the command ended before."""
    while process.poll() is None:
        with suppress(FileNotFoundError):  # the corpus is finished while its folder is looked at
            if len(list((root / "records").rglob("*.json"))) >= records:
                return True
        time.sleep(0.002)
    return False


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "seed"), [(1, 0), (2, 1), (2, 2), (4, 3)])
def test_killed_at_random_moments(start, whole, tmp_path, hash_store, workers: int, seed: int):
    layout, draw = Layout(tmp_path / "killed"), random.Random(seed)
    directory = layout.data(start.fingerprint)
    root = building_folder(directory)
    total = 3 * len(json.loads((whole / "plan.json").read_text())["shards"]) + 10
    kills = 0
    for moment in sorted(draw.sample(range(total), 5)):
        process = start(layout.root, workers)
        if not wait_for(root, moment, process):
            continue
        time.sleep(draw.random() * 0.02)
        victims = workers_of(process)
        kill_worker = victims and draw.random() < 0.5
        (draw.choice(victims) if kill_worker else psutil.Process(process.pid)).kill()
        kills += 1
        if not kill_worker:
            process.wait()
            psutil.wait_procs(victims, timeout=20)
            assert not any(victim.is_running() for victim in victims), "workers outlive their parent"
        else:
            time.sleep(0.05)
            process.kill()
            process.wait()
            psutil.wait_procs(victims, timeout=20)
    assert kills >= 4
    last = start(layout.root, workers)
    assert last.wait(120) == 0, last.stderr.read()
    assert hash_store(directory) == hash_store(whole)
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


@pytest.mark.slow
def test_a_killed_worker_is_replaced(start, whole, tmp_path, hash_store):
    layout = Layout(tmp_path / "killed")
    process = start(layout.root, 2)
    assert wait_for(building_folder(layout.data(start.fingerprint)), 5, process)
    workers_of(process)[0].kill()
    assert process.wait(120) == 0, process.stderr.read()
    assert hash_store(layout.data(start.fingerprint)) == hash_store(whole)


@pytest.mark.slow
def test_two_commands_share_one_folder(start, whole, tmp_path, hash_store):
    layout = Layout(tmp_path / "shared")
    processes = [start(layout.root, workers) for workers in (1, 2)]
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read()
    assert hash_store(layout.data(start.fingerprint)) == hash_store(whole)
    assert [path.name for path in (layout.root / "data").iterdir()] == [start.fingerprint]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stopped_command_says_how_to_go_on(start, whole, tmp_path, hash_store, number, workers):
    layout = Layout(tmp_path / "stopped")
    root = building_folder(layout.data(start.fingerprint))
    process = start(layout.root, workers)
    assert wait_for(root, 7, process)
    process.send_signal(number)
    assert process.wait(30) not in (0, -signal.SIGKILL)
    said = process.stderr.read()
    assert "Stopped: stopped while reading (" in said
    assert said.rstrip().endswith("and the same command goes on")
    assert not list((root / "claims").iterdir())
    assert not list((root / "scratch").iterdir())
    again = start(layout.root, workers)
    assert again.wait(120) == 0, again.stderr.read()
    assert hash_store(layout.data(start.fingerprint)) == hash_store(whole)


@pytest.mark.slow
def test_the_task_of_a_stopped_worker_is_taken_over(start, whole, tmp_path, hash_store):
    """Its command says who is waited for, does not wait for it in the end, and leaves no process."""
    layout = Layout(tmp_path / "stopped")
    directory = layout.data(start.fingerprint)
    claims = building_folder(directory) / "claims"
    process = start(layout.root, 2, SHORT)
    assert wait_for(claims.parent, 5, process)
    victim = None
    while victim is None:
        for each in workers_of(process):
            each.suspend()
            held = [json.loads(path.read_text())["pid"] for path in claims.glob("[!.]*")]
            if each.pid in held:
                victim = each
                break
            each.resume()
    assert process.wait(120) == 0, process.stderr.read()
    said = process.stderr.read()
    assert re.search(rf"waits for process {victim.pid} on \S+, last heard of at \S+: it is stopped; `kill -CONT", said)
    assert hash_store(directory) == hash_store(whole)
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    assert not victim.is_running()


@pytest.mark.slow
def test_a_stopped_command_that_wakes_when_another_has_finished_leaves_nothing(start, whole, tmp_path, hash_store):
    layout = Layout(tmp_path / "slept")
    directory = layout.data(start.fingerprint)
    sleeper = start(layout.root, 1)
    assert wait_for(building_folder(directory), 5, sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    other = start(layout.root, 1, SHORT)
    assert other.wait(120) == 0, other.stderr.read()
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(120) == 0, sleeper.stderr.read()
    assert hash_store(directory) == hash_store(whole)
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
