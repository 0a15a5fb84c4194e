"""Jobs of two tasks on two nodes, and whatever ends jobs: each study ends as if nothing had happened.

All faults strike stages of one array, one seed each, so that they are waited for together.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from analysis.load import load_history, load_runs
from workbench.launch.slurm.claim import list_claims
from workbench.study.files import read_stage
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.mlflow import default_uri, publish_study
from workbench.train.checkpoint import checkpoints_by_tokens

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

SLURM = ("hydra/launcher=slurm", "cluster=slurm_demo")
TWO = ("resources.processes=2", "resources.nodes=2", "numerics.parallel=shard")
STUDY = ("recipe=cosine", "recipe.warmup_tokens=512", "recipe.batch_sequences=8", "evaluation=none",
         "checkpoint.interval_seconds=1", "study=faults")  # fmt: skip
# Enough that a stage goes on for seconds after it has begun, on a quick and idle machine too.
STEPS = 1200
TOKENS = f"tokens={256 * STEPS}"


class Launched:
    """One study under one outputs' root on one Slurm."""

    def __init__(self, slurm, root, overrides, experiments):
        self.slurm, self.root, self.layout = slurm, root, Layout(root)
        self.overrides = [*overrides, f"paths.outputs={root}", "--experiments", str(experiments)]

    def run(self, verb="run", *more, check=True):
        command = [sys.executable, "-m", "workbench.cli", verb, *self.overrides, *more]
        done = subprocess.run(command, env=self.slurm.env, capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def launch(self):
        return self.run("run", *SLURM)

    def stages(self):
        """Ids of the stages, by the seed of their data."""
        found = {}
        for path in (self.root / "stages").iterdir():
            found[read_stage(self.layout.stage(path.name)).stream.seed] = path.name
        return found

    def job(self, stage):
        [claim] = [c for c in list_claims(self.layout, [stage], "faults") if (c.kind, c.stage) == ("train", stage)]
        return claim.job

    def rows(self, stage):
        return spool.read_rows(self.layout.stage(stage).path)

    def has_begun(self, stage, steps=30):
        """Whether a stage has taken some steps and written a checkpoint."""
        return len(self.rows(stage)) > steps and bool(self.layout.stage(stage).list_checkpoints())

    def wait_for_begin(self, stage):
        self.strike({stage: lambda: None})

    def strike(self, blows):
        """Deal each stage its blow as soon as it has begun: those that begin later may be much later."""
        until, left = time.monotonic() + 240, dict(blows)
        while left:
            for stage in filter(self.has_begun, tuple(left)):
                left.pop(stage)()
            assert time.monotonic() < until, self.run("status")
            time.sleep(0.1)

    def queue(self):
        """(job, state) of every job of this study's that has not ended."""
        tokens = {path.name for path in (self.root / "jobs").iterdir()}
        lines = self.slurm.run(["squeue", "--noheader", "--array", "--format=%k %i %T"]).splitlines()
        return {job: state for token, job, state in map(str.split, lines) if token in tokens}

    def wait(self, *jobs, seconds=300):
        """Wait until some jobs, or all of the study, have ended."""
        until = time.monotonic() + seconds
        while left := set(jobs) & set(self.queue()) if jobs else self.queue():
            assert time.monotonic() < until, f"{left} {self.run('status')}"
            time.sleep(0.5)

    def wait_for_state(self, job, state, seconds=120):
        until = time.monotonic() + seconds
        while self.queue().get(job) != state:
            assert time.monotonic() < until, f"{job} {self.queue()}"
            time.sleep(0.5)

    def story(self, stage):
        """What the jobs of a stage left behind, for whoever reads of a failure."""
        stage_dir = self.layout.stage(stage)
        job = self.job(stage)
        lines = [f"job {job}: {self.slurm.sacct(job, 'JobID,State,ExitCode,Start,End')}"]
        files = [stage_dir.status, stage_dir.log, *sorted(self.root.glob(f"jobs/*/{job}_*_log.*"))]
        for path in filter(Path.exists, files):
            lines += [f"-- {path.name}", *path.read_text(errors="replace").splitlines()[-60:]]
        return "\n".join(lines)

    def final_state(self, stage):
        """Numbers that must not depend on what happened on the way."""
        tokens, path = max(checkpoints_by_tokens(self.layout.stage(stage)).items())
        # Their tensors: the order in which a share's file lists them is not fixed.
        files = {p.relative_to(path).as_posix(): load_file(p) for p in path.rglob("*.safetensors")}
        rows = [{k: v for k, v in row.items() if k not in spool.WALL_CLOCK} for row in self.rows(stage)]
        return tokens, files, rows


@pytest.fixture(scope="module")
def make(slurm, tmp_path_factory, prepared_root, base_overrides, experiments):
    """Make a study under fresh outputs."""

    def make(name, *overrides):
        root = tmp_path_factory.mktemp(name)
        (root / "data").symlink_to(prepared_root / "data")
        base = [override for override in base_overrides if not override.startswith("evaluation")]
        return Launched(slurm, root, [*base, *STUDY, *overrides], experiments)

    return make


def ranks(launched, job):
    """Process ids of a job's tasks, by rank."""
    found = {}
    main, _, index = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={main}", f"SLURM_ARRAY_TASK_ID={index}"} if index else {f"SLURM_JOB_ID={main}"}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_text().split("\0")
            command = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if "workbench.launch.slurm.on_node" in command and wanted <= set(environment) and "srun" not in command[0]:
            values = dict(line.split("=", 1) for line in environment if "=" in line)
            if "SLURM_PROCID" in values and values["SLURM_CONF"] == str(launched.slurm.config):
                found[int(values["SLURM_PROCID"])] = int(process.name)
    return found


PREEMPTED, CANCELLED, KILLED, NODE, CONTROLLER = range(5)


@pytest.fixture(scope="module", autouse=True)
def limited(make):
    """A stage under a limit of a minute, with a signal long before it, and beside it the same without a limit."""
    overrides = ("tokens=7680000", "seed=7")
    short = make("limited", *overrides, "cluster.signal_seconds=45", "resources.minutes=1")
    long = make("unlimited", *overrides)
    for study in (short, long):
        study.launch()
    return short, long


@pytest.fixture(scope="module")
def untouched(make, limited):
    """The study that nothing happens to."""
    study = make("untouched", *TWO, TOKENS, "seed=range(5)")
    study.launch()
    study.wait()
    return study


def wait_until_written_down(study):
    """Wait until a study's only job has begun its turn long enough ago for the controller to have written that down.

    It is 15 seconds at least until the signal of a limited job, whose requeue a controller that is killed at that moment
    would forget as well: Slurm then believes that the job still runs, and ends it at its limit.
    """
    [stage] = study.stages().values()
    job, until = study.job(stage).partition("_")[0], time.monotonic() + 240
    while True:
        lines = study.slurm.run(["squeue", "--noheader", "--format=%i %T %M"]).splitlines()
        found = [line.split()[1:] for line in lines if line.split()[0].partition("_")[0] == job]
        if not found or (found[0][0] == "RUNNING" and found[0][1] in ("0:07", "0:08", "0:09", "0:10", "0:11")):
            return
        assert time.monotonic() < until, lines
        time.sleep(0.2)


@pytest.fixture(scope="module")
def struck(make, limited, untouched):
    """The study that everything happens to, launched a second time at the end."""
    slurm = untouched.slurm
    study = make("struck", *TWO, TOKENS, "seed=range(5)")
    with slurm.drained():
        study.launch()
        stages = study.stages()
        jobs = {seed: study.job(stage) for seed, stage in stages.items()}
        for seed in (NODE, CONTROLLER):
            slurm.run(["scontrol", "hold", jobs[seed]])
    study.strike(
        {
            stages[PREEMPTED]: lambda: slurm.run(["scancel", "--signal=USR2", jobs[PREEMPTED]]),
            stages[CANCELLED]: lambda: slurm.run(["scancel", jobs[CANCELLED]]),
            stages[KILLED]: lambda: os.kill(ranks(study, jobs[KILLED])[1], signal.SIGKILL),
        }
    )
    study.wait(jobs[PREEMPTED], jobs[CANCELLED], jobs[KILLED])
    # What the controller has not written down, it forgets when it is killed; it writes every 5 s.
    time.sleep(7)
    slurm.run(["scontrol", "release", jobs[CONTROLLER]])
    study.wait_for_begin(stages[CONTROLLER])
    while len(found := ranks(study, jobs[CONTROLLER])) < 2:
        time.sleep(0.2)
    for process in found.values():  # it would end while the other job is waited for
        os.kill(process, signal.SIGSTOP)
    wait_until_written_down(limited[0])
    slurm.kill_controller()
    for process in found.values():
        os.kill(process, signal.SIGCONT)
    time.sleep(3)
    slurm.start_controller()
    slurm.run(["scontrol", "release", jobs[NODE]])
    study.wait(jobs[CONTROLLER])
    study.wait_for_begin(stages[NODE])
    # The last of an array to begin has the array's own number: requeued, it must come back alone.
    slurm.run(["scancel", "--signal=USR2", jobs[NODE]])
    study.wait_for_state(jobs[NODE], "PENDING")
    study.wait_for_state(jobs[NODE], "RUNNING")
    study.wait_for_begin(stages[NODE])
    while len(found := ranks(study, jobs[NODE])) < 2:
        time.sleep(0.2)
    slurm.kill_slurmd("n2")
    # Its processes would go on and might end before Slurm gives the node up, after half a minute.
    for process in found.values():
        os.kill(process, signal.SIGSTOP)
    study.wait_for_state(jobs[NODE], "PENDING")
    slurm.start_node("n2")
    study.wait()
    study.told = study.run("status", "--json")
    study.launch()
    study.wait()
    return study


def test_what_happened_is_told(struck):
    stages = struck.stages()
    told = {state["stage"]: state for state in json.loads(struck.told)}
    assert told[stages[CANCELLED]]["state"] == "cancelled"
    assert told[stages[KILLED]]["state"] == "failed"
    assert {told[stages[seed]]["state"] for seed in (PREEMPTED, CONTROLLER, NODE)} == {"finished"}


@pytest.mark.parametrize("seed", [PREEMPTED, CANCELLED, KILLED, NODE, CONTROLLER])
def test_the_end_is_the_untouched_runs(untouched, struck, seed):
    stage = untouched.stages()[seed]
    ours, theirs = struck.final_state(stage), untouched.final_state(stage)
    assert ours[0] == theirs[0] == 256 * STEPS, struck.story(stage)
    assert ours[2] == theirs[2]
    assert [row["step"] for row in ours[2]] == list(range(1, STEPS + 1))
    assert_equal(ours[1], theirs[1])


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensors in ours.items():
        assert tensors.keys() == theirs[name].keys()
        assert all(torch.equal(tensor, theirs[name][key]) for key, tensor in tensors.items()), name


def test_a_preempted_job_came_back_under_its_own_id(struck):
    stage = struck.stages()[PREEMPTED]
    log = struck.layout.stage(stage).log.read_text()
    assert "back into the queue under the same id" in log
    assert "resumes from" in log
    turns = [state for (state,) in struck.slurm.sacct(struck.job(stage), "State")]
    assert turns == ["REQUEUED", "COMPLETED"]


def test_rows_in_mlflow_are_complete_and_single(untouched, struck):
    histories = []
    for study in (struck, untouched):
        uri = default_uri(study.layout)
        assert publish_study(study.layout, "faults", uri).rows == 0
        assert set(load_runs("faults", uri).status) == {"FINISHED"}
        history = load_history("faults", ["train/loss", "train/gradient_norm"], uri)
        assert not history.duplicated(["stage", "step"]).any()
        keys = ["stage", "step", "tokens", "train/loss", "train/gradient_norm"]
        histories.append(history.sort_values(["stage", "step"]).reset_index(drop=True)[keys])
    assert len(histories[0]) == 5 * STEPS
    assert histories[0].equals(histories[1])


def test_two_tasks_on_two_nodes_have_the_losses_of_one_rank_and_one_rank_goes_on(make, untouched, know_speeds):
    from workbench.train.whole_stage import train_stage

    stage = untouched.stages()[0]
    alone = make("alone", TOKENS, "seed=0")
    know_speeds(alone.overrides[:-2])  # without --experiments and its folder
    alone.run("run")
    pairs = zip(alone.rows(stage), untouched.rows(stage), strict=True)
    difference = max(abs(a["train/loss"] - b["train/loss"]) for a, b in list(pairs)[:50])
    assert 0 < difference < 1e-5

    # The two-rank study's half-way state, finished by one rank.
    half = make("half", *TWO, TOKENS, "seed=0")
    half.launch()
    half.wait_for_begin(stage)
    half.run("cancel")
    half.wait()
    assert json.loads(half.run("status", "--json"))[0]["state"] == "cancelled"
    reached = half.rows(stage)
    train_stage(half.layout, stage)
    assert half.rows(stage)[: len(reached)] == reached
    assert len(half.rows(stage)) == STEPS
    # Rounding differs with the ranks and grows over hundreds of steps: the first that one rank took alone.
    first = slice(len(reached), len(reached) + 50)
    pairs = zip(half.rows(stage)[first], untouched.rows(stage)[first], strict=True)
    assert 0 < max(abs(a["train/loss"] - b["train/loss"]) for a, b in pairs) < 1e-4


def test_a_time_limit_shorter_than_the_stage(limited):
    short, long = limited
    short.wait()
    long.wait()
    [stage] = short.stages().values()
    assert short.layout.stage(stage).log.read_text().count("back into the queue under the same id") >= 5
    ours, theirs = short.final_state(stage), long.final_state(stage)
    assert ours[0] == theirs[0] == 7680000, short.story(stage)
    assert ours[2] == theirs[2]
    assert_equal(ours[1], theirs[1])
    turns = [state for (state,) in short.slurm.sacct(short.job(stage), "State")]
    assert turns.count("REQUEUED") >= 5
    assert turns[-1] == "COMPLETED"
