"""The command `workbench prepare` itself: ended by SIGTERM with all its processes, and started twice on one corpus."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.data.corpus.conftest import make_texts
from workbench.data.folders import locked

PROJECT = Path(__file__).parents[3]


@pytest.fixture(name="prepare")
def fixture_prepare(tmp_path: Path) -> Iterator:
    """Start `workbench prepare` on a corpus of many shards; what is left of it is killed at the end."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in make_texts(500, 1)))
    command = [sys.executable, "-m", "workbench.cli", "prepare", "data=jsonl_corpus", "tokenizer.vocab_size=300"]
    command += [f"data.sources.text.path={tmp_path}/a.jsonl", "data.corpus.shard_bytes=20000"]
    command += ["data.sources.text.heldout_bytes=20000", f"paths.outputs={tmp_path}/outputs"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONUNBUFFERED": "1"}
    started: list[subprocess.Popen] = []

    def prepare() -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
            )
        )
        return started[-1]

    yield prepare
    for process in started:
        process.kill()
        process.communicate()


def building(tmp_path: Path) -> Path | None:
    return next((tmp_path / "outputs" / "data").glob("*.building"), None)


def wait_for_records(tmp_path: Path, count: int, process: subprocess.Popen) -> Path:
    while process.poll() is None:
        root = building(tmp_path)
        with suppress(FileNotFoundError):  # the corpus is finished while its folder is looked at
            if root is not None and len(list(root.glob("records/*/*.json"))) >= count:
                return root
        time.sleep(0.01)
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_sigterm_ends_all_processes_at_once_and_says_how_to_go_on(prepare, tmp_path: Path):
    process = prepare()
    root = wait_for_records(tmp_path, 8, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    line = said.splitlines()[-1]
    assert "Traceback" not in said
    assert line.startswith("workbench: stopped while ")
    assert line.endswith(f"what is done is kept in {root}, and the same command goes on")
    assert not psutil.wait_procs(family, timeout=5)[1], "a worker outlives its command"
    assert not list((root / "claims").iterdir())
    assert not list((root / "scratch").iterdir())
    again = prepare()
    said = again.communicate(timeout=300)[1]
    assert again.returncode == 0, said


@pytest.mark.slow
def test_two_commands_of_two_terminals_work_together(prepare, tmp_path: Path):
    one = prepare()
    wait_for_records(tmp_path, 2, one)
    two = prepare()
    outputs = [process.communicate(timeout=300) for process in (one, two)]
    assert [process.returncode for process in (one, two)] == [0, 0], outputs
    # Beside the store is what the commands wrote of themselves, and nothing else.
    jobs, store = sorted((tmp_path / "outputs" / "data").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert jobs.name == f"{store.name}.jobs"
    assert all(store.name in out for out, _ in outputs)


@pytest.mark.slow
def test_who_waits_for_another_command_says_so_and_heeds_sigterm(prepare, tmp_path: Path):
    first = prepare()
    root = wait_for_records(tmp_path, 2, first)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    with locked(root.with_suffix(".lock"), "divides it into shards"):
        process = prepare()
        line = process.stderr.readline()
        assert f"waiting for process {os.getpid()} on " in line
        assert line.rstrip().endswith(", which divides it into shards")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert said.rstrip().endswith("and the same command goes on")
