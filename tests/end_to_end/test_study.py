"""From one command to the figure: run, run again, extend, evaluate, publish, and ten mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from mlflow import MlflowClient
from warm_commands import run_command

from analysis.lineage import read_lineage
from analysis.load import load_study
from workbench.cli import main
from workbench.study.files import is_held
from workbench.study.layout import Layout
from workbench.tracking.mlflow import default_uri
from workbench.train.checkpoint import verify


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Outputs of the tiny study, run once."""
    return tmp_path_factory.mktemp("tiny")


def workbench(*arguments, cwd=None):
    """Run a command as a user does, in a fresh Python."""
    command = [sys.executable, "-m", "workbench.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, check=False)


def warm(*arguments):
    """Run a command in a process that begins with everything imported; the time of those above counts, and their signals."""
    return run_command(arguments)


@pytest.fixture
def here(capfd, monkeypatch, tmp_path):
    """Do as `workbench` does, in this process and a folder of its own: what is refused at once is not worth a start."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        printed = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def first(root):
    """First run of the tiny study, from a working directory that is not the project's."""
    plan = workbench("plan", "--json", "experiments=token_scaling_tiny", f"paths.outputs={root}", cwd=root)
    run = workbench("run", "experiments=token_scaling_tiny", f"paths.outputs={root}", cwd=root)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(plan.stdout), run.stdout


def test_the_trainings_done_equal_the_plan(root, first):
    plan, _ = first
    assert plan["tokens_to_train"] == plan["tokens_shared"] < plan["tokens_unshared"]
    stages = {path.name for path in (root / "stages").iterdir()}
    assert stages == {stage["id"] for stage in plan["stages"]}
    rows = {
        s["id"]: len((root / "stages" / s["id"] / "metrics.jsonl").read_text().splitlines()) for s in plan["stages"]
    }
    assert rows == {s["id"]: s["tokens"] // (16 * 64) for s in plan["stages"]}


def test_plan_counts_what_is_drawn(root, first):
    again = json.loads(warm("plan", "--json", "experiments=token_scaling_tiny", f"paths.outputs={root}").stdout)
    assert again["tokens_to_train"] == again["flops_to_train"] == 0
    for point in again["points"]:
        assert point["unique_tokens"] == point["tokens"]
        assert set(point["epochs"]) == {"prose", "code"}


def test_nothing_is_written_elsewhere(root, first):
    """The first run's working directory was the outputs' root: all there is are the outputs' own folders."""
    names = {path.name for path in root.iterdir()}
    assert names <= {
        "code",
        "data",
        "figures",
        "fits",
        "mlartifacts",
        "outputs.id",
        "mlflow.db",
        "mlflow.db.lock",
        "stages",
        "studies",
    } | {
        "speeds.json",
        "speeds.lock",
    }


def test_table_figures_and_lineage(root, first):
    plan, output = first
    frame = load_study("token_scaling_tiny", default_uri(Layout(root)))
    milestones = {(stage["id"], tokens) for stage in plan["stages"] for tokens in stage["milestones"]}
    assert set(zip(frame.stage, frame.tokens, strict=True)) == milestones
    assert {"heldout/prose/bits_per_byte", "heldout/code/bits_per_byte"} <= set(frame.metric)
    assert frame.value.notna().all()
    for row in frame.itertuples():
        assert verify(type(root)(row.checkpoint))["tokens"] == row.tokens
        assert len(row.commit) == 40
    assert "gzip -9" in output
    assert "xz -9" in output
    folder = root / "figures" / "token_scaling_tiny"
    assert {path.suffix for path in folder.iterdir()} == {".svg", ".png", ".csv", ".json", ".html"}
    for mark in read_lineage(folder / "token_scaling.lineage.json").values():
        for source in mark.sources:
            assert verify(type(root)(source.checkpoint))["commit"] == source.commit
            assert yaml.safe_load(type(root)(source.config).read_text())["id"] == source.stage
            assert (type(root)(source.data) / "manifest.json").exists()


def test_report_writes_the_page_and_logs_it(root, first):
    page = root / "figures" / "token_scaling_tiny" / "report.html"
    page.unlink()
    run = warm("report", "experiments=token_scaling_tiny", f"paths.outputs={root}")
    assert run.returncode == 0, run.stderr
    assert f"report: {page}" in run.stdout
    assert f"MLflow: WORKBENCH_OUTPUTS={root} workbench ui token_scaling_tiny " in run.stdout
    client = MlflowClient(tracking_uri=default_uri(Layout(root)))
    experiment = client.get_experiment_by_name("token_scaling_tiny")
    (study,) = client.search_runs([experiment.experiment_id], "tags.kind = 'study'")
    logged = client.download_artifacts(study.info.run_id, "report.html", str(root.parent))
    assert type(root)(logged).read_text() == page.read_text()
    assert "report.html" in study.data.tags["mlflow.note.content"]


def test_the_first_run_says_how_long_it_will_take_and_how_long_it_took(first):
    _, output = first
    assert re.search(r"on this machine about [\d.]+ min with \d+ at a time: training .*, 8 evaluations ", output)
    assert re.search(r"took [\d.]+ min; [\d.]+ min were estimated", output)


def test_a_report_whose_inputs_have_not_changed_is_not_drawn_again(root, first):
    folder = root / "figures" / "token_scaling_tiny"
    report = ["report", "experiments=token_scaling_tiny", f"paths.outputs={root}"]
    drawn = warm(*report).stdout
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert warm(*report).stdout == drawn
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "token_scaling.png").write_bytes(b"")
    assert warm(*report).stdout == drawn
    assert (folder / "token_scaling.png").stat().st_size > 1000


def test_run_again_trains_nothing(root, first):
    before = {path: path.stat().st_mtime_ns for path in (root / "stages").rglob("*.safetensors")}
    began = time.monotonic()
    run = workbench("run", "experiments=token_scaling_tiny", f"paths.outputs={root}")
    assert run.returncode == 0, run.stderr
    assert ", 0M tokens to train" in run.stdout
    assert "on this machine" not in run.stdout
    assert time.monotonic() - began < 60
    assert {path: path.stat().st_mtime_ns for path in (root / "stages").rglob("*.safetensors")} == before


def test_a_lost_evaluation_is_found_and_done_alone(root, first):
    results = sorted(p for p in (root / "stages").rglob("evals/embedded-*.json") if "documents" not in p.name)
    kept = {path: path.stat().st_mtime_ns for path in results[1:]}
    content = json.loads(results[0].read_text())["results"]
    results[0].write_text(results[0].read_text()[:100])
    run = warm("evaluate", "experiments=token_scaling_tiny", f"paths.outputs={root}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("1 evaluations are missing")
    assert {path: path.stat().st_mtime_ns for path in results[1:]} == kept
    assert json.loads(results[0].read_text())["results"] == content


def test_status_says_finished(root, first):
    run = warm("status", "--json", "experiments=token_scaling_tiny", f"paths.outputs={root}")
    assert {state["state"] for state in json.loads(run.stdout)} == {"finished"}


MISTAKES = {
    "unknown key": (["model.bogus=1"], "bogus"),
    "heads not divisible": (["model.num_heads=3"], "3"),
    "wrong type": (["tokens=many"], "many"),
    "vocabulary mismatch": (["model.vocab_size=1000"], "1000"),
    "missing file": (["data=jsonl", "data.sources.text.path=/no/such.jsonl"], "/no/such.jsonl"),
    "budget of FLOPs": (["budget.max_flops=1000"], "budget.max_flops"),
    "budget of hours": (["budget.max_hours=1e-9"], "budget.max_hours"),
    "flash-attn missing": (["numerics.attention=flash_attn"], "flash"),
    "no CUDA device": (["numerics.device=cuda"], "cuda"),
    "two numerics of one trajectory": (["numerics.threads=1,2"], "numerics"),
    "no such study": (["experiments=no_such"], "no_such"),
    "tokenizer file missing": (["tokenizer=llama2", "tokenizer.path=/no/tokenizer.model"], "/no/tokenizer.model"),
    "budget below the warm-up": (["tokens=1000"], "warmup"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, name, here):
    overrides, quoted = MISTAKES[name]
    base = [] if any(o.startswith("experiments") for o in overrides) else ["experiments=token_scaling_tiny"]
    run = here("run", *base, f"paths.outputs={tmp_path / 'outputs'}", *overrides)
    assert run.returncode not in (0, None)
    assert run.stderr.startswith("workbench: ")
    assert run.stderr.count("\n") == 1, run.stderr
    assert quoted in run.stderr
    assert not list(tmp_path.iterdir())


def test_options_may_stand_between_overrides(tmp_path):
    arguments = ("experiments=token_scaling_tiny", "-m", "model=m0_03", f"paths.outputs={tmp_path}", "--json")
    run = warm("plan", *arguments, "tokens=40960", "--no-measure")
    assert [point["model"] for point in json.loads(run.stdout)["points"]] == ["m0_03"]
    assert warm("plan", "--bogus").returncode == 2


def test_a_damaged_checkpoint_is_named_by_every_command(root, first, tmp_path, here):
    checkpoint = sorted((root / "stages").glob("*/checkpoints/step_*"))[0]
    copy = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    run = here("export", copy, tmp_path / "exported")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "model.safetensors does not match its checksum" in run.stderr
    assert not (tmp_path / "exported").exists()


def test_export_and_generate(root, first, tmp_path, here):
    checkpoint = sorted((root / "stages").glob("*/checkpoints/step_*"))[0]
    run = warm("export", checkpoint, tmp_path / "exported")
    assert run.returncode == 0, run.stderr
    assert "AutoModelForCausalLM.from_pretrained" in run.stdout
    assert not list((tmp_path / "exported").glob("optimizer*"))
    run = warm("generate", tmp_path / "exported", "import os", "--max-tokens", "5")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("import os")
    too_long = here("generate", checkpoint, "import os", "--max-tokens", "500")
    assert too_long.returncode == 2
    assert "context of 64" in too_long.stderr


def test_more_tokens_than_there_are_is_refused_with_both_numbers(root, first):
    stages = set((root / "stages").iterdir())
    run = warm("run", "experiments=token_scaling_tiny", f"paths.outputs={root}", "model=m0_03", "tokens=900000000")
    assert run.returncode != 0
    assert run.stderr.count("\n") == 1, run.stderr
    assert "max_epochs" in run.stderr
    assert set((root / "stages").iterdir()) == stages


def test_ctrl_c_writes_checkpoints_and_ends_as_killed(outputs, base_overrides, experiments, know_speeds):
    overrides = know_speeds([*base_overrides, f"paths.outputs={outputs}", "tokens=5242880"])
    command = [sys.executable, "-m", "workbench.cli", "run", "--experiments", str(experiments), *overrides]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(outputs.glob("stages/*/metrics.jsonl")) or not rows(outputs):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    [status] = [json.loads(path.read_text()) for path in outputs.glob("stages/*/status.json")]
    assert status["state"] == "killed"
    [checkpoint] = list(outputs.glob("stages/*/checkpoints/step_*"))
    assert verify(checkpoint)["step"] == len(rows(outputs))


def test_a_run_whose_first_process_is_killed_leaves_no_orphans(outputs, base_overrides, experiments, know_speeds):
    """The workers notice, write their checkpoints and end; the same command goes on from there."""
    overrides = know_speeds([*base_overrides, f"paths.outputs={outputs}", "tokens=2621440"])
    command = [sys.executable, "-m", "workbench.cli", "run", "--experiments", str(experiments), *overrides]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(outputs.glob("stages/*/metrics.jsonl")) or not rows(outputs):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    [lock] = outputs.glob("stages/*/lock")
    patience = time.monotonic() + 30
    while is_held(lock):
        assert time.monotonic() < patience, "a worker trains on without its parent"
        time.sleep(0.1)
    [checkpoint] = list(outputs.glob("stages/*/checkpoints/step_*"))
    assert verify(checkpoint)["step"] == len(rows(outputs)) < 8192


def rows(outputs):
    return [line for path in outputs.glob("stages/*/metrics.jsonl") for line in path.read_text().splitlines()]
