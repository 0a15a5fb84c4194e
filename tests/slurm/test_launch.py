"""The tiny study on a real Slurm: launched, left alone, and equal to the local run; launched twice, edited, failed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_commands import run_command

from analysis.load import load_history, load_study
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.mlflow import default_uri

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]  # patience for a slow and shared machine

PROJECT = Path(__file__).resolve().parents[2]
TINY = "experiments=token_scaling_tiny"
SLURM = ("hydra/launcher=slurm", "cluster=slurm_demo")
ENDED = {"finished", "failed", "cancelled"}


@pytest.fixture
def workbench(slurm):
    """Run a command of the workbench under this Slurm: `workbench("run", ...)`."""

    def run(*arguments, root=PROJECT, check=True):
        if root == PROJECT:
            done = run_command(arguments, env=slurm.env, cwd=root, timeout=900)
        else:  # another checkout, whose code it is to run
            command = [sys.executable, "-m", "workbench.cli", *map(str, arguments)]
            done = subprocess.run(
                command, env=slurm.env, cwd=root, capture_output=True, text=True, timeout=900, check=False
            )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    yield run
    slurm.clear()


@pytest.fixture
def states(workbench):
    """States of a study's stages, by label."""

    def ask(*arguments):
        return json.loads(workbench("status", "--json", *arguments).stdout)

    return ask


@pytest.fixture
def wait_for(slurm):
    """Wait until no job of this user is left."""

    def wait(seconds=900):
        until = time.monotonic() + seconds
        while queue := slurm.run(["squeue", "--noheader", "--array", "--format=%i %j %T %r"]).strip():
            assert time.monotonic() < until, queue
            time.sleep(0.5)

    return wait


def jobs_of(slurm, outputs):
    """(name, state) of every job that Slurm's accounting has of the outputs' submissions, arrays by element."""
    tokens = {path.name for path in (outputs / "jobs").iterdir()}
    rows = slurm.run(
        ["sacct", "--allocations", "--noheader", "--parsable2", "--starttime=now-1hours", "--endtime=now",
         "--format=JobID,JobName,State,Comment"]
    )  # fmt: skip
    cells = [row.split("|") for row in rows.splitlines()]
    return [(name, state.split()[0]) for _, name, state, comment in cells if comment in tokens]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Outputs with the tiny study's data, prepared once; the code that each launch copies is compiled once, too."""
    root = tmp_path_factory.mktemp("data")
    run_command(["prepare", TINY, f"paths.outputs={root}"]).check_returncode()
    (root / "code").mkdir(exist_ok=True)
    return root / "data"


@pytest.fixture
def outputs(tmp_path, data):
    """Fresh outputs in which the data is prepared."""
    root = tmp_path / "outputs"
    root.mkdir()
    for part in (data, data.with_name("code")):
        (root / part.name).symlink_to(part)
    return root


# ------------------------------------------------------------------------- launched, and left alone


def test_launched_and_left_alone_it_gives_what_the_local_run_gives(
    outputs, data, tmp_path, workbench, states, wait_for, know_speeds
):
    there = f"paths.outputs={outputs}"
    began = time.monotonic()
    launch = workbench("run", TINY, there, *SLURM)
    assert time.monotonic() - began < 30
    assert "submitted: 8 trainings, 6 evaluations, 1 publishing" in launch.stdout
    assert {s["state"] for s in states(TINY, there)} <= {"queued", "running"}
    again = workbench("run", TINY, there, *SLURM)
    assert "submitted: 0 trainings, 0 evaluations, 0 publishing" in again.stdout

    here = tmp_path / "here"
    here.mkdir()
    (here / "data").symlink_to(data)
    workbench("run", *know_speeds([TINY, f"paths.outputs={here}"]))
    wait_for()

    assert {s["state"] for s in states(TINY, there)} == {"finished"}
    compare_stages(outputs, here)
    frames = [load_study("token_scaling_tiny", default_uri(Layout(root))) for root in (outputs, here)]
    keys = ["stage", "tokens", "metric"]
    plain = [f.sort_values(keys).reset_index(drop=True)[[*keys, "value", "stderr", "eval_id"]] for f in frames]
    assert plain[0].equals(plain[1])
    metrics = ["train/loss", "train/learning_rate", "train/gradient_norm"]
    rows = [load_history("token_scaling_tiny", metrics, default_uri(Layout(root))) for root in (outputs, here)]
    keys = ["stage", "step"]
    ours, theirs = (f.sort_values(keys).reset_index(drop=True)[[*keys, "tokens", *metrics]] for f in rows)
    assert ours.equals(theirs)
    assert not ours.duplicated(keys).any()
    assert (outputs / "figures" / "token_scaling_tiny" / "token_scaling.png").exists()
    done = workbench("run", TINY, there, *SLURM)
    assert "nothing is missing" in done.stdout


def compare_stages(ours, theirs):
    """Same stages, weights, optimizer state and rows, but for the wall clock."""
    stages = sorted(path.name for path in (theirs / "stages").iterdir())
    assert sorted(path.name for path in (ours / "stages").iterdir()) == stages
    for stage in stages:
        rows = [spool.read_rows(root / "stages" / stage) for root in (ours, theirs)]
        plain = [[{k: v for k, v in row.items() if k not in spool.WALL_CLOCK} for row in some] for some in rows]
        assert plain[0] == plain[1]
    files = sorted(p.relative_to(theirs) for p in theirs.glob("stages/*/checkpoints/step_*/*.safetensors"))
    assert len(files) > 2 * len(stages)
    for file in files:
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


# ------------------------------------------------------------------------------ edits and launches


@pytest.fixture
def checkout(tmp_path):
    """A copy of the project that may be edited."""
    root = tmp_path / "checkout"
    for part in ("workbench", "analysis", "hydra_plugins", "conf", "experiments"):
        shutil.copytree(PROJECT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / file, root / file)
    return root


def test_what_is_edited_after_the_launch_changes_nothing(outputs, checkout, slurm, workbench, states, wait_for):
    there = (f"paths.outputs={outputs}", "model=m0_03", "tokens=40960")
    with slurm.drained():
        workbench("run", TINY, *there, *SLURM, root=checkout)
        assert {s["state"] for s in states(TINY, *there)} == {"queued"}
        for file in ("workbench/train/loop.py", "workbench/__init__.py", "workbench/launch/slurm/on_node.py"):
            (checkout / file).write_text("raise RuntimeError('edited after the launch')\n")
        shutil.rmtree(checkout / "conf")
        (checkout / "experiments" / "token_scaling_tiny.yaml").write_text("nonsense: [")
    wait_for()
    assert {s["state"] for s in states(TINY, *there)} == {"finished"}
    versions = [json.loads(p.read_text()) for p in outputs.glob("stages/*/code/version.json")]
    assert len({version["copy"] for version in versions}) == 1
    manifests = [json.loads(p.read_text()) for p in outputs.glob("stages/*/checkpoints/*/manifest.json")]
    assert {manifest["copy"] for manifest in manifests} == {versions[0]["copy"]}


def test_launches_at_once_and_one_that_dies_submit_each_stage_once(outputs, slurm, workbench, wait_for, tmp_path):
    there = ("model=m0_03", "tokens=40960", "tracking.publish=false", f"paths.outputs={outputs}")
    command = [sys.executable, "-m", "workbench.cli", "run", TINY, *there, *SLURM]

    # A launch whose `sbatch` hangs before it submits, killed there: claims without jobs.
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sbatch").write_text("#!/bin/sh\ntouch $0.called\nsleep 600\n")
    (slow / "sbatch").chmod(0o755)
    hung = {**slurm.env, "PATH": f"{slow}:{slurm.env['PATH']}"}
    dying = subprocess.Popen(command, env=hung, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (slow / "sbatch.called").exists():
        assert dying.poll() is None
        time.sleep(0.1)
    kill_group(dying)
    assert list(outputs.glob("stages/*/jobs/train-*.json"))

    both = [subprocess.Popen(command, env=slurm.env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    third = workbench("run", TINY, *there, *SLURM).stdout
    submitted = [text.count("submitted: 2 trainings") for text in (*printed, third)]
    assert sorted(submitted) == [0, 0, 1], printed
    wait_for()
    jobs = jobs_of(slurm, outputs)
    assert sorted(name for name, _ in jobs) == [
        "token_scaling_tiny/m0_03/cooldown",
        *["token_scaling_tiny/m0_03/evaluate"] * 2,
        "token_scaling_tiny/m0_03/trunk",
        "token_scaling_tiny/publish",
    ]
    assert {state for _, state in jobs} == {"COMPLETED"}


def test_a_launch_that_dies_after_sbatch_leaves_no_orphan(outputs, slurm, workbench, wait_for, tmp_path):
    """The job is there, its id was never written down: the next launch finds it by its comment."""
    there = ("model=m0_03", "tokens=40960", "evaluation=none", "tracking.publish=false", f"paths.outputs={outputs}")
    command = [sys.executable, "-m", "workbench.cli", "run", TINY, *there, *SLURM]
    wrapper = tmp_path / "bin"
    wrapper.mkdir()
    real = shutil.which("sbatch")
    (wrapper / "sbatch").write_text(f'#!/bin/sh\n{real} "$@" > /dev/null\ntouch $0.called\nsleep 600\n')
    (wrapper / "sbatch").chmod(0o755)
    with slurm.drained():
        dying = subprocess.Popen(
            command, env={**slurm.env, "PATH": f"{wrapper}:{slurm.env['PATH']}"}, start_new_session=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        while not (wrapper / "sbatch.called").exists():
            assert dying.poll() is None
            time.sleep(0.1)
        kill_group(dying)
        again = workbench("run", TINY, *there, *SLURM).stdout
        assert "submitted: 1 trainings" in again
        assert "queued or running already: 1 trainings" in again
    wait_for()
    assert sorted(jobs_of(slurm, outputs)) == [
        ("token_scaling_tiny/m0_03/cooldown", "COMPLETED"),
        ("token_scaling_tiny/m0_03/trunk", "COMPLETED"),
        ("token_scaling_tiny/publish", "COMPLETED"),
    ]


def kill_group(process):
    import os

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_two_hundred_points_are_submitted_in_half_a_minute(outputs, slurm, workbench):
    """Beside the seconds that a fresh Python takes to import, which every command does."""
    there = f"paths.outputs={outputs}"
    calls = {}
    with slurm.drained():
        for seeds in (2, 50):
            began = time.monotonic()
            launch = workbench("run", TINY, f"seed=range({seeds})", there, *SLURM, f"study=many{seeds}")
            seconds = time.monotonic() - began
            calls[seeds] = int(launch.stdout.split("by ")[1].split(" calls")[0])
            workbench("cancel", TINY, f"seed=range({seeds})", there, f"study=many{seeds}")
            shutil.rmtree(outputs / "stages")
    assert seconds < 30
    assert calls[50] == calls[2]


# ----------------------------------------------------------------------------------- evaluations


def test_lost_evaluations_and_a_new_suite_are_done_alone(outputs, workbench, states, wait_for, tmp_path, know_speeds):
    there = ("model=m0_03", "tokens=40960,81920", f"paths.outputs={outputs}")
    study = (TINY, *there, "tracking.publish=false")
    workbench("run", *know_speeds(list(study)))
    results = sorted(p for p in outputs.glob("stages/*/checkpoints/*/evals/*.json") if "documents" not in p.name)
    assert len(results) == 4
    before = {path: (path.stat().st_mtime_ns, json.loads(path.read_text())["results"]) for path in results}
    lost = results[::3]
    for path in lost:
        path.unlink()
    assert {s["state"] for s in states(*study)} == {"finished", "trained"}
    workbench("evaluate", *study, *SLURM)
    wait_for()
    for path in results:
        stamp, values = before[path]
        assert json.loads(path.read_text())["results"] == values
        assert (path.stat().st_mtime_ns == stamp) == (path not in lost)
    for folder in ("experiments", "evaluation"):
        (tmp_path / "user" / folder).mkdir(parents=True)
    (tmp_path / "user" / "evaluation" / "words.yaml").write_text(
        "defaults: [embedded_tiny, _self_]\n"
        "suites:\n  words: {name: words, include_path: embedded, tasks: [heldout_prose_last_word], limit: 4}\n"
    )
    kept = {path: path.stat().st_mtime_ns for path in results}
    study = (*study, "--experiments", tmp_path / "user" / "experiments", "evaluation=words")
    workbench("evaluate", *study, *SLURM)
    wait_for()
    new = sorted(p for p in outputs.glob("stages/*/checkpoints/*/evals/words-*.json") if "documents" not in p.name)
    assert len(new) == 4
    assert {s["state"] for s in states(*study)} == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_where_nodes_may_submit_checkpoints_are_scored_as_they_land(outputs, slurm, workbench, states, wait_for):
    study = (TINY, "model=m0_03", "tokens=40960,81920", "tracking.publish=false", f"paths.outputs={outputs}")
    launch = workbench("run", *study, *SLURM, "cluster.submit_from_node=true")
    assert "submitted: 4 trainings, 0 evaluations, 1 publishing" in launch.stdout
    wait_for()
    assert {s["state"] for s in states(*study)} == {"finished"}
    names = [name for name, _ in jobs_of(slurm, outputs)]
    assert 3 <= names.count("token_scaling_tiny/evaluate") <= 4
    assert {state for _, state in jobs_of(slurm, outputs)} == {"COMPLETED"}


# ----------------------------------------------------------------------------------- failures


def test_a_failing_parent_cancels_its_descendants_and_mended_only_they_run_in_a_launch_that_waits(
    outputs, workbench, states, wait_for, checkout
):
    there = ("tokens=40960", f"paths.outputs={outputs}")
    broken = checkout / "workbench" / "train" / "schedule.py"
    whole = broken.read_text()
    broken.write_text(
        whole.replace("def learning_rate(", "def unbroken(")
        + "\n\ndef learning_rate(schedule, tokens, batch_tokens):\n"
        "    if schedule.decay == 'constant' and schedule.peak > 0.01 and tokens > 20000:\n"
        "        raise RuntimeError('the smaller trunk breaks')\n"
        "    return unbroken(schedule, tokens, batch_tokens)\n"
    )
    workbench("run", TINY, *there, *SLURM, "tracking.publish=false", root=checkout)
    wait_for()
    found = {s["label"]: s for s in states(TINY, *there)}
    assert found["m0_03 trunk"]["state"] == "failed"
    assert found["m0_03 cooldown"]["state"] == "cancelled"
    assert "failed" in found["m0_03 cooldown"]["note"]
    assert {found[label]["state"] for label in ("m0_1 trunk", "m0_1 cooldown")} == {"finished"}
    told = workbench("status", TINY, *there).stdout
    assert "the smaller trunk breaks" in told
    stamps = {path: path.stat().st_mtime_ns for path in outputs.glob("stages/*/checkpoints/*/*.safetensors")}
    broken.write_text(whole)
    again = workbench("run", TINY, *there, *SLURM, "hydra.launcher.wait=true", root=checkout)
    assert "submitted: 2 trainings, 2 evaluations" in again.stdout
    assert "4 stages: 4 finished" in again.stdout
    assert "gzip -9" in again.stdout
    assert {s["state"] for s in states(TINY, *there)} == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_limit_takes_what_fits_and_the_next_launch_goes_on(outputs, slurm, workbench, states, wait_for):
    study = (TINY, "model=m0_03", "tokens=40960", "seed=range(2)", "evaluation=none", "tracking.publish=false")
    study = (*study, f"paths.outputs={outputs}")
    with slurm.drained():
        first = workbench("run", *study, *SLURM, "cluster.max_submit=1")
        assert "submitted: 1 trainings" in first.stdout
        assert "not taken by the cluster: 3 jobs" in first.stdout
        second = workbench("run", *study, *SLURM, "cluster.max_submit=100")
        assert "submitted: 3 trainings" in second.stdout
    wait_for()
    assert {s["state"] for s in states(*study)} == {"finished"}


def test_a_wrong_partition_is_one_line(outputs, workbench):
    run = workbench("run", TINY, f"paths.outputs={outputs}", *SLURM, "cluster.partition=nowhere", check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("workbench: ")
    assert "partition" in run.stderr
    assert not list(outputs.glob("stages/*/jobs/*.json"))
