"""A job's own decisions on its node: what a signal means, and when a requeue is no use."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from workbench.config.plain import to_dict
from workbench.launch.slurm.on_node import _TURNS, Job

RUNNING = "JobId=7 JobState=RUNNING PreemptTime=None Command=/a=b"


@pytest.fixture
def job(make_study, tmp_path, monkeypatch):
    """Element 3 of an array's training of the first stage, under a `scontrol` that prints what the test says."""
    facts = make_study("tokens=10240")
    stage = next(iter(facts.plan.nodes))
    file = tmp_path / "batch.json"
    frozen = to_dict(facts.plan.nodes[stage].stage)
    element = {"name": "8192", "stage": stage, "targets": [8192], "milestones": [8192], "frozen": frozen}
    file.write_text(
        json.dumps(
            {
                "token": "wb-1", "study": "small", "outputs": str(facts.layout.root), "kind": "train",
                "code": {"copy": "c"}, "cluster": {"name": "none"}, "evaluation": {}, "tracking": {}, "threads": 1,
                "elements": {"3": element},
            }
        )
    )  # fmt: skip
    for name, value in {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    made = Job(file)

    def say(text):
        (folder / "scontrol").write_text(f"#!/bin/sh\necho \"$@\" >> {folder}/calls\necho '{text}'\n")
        (folder / "scontrol").chmod(0o755)

    made.scontrol_says, made.calls = say, folder / "calls"
    say(RUNNING)
    return made


def test_an_element_speaks_of_itself_and_not_of_its_array(job):
    """One element's raw id is the array's number, which to scontrol means all elements."""
    job.interrupt.requeue = True
    assert job.is_to_return()
    assert job.calls.read_text() == "--oneliner show job 7_3\n"


@pytest.mark.parametrize(
    ("told", "state", "returns"),
    [
        ("USR2", RUNNING, True),
        ("USR2", RUNNING.replace("RUNNING", "COMPLETING"), False),
        ("TERM", RUNNING, False),
        ("TERM", RUNNING.replace("PreemptTime=None", "PreemptTime=2026-11-21T12:00:00"), True),
        ("TERM", RUNNING.replace("RUNNING", "CANCELLED"), False),
    ],
)
def test_a_job_returns_when_it_was_preempted_or_out_of_time_and_not_when_it_was_cancelled(job, told, state, returns):
    job.interrupt.requeue = told == "USR2"
    job.scontrol_says(state)
    assert job.is_to_return() is returns


def test_turns_without_progress_end_in_failure(job):
    steps = job.layout.stage(job.stage)
    assert [job._stands_still() for _ in range(_TURNS)] == [False] * _TURNS
    (steps.checkpoint(4)).mkdir(parents=True)
    (steps.checkpoint(4) / "manifest.json").write_text("{}")
    assert [job._stands_still() for _ in range(_TURNS + 1)] == [False] * _TURNS + [True]


def test_a_turn_after_one_that_gained_nothing_uses_the_time_after_the_signal(job, monkeypatch):
    """A start that takes until the signal would otherwise be taken again and again, for nothing."""

    def turn():
        """Whether a turn that hears a signal during its start may go on for a checkpoint."""
        again = Job(job.file)
        monkeypatch.setattr(again.interrupt, "listen", lambda: None)
        monkeypatch.setattr(again, "_check_code", lambda: None)
        monkeypatch.setattr(again, "train", lambda: 0)
        assert again.run() == 0
        return again.interrupt._orderly.is_set()

    def gain(step):
        job.layout.stage(job.stage).checkpoint(step).mkdir(parents=True)
        (job.layout.stage(job.stage).checkpoint(step) / "manifest.json").write_text("{}")

    assert not turn()
    job._stands_still()
    assert turn()
    gain(4)
    job._stands_still()
    assert not turn()
    job._stands_still()
    assert turn()


@pytest.fixture
def listening(job):
    """A job whose work has ended, and which hears signals until the test is over."""
    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    job.interrupt.listen()
    job.interrupt.finish()
    yield job
    signal.set_wakeup_fd(-1)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_an_end_that_comes_before_the_answer_to_a_requeue_is_that_requeues_end(listening):
    job = listening
    job.interrupt.requeue = True
    said = []
    job.say = said.append
    scontrol = job.calls.with_name("scontrol")
    end = "kill -TERM $PPID; sleep 0.3; kill -TERM $$"
    scontrol.write_text(f'#!/bin/sh\ncase "$*" in requeue*) {end};; *) echo "{RUNNING}";; esac\n')
    assert job.go_back() == 143
    assert said == ["back into the queue under the same id"]
    scontrol.write_text(f'#!/bin/sh\ncase "$*" in requeue*) echo denied >&2; exit 1;; *) echo "{RUNNING}";; esac\n')
    assert job.go_back() == 143
    assert said[2:] == ["not requeued (scontrol: denied); the same launch continues from the last checkpoint"]


LISTENER = """
    import os, sys, threading, time
    from workbench.launch.slurm.interrupt import Interrupt

    def leave():
        print("left", interrupt.requeue, flush=True)
        os._exit(3)

    interrupt = Interrupt(leave, patience_seconds=float(sys.argv[2]))
    interrupt.listen()
    if sys.argv[1] == "orderly":
        interrupt.end_orderly()
    print("ready", flush=True)
    while not (interrupt.is_asked() and sys.argv[1] == "orderly" and sys.argv[2] != "0.1"):
        time.sleep(0.01)
    interrupt.finish()
    print("ended", interrupt.requeue, flush=True)
"""


@pytest.mark.parametrize(
    ("phase", "patience", "number", "said"),
    [
        ("start-up", "60", signal.SIGUSR2, "left True"),
        ("start-up", "60", signal.SIGTERM, "left False"),
        ("orderly", "60", signal.SIGUSR2, "ended True"),
        ("orderly", "0.1", signal.SIGUSR2, "left True"),
    ],
)
def test_a_signal_drops_what_may_be_dropped_and_waits_for_the_rest(phase, patience, number, said):
    command = [sys.executable, "-c", textwrap.dedent(LISTENER), phase, patience]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, number)
        assert process.stdout.readline() == said + "\n"
        process.wait(timeout=30)


def test_the_port_of_the_rendezvous_is_none_that_outgoing_connections_get(job, monkeypatch):
    """One of those stays taken for a minute after its connection: a job that happens on it would fail."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    ports = set()
    for number in range(200):
        job.id = f"{number}_3"
        for turn in range(3):
            monkeypatch.setenv("SLURM_RESTART_COUNT", str(turn))
            assert job._port() == job._port()
            ports.add(job._port())
    assert max(ports) < 32768
    assert len(ports) > 550, "a requeued job must not wait for the port of its turn before"
