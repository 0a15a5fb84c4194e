"""The tests' own Slurm: a job over two nodes, accounting, requeues, and what survives which daemon's end."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("two_nodes.py")
HOSTS = Path("/etc/hosts")


@pytest.fixture
def job(slurm):
    """Submit a script; its job is ended with the test."""
    submitted = []

    def submit(script, *options):
        submitted.append(slurm.submit(script, *options))
        return submitted[-1]

    yield submit
    for number in submitted:
        with contextlib.suppress(RuntimeError):
            slurm.run(["scancel", number])
            slurm.wait(number)


def eventually(condition, seconds=120):
    """Accounting hears of a job a moment after the controller."""
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.2)
    return condition()


def processes_of(folder):
    """Processes that run under a folder's Slurm."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "comm").read_text().strip())
    return found


def test_two_tasks_meet_on_two_nodes_under_their_names(slurm, job, tmp_path):
    """The second task connects to the first under its node's name, as ranks do."""
    place = tmp_path / "port"
    program = tmp_path / "task.py"
    program.write_text(
        "import os, pathlib, socket, sys, time\n"
        f"place = pathlib.Path({str(place)!r})\n"
        "if os.environ['SLURM_PROCID'] == '0':\n"
        "    with socket.create_server(('n1', 0)) as server:\n"
        "        place.with_suffix('.new').write_text(str(server.getsockname()[1]))\n"
        "        place.with_suffix('.new').rename(place)\n"
        "        print('heard', server.accept()[0].recv(100).decode())\n"
        "else:\n"
        "    while not place.exists():\n"
        "        time.sleep(0.1)\n"
        "    with socket.create_connection(('n1', int(place.read_text()))) as connection:\n"
        "        connection.sendall(os.environ['SLURMD_NODENAME'].encode())\n"
    )
    number = job(f"srun {sys.executable} {program}", "--nodes=2", "--ntasks-per-node=1", "--comment=a token")
    assert slurm.wait(number) == "COMPLETED"
    assert (slurm.folder / "log" / f"job-{number}").read_text() == "heard n2\n"
    expected = [["COMPLETED", "n[1-2]", "a token"]]
    assert eventually(lambda: slurm.sacct(number, "State", "NodeList", "Comment") == expected)


def test_a_requeued_job_is_back_within_seconds(slurm, job, tmp_path):
    """Slurm's own delay is 120 s; 6 to 8 s were measured here."""
    number = job(f"echo $SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/starts; sleep 300")
    starts = tmp_path / "starts"
    assert eventually(starts.exists)
    slurm.run(["scontrol", "requeue", number])
    assert eventually(lambda: starts.read_text() == f"{number} 0\n{number} 1\n", seconds=60)
    assert eventually(lambda: [row[0] for row in slurm.sacct(number, "State")] == ["REQUEUED", "RUNNING"])


def test_the_jobs_of_a_dead_node_are_requeued(slurm, job, tmp_path):
    """29 to 30 s until Slurm gives the node up, 6 s until the job is back."""
    number = job(f"echo started >> {tmp_path}/starts; sleep 300", "--nodelist=n2")
    starts = tmp_path / "starts"
    assert eventually(starts.exists)
    slurm.kill_node("n2")
    try:
        assert not {"sleep", "slurmstepd"} & set(processes_of(slurm.folder))
        assert slurm.wait(number, "PENDING", seconds=180) == "PENDING"
    finally:
        slurm.start_node("n2")
    assert slurm.wait(number, "RUNNING", seconds=60) == "RUNNING"
    assert eventually(lambda: len(starts.read_text().splitlines()) == 2)
    assert eventually(lambda: [row[0] for row in slurm.sacct(number, "State")] == ["NODE_FAIL", "RUNNING"])


def test_a_job_goes_on_while_its_daemons_are_started_again(slurm, job, tmp_path):
    number = job(f"echo started >> {tmp_path}/log; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done", "--nodelist=n1")
    assert eventually((tmp_path / "log").exists)
    slurm.kill_slurmd("n1")
    slurm.start_node("n1")
    slurm.stop_controller()
    with pytest.raises(RuntimeError, match="squeue"):
        slurm.run(["squeue"])
    slurm.start_controller()
    assert slurm.state(number) == "RUNNING"
    (tmp_path / "go").touch()
    assert slurm.wait(number) == "COMPLETED"
    assert (tmp_path / "log").read_text() == "started\n"
    assert eventually(lambda: slurm.sacct(number, "State") == [["COMPLETED"]])


def test_a_controller_that_is_killed_knows_what_it_saved(slurm, job, tmp_path):
    saved = slurm.folder / "state" / "job_state"
    before = saved.stat().st_mtime_ns if saved.exists() else 0
    number = job(f"sleep 2; echo done > {tmp_path}/done", "--hold")
    assert eventually(lambda: saved.exists() and saved.stat().st_mtime_ns > before)
    slurm.kill_controller()
    slurm.start_controller()
    assert slurm.state(number) == "PENDING"
    slurm.run(["scontrol", "release", number])
    assert slurm.wait(number) == "COMPLETED"
    assert (tmp_path / "done").exists()


def test_no_job_begins_while_the_nodes_are_drained(slurm, job):
    with slurm.drained():
        number = job("true")
        time.sleep(3)
        assert slurm.state(number) == "PENDING"
    assert slurm.wait(number) == "COMPLETED"


def test_the_script_starts_and_stops_twice_beside_another_and_leaves_nothing(slurm, tmp_path):
    def script(verb):
        command = [sys.executable, str(SCRIPT), verb, str(tmp_path), "--cpus=3"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout

    def names():
        """All that is named, but by Slurms of other folders, which may begin and end meanwhile."""
        lines = HOSTS.read_text().splitlines()
        return [
            line for line in lines if "# a Slurm in" not in line or line.endswith((f" {tmp_path}", f" {slurm.folder}"))
        ]

    before = names()
    assert any(line.endswith(f" {slurm.folder}") for line in before)
    for _ in range(2):
        line = f"export SLURM_CONF={tmp_path}/slurm.conf\n"
        assert script("start").startswith(line)
        assert script("env") == line
        running = sorted(processes_of(tmp_path))
        assert {"slurmctld", "slurmdbd", "mariadbd", "munged", "slurmd"} <= set(running)
        env = {**slurm.env, "SLURM_CONF": f"{tmp_path}/slurm.conf"}
        ask = ["sinfo", "--noheader", "--Node", "--format=%N %c"]
        assert subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout == "n1 3\nn2 3\n"
        subprocess.run(["sbatch", "--wrap=sleep 300", "--output=/dev/null"], env=env, capture_output=True, check=True)
        assert eventually(lambda: "sleep" in processes_of(tmp_path))
        script("start")
        assert "sleep" in processes_of(tmp_path), "a start where it is up ended a job"
        script("stop")
        assert processes_of(tmp_path) == []
        assert names() == before
    script("stop")
    assert slurm.is_up()


def test_what_is_missing_is_said(slurm, tmp_path, monkeypatch):
    long = type(slurm)(tmp_path / ("x" * 100))
    with pytest.raises(RuntimeError, match="too long a path"):
        long.start()
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="needs root"):
        type(slurm)(tmp_path).start()
