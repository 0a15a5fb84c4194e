"""Scripts for sbatch, and what its refusals mean."""

import pytest

from workbench.config.schema import ClusterConfig
from workbench.launch.slurm import executor as sbatch
from workbench.launch.slurm.commands import SlurmError
from workbench.launch.slurm.executor import LimitError, NoAnswerError, format_indices
from workbench.launch.slurm.submitter import evaluation_resources

CLUSTER = ClusterConfig(
    "test", partition="p", account="a", gpus_per_node=8, gpu_kind="a100", evaluation_gpus=1, setup=["module load x"],
    evaluation_memory_bytes=2**31, sbatch={"exclude": "bad-node"}, signal_seconds=77,
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An executor whose `sbatch` prints what the test says; gives its script, too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "sbatch"):
        (folder / name).write_text(
            '#!/bin/sh\ncat "$FAKE_ERROR" >&2 2>/dev/null && exit 1\necho Submitted batch job 42\n'
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(indices, error="", dependency=None, parallelism=None):
        monkeypatch.setenv("FAKE_ERROR", str(tmp_path / "error"))
        (tmp_path / "error").unlink(missing_ok=True)
        if error:
            (tmp_path / "error").write_text(error)
        executor = sbatch.make_executor(
            tmp_path / "batch", CLUSTER, evaluation_resources(CLUSTER), name="n", token="wb-1",
            code=tmp_path / "co de", dependency=dependency,
        )  # fmt: skip
        job = executor.submit_command(sbatch.node_command(CLUSTER, tmp_path / "batch.json"), indices, parallelism)
        return job, next((tmp_path / "batch").glob("*submission*.sh")).read_text()

    return make


def test_the_script_asks_for_what_the_cluster_has(run, tmp_path):
    job, script = run([0], dependency="afterok:7")
    assert job == "42"
    wanted = [
        "partition=p", "account=a", "gres=gpu:a100:1", "cpus-per-task=1", "mem=2048MB", "time=60", "comment=wb-1",
        "signal=USR2@77", "dependency=afterok:7", "kill-on-invalid-dep=yes", "exclude=bad-node", "open-mode=append",
    ]  # fmt: skip
    for option in wanted:
        assert f"#SBATCH --{option}\n" in script
    assert "#SBATCH --requeue\n" in script
    assert "--array" not in script
    assert script.index("module load x") < script.index("export PYTHONPATH=") < script.index("srun")
    assert f"'{tmp_path / 'co de'}'" in script
    assert " -P -u -m workbench.launch.slurm.on_node " in script


def test_arrays_have_any_indices(run):
    _, script = run([0, 1, 2, 5, 7, 8], parallelism=4)
    assert "#SBATCH --array=0-2,5,7-8%4\n" in script
    assert "%A_%a" in script
    assert format_indices([3]) == "3"
    assert sbatch.job_id("42", [3], 3) == "42_3"
    assert sbatch.job_id("42", [0], 0) == "42"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
         "accounting/QOS policy (job submit limit, user's size and/or time limits)", LimitError),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", LimitError),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", NoAnswerError),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
         NoAnswerError),
        ("sbatch: error: invalid partition specified: p", SlurmError),
    ],
)  # fmt: skip
def test_refusals_are_told_apart(run, error, kind):
    with pytest.raises(SlurmError) as raised:
        run([0], error=error)
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


def test_without_slurm_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SlurmError, match="login node"):
        sbatch.make_executor(
            tmp_path, CLUSTER, evaluation_resources(CLUSTER), name="n", token="t", code=tmp_path, dependency=None
        )
