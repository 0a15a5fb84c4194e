"""Jobs of two tasks on two nodes, and whatever ends jobs: each study ends as if nothing had happened.

All faults strike stages of one array, one seed each, so that they are waited for together. A stage that is to be struck waits after
some steps until it was (`paced/sitecustomize.py`): it is then in the middle whatever the machine, and takes no processor time.
"""

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_processes import start, train
from warm_commands import run_command

from analysis.load import load_history, load_runs
from workbench.config.compose import composer
from workbench.forecast.study_facts import make_facts
from workbench.launch.slurm.claim import list_claims
from workbench.launch.snapshot import freeze_study
from workbench.study.files import read_stage, write_atomically
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.mlflow import default_uri, publish_study
from workbench.train.checkpoint import checkpoints_by_tokens
from workbench.train.whole_stage import train_stage

# Patience is for a machine whose processors are slow and shared.
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]

SLURM = ("hydra/launcher=slurm", "cluster=slurm_demo")
TWO = ("resources.processes=2", "resources.nodes=2", "numerics.parallel=shard")
STUDY = ("recipe=cosine", "recipe.warmup_tokens=512", "recipe.batch_sequences=8", "evaluation=none",
         "checkpoint.interval_seconds=1", "study=faults")  # fmt: skip
RETURNS = "back into the queue under the same id"
STEPS, BEGUN = 64, 12
TOKENS = f"tokens={256 * STEPS}"
PACED = Path(__file__).with_name("paced")
STEP_SECONDS = 0.2
"""Of a paced step: a stage has written a checkpoint, for which a second is to pass, before it has begun."""


class Launched:
    """One study under one outputs' root on one Slurm."""

    def __init__(self, slurm, root, overrides, experiments):
        self.slurm, self.root, self.layout = slurm, root, Layout(root)
        self.overrides, self.experiments = [*overrides, f"paths.outputs={root}"], experiments
        self.pace_file = root / "pace"

    def run(self, verb="run", *more):
        words = [verb, *self.overrides, "--experiments", str(self.experiments), *more]
        path = os.pathsep.join(filter(None, (str(PACED), os.environ.get("PYTHONPATH"))))
        environment = {**self.slurm.env, "PYTHONPATH": path, "WORKBENCH_TEST_PACE": str(self.pace_file)}
        done = run_command(words, env=environment, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def launch(self):
        return self.run("run", *SLURM)

    def pace(self, seconds, steps=math.inf):
        """Have each step of the jobs last so long, and stages wait after so many steps."""
        write_atomically(self.pace_file, f"{seconds} {steps}")

    def freeze(self):
        """Plan the study and write down its stages, which nobody launches."""
        with composer(self.experiments) as hydra:
            freeze_study(make_facts([(point.name, point.config) for point in hydra.points(self.overrides)]))

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

    def log(self, stage):
        path = self.layout.stage(stage).log
        return path.read_text() if path.exists() else ""

    def has_begun(self, stage):
        """Whether a stage has taken some steps and written a checkpoint."""
        return len(self.rows(stage)) >= BEGUN and bool(self.layout.stage(stage).list_checkpoints())

    def wait_for_begin(self, stage):
        self.strike({stage: lambda: None})

    def strike(self, blows):
        """Deal each stage its blow as soon as it has begun: those that begin later may be much later."""
        until, left = time.monotonic() + 900, dict(blows)
        while left:
            for stage in filter(self.has_begun, tuple(left)):
                left.pop(stage)()
            assert time.monotonic() < until, self.run("status")
            time.sleep(0.1)

    def wait_until(self, is_so, stage, seconds=600):
        until = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < until, self.story(stage)
            time.sleep(0.2)

    def queue(self):
        """(job, state) of every job of this study's that has not ended."""
        tokens = {path.name for path in (self.root / "jobs").iterdir()}
        lines = self.slurm.run(["squeue", "--noheader", "--array", "--format=%k %i %T"]).splitlines()
        return {job: state for token, job, state in map(str.split, lines) if token in tokens}

    def wait(self, *jobs, seconds=1500):
        """Wait until some jobs, or all of the study, have ended."""
        until = time.monotonic() + seconds
        while left := set(jobs) & set(self.queue()) if jobs else self.queue():
            assert time.monotonic() < until, f"{left} {self.run('status')}"
            time.sleep(0.5)

    def wait_for_state(self, job, state, seconds=600):
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

    code = tmp_path_factory.mktemp("code")  # which all of them copy, and compile once

    def make(name, *overrides):
        root = tmp_path_factory.mktemp(name)
        (root / "data").symlink_to(prepared_root / "data")
        (root / "code").symlink_to(code)
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
LIMITED_STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def limited(make):
    """A stage under a limit of time that ends each of its turns after one step, whatever a step takes.

    Slurm looks at limits every 30 seconds and sends a signal up to 30 seconds early: it comes from 15 to 45 seconds after the
    beginning of a turn, and what it leaves is enough for a turn that begins only then.
    """
    study = make(
        "limited", f"tokens={256 * LIMITED_STEPS}", "seed=7", "tracking.publish=false", "resources.minutes=5",
        "cluster.signal_seconds=255",
    )  # fmt: skip
    study.pace(0, steps=1)
    study.launch()
    return study


@pytest.fixture(scope="module")
def untouched(make):
    """The study that nothing happens to, without Slurm: two processes train each stage here."""
    study = make("untouched", *TWO, TOKENS, "seed=range(5)")
    study.freeze()
    for stage in study.stages().values():
        ended = start(2, train, root=study.root, stage=stage)
        assert [(each.exit_code, each.text) for each in ended] == [(0, "")] * 2
    return study


def wait_until_written_down(study):
    """Wait until a study's only job has begun its turn long enough ago for the controller to have written that down.

    It is 15 seconds at least until the signal of a limited job, whose requeue a controller that is killed at that moment
    would forget as well: Slurm then believes that the job still runs, and ends it at its limit.
    """
    [stage] = study.stages().values()
    job, until = study.job(stage).partition("_")[0], time.monotonic() + 900
    while True:
        lines = study.slurm.run(["squeue", "--noheader", "--format=%i %T %M"]).splitlines()
        found = [line.split()[1:] for line in lines if line.split()[0].partition("_")[0] == job]
        if not found or (found[0][0] == "RUNNING" and found[0][1] in ("0:07", "0:08", "0:09", "0:10", "0:11")):
            return
        assert time.monotonic() < until, lines
        time.sleep(0.2)


@pytest.fixture(scope="module")
def struck(make, limited, slurm):
    """The study that everything happens to, launched a second time at the end."""
    study = make("struck", *TWO, TOKENS, "seed=range(5)")
    study.pace(STEP_SECONDS, steps=BEGUN)
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
        }
    )
    study.wait(jobs[CANCELLED])
    study.wait_until(lambda: RETURNS in study.log(stages[PREEMPTED]), stages[PREEMPTED])
    study.wait_for_begin(stages[KILLED])
    [_, (_, second)] = sorted(ranks(study, jobs[KILLED]).items())
    study.pace(STEP_SECONDS)  # the other is in the middle of a step then, not waiting
    os.kill(second, signal.SIGKILL)
    study.wait(jobs[KILLED])
    study.pace(0)
    study.wait(jobs[PREEMPTED])
    # What the controller has not written down, it forgets when it is killed; it writes every 5 s.
    time.sleep(7)
    study.pace(STEP_SECONDS, steps=BEGUN)
    slurm.run(["scontrol", "release", jobs[CONTROLLER]])
    study.wait_for_begin(stages[CONTROLLER])
    wait_until_written_down(limited)
    slurm.kill_controller()
    study.pace(STEP_SECONDS)  # it goes on meanwhile
    time.sleep(3)
    slurm.start_controller()
    study.wait(jobs[CONTROLLER])
    study.pace(STEP_SECONDS, steps=BEGUN)
    slurm.run(["scontrol", "release", jobs[NODE]])
    study.wait_for_begin(stages[NODE])
    # The last of an array to begin has the array's own number: requeued, it must come back alone.
    slurm.run(["scancel", "--signal=USR2", jobs[NODE]])
    study.wait_until(lambda: RETURNS in study.log(stages[NODE]), stages[NODE])
    steps = len(study.rows(stages[NODE]))
    study.wait_until(lambda: len(study.rows(stages[NODE])) > steps, stages[NODE])
    found = ranks(study, jobs[NODE])
    assert len(found) == 2
    slurm.kill_slurmd("n2")
    # As on a node that hangs, its processes stand still, until Slurm gives it up after half a minute.
    for process in found.values():
        os.kill(process, signal.SIGSTOP)
    study.wait_for_state(jobs[NODE], "PENDING")
    slurm.start_node("n2")
    study.pace(0)
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
    log = struck.log(stage)
    assert RETURNS in log
    assert "resumes from" in log
    turns = [state for (state,) in struck.slurm.sacct(struck.job(stage), "State")]
    assert turns == ["REQUEUED", "COMPLETED"]


def test_rows_in_mlflow_are_complete_and_single(untouched, struck):
    histories = []
    # The jobs have published theirs; nobody has published what was trained here.
    for study, left in ((struck, 0), (untouched, 5 * STEPS)):
        uri = default_uri(study.layout)
        assert publish_study(study.layout, "faults", uri).rows == left
        assert set(load_runs("faults", uri).status) == {"FINISHED"}
        history = load_history("faults", ["train/loss", "train/gradient_norm"], uri)
        assert not history.duplicated(["stage", "step"]).any()
        keys = ["stage", "step", "tokens", "train/loss", "train/gradient_norm"]
        histories.append(history.sort_values(["stage", "step"]).reset_index(drop=True)[keys])
    assert len(histories[0]) == 5 * STEPS
    assert histories[0].equals(histories[1])


def test_two_tasks_on_two_nodes_have_the_losses_of_one_rank_and_one_rank_goes_on(make, untouched, struck):
    stage = struck.stages()[0]
    alone = make("alone", TOKENS, "seed=0")
    alone.freeze()
    train_stage(alone.layout, stage)
    pairs = zip(alone.rows(stage), struck.rows(stage), strict=True)
    difference = max(abs(a["train/loss"] - b["train/loss"]) for a, b in list(pairs)[:50])
    assert 0 < difference < 1e-5

    # The two-rank study's half-way state, finished by one rank.
    half = make("half", *TWO, TOKENS, "seed=0")
    half.pace(STEP_SECONDS, steps=BEGUN)
    half.launch()
    half.wait_for_begin(stage)
    half.run("cancel")
    half.wait()
    assert json.loads(half.run("status", "--json"))[0]["state"] == "cancelled"
    reached = half.rows(stage)
    train_stage(half.layout, stage)
    assert half.rows(stage)[: len(reached)] == reached
    assert len(half.rows(stage)) == STEPS
    # Rounding differs with the ranks and grows with the steps: the first that one rank took alone.
    first = slice(len(reached), len(reached) + 50)
    pairs = zip(half.rows(stage)[first], untouched.rows(stage)[first], strict=True)
    assert 0 < max(abs(a["train/loss"] - b["train/loss"]) for a, b in pairs) < 1e-4


def test_a_time_limit_shorter_than_the_stage(limited, make):
    long = make("unlimited", f"tokens={256 * LIMITED_STEPS}", "seed=7")
    long.freeze()
    [stage] = long.stages().values()
    train_stage(long.layout, stage)
    limited.wait()
    assert limited.log(stage).count(RETURNS) >= 5
    ours, theirs = limited.final_state(stage), long.final_state(stage)
    assert ours[0] == theirs[0] == 256 * LIMITED_STEPS, limited.story(stage)
    assert ours[2] == theirs[2]
    assert [row["step"] for row in ours[2]] == list(range(1, LIMITED_STEPS + 1))
    assert_equal(ours[1], theirs[1])
    turns = [state for (state,) in limited.slurm.sacct(limited.job(stage), "State")]
    assert turns.count("REQUEUED") >= 5
    assert turns[-1] == "COMPLETED"
