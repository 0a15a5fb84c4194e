"""From one command to the figure: run, run again, extend, evaluate, publish, and ten mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from analysis.load import load_study
from workbench.study.layout import Layout
from workbench.tracking.mlflow import default_uri
from workbench.train.checkpoint import verify


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Outputs of the tiny study, run once."""
    return tmp_path_factory.mktemp("tiny")


def workbench(*arguments, timeout=300, cwd=None):
    command = [sys.executable, "-m", "workbench.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False)


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
    again = json.loads(workbench("plan", "--json", "experiments=token_scaling_tiny", f"paths.outputs={root}").stdout)
    assert again["tokens_to_train"] == again["flops_to_train"] == 0
    for point in again["points"]:
        assert point["unique_tokens"] == point["tokens"]
        assert set(point["epochs"]) == {"prose", "code"}


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
    figures = {path.suffix for path in (root / "figures" / "token_scaling_tiny").iterdir()}
    assert figures == {".svg", ".png", ".csv"}


def test_run_again_trains_nothing(root, first):
    before = {path: path.stat().st_mtime_ns for path in (root / "stages").rglob("*.safetensors")}
    began = time.monotonic()
    run = workbench("run", "experiments=token_scaling_tiny", f"paths.outputs={root}")
    assert run.returncode == 0, run.stderr
    assert ", 0M tokens to train" in run.stdout
    assert time.monotonic() - began < 60
    assert {path: path.stat().st_mtime_ns for path in (root / "stages").rglob("*.safetensors")} == before


def test_a_lost_evaluation_is_found_and_done_alone(root, first):
    results = sorted(p for p in (root / "stages").rglob("evals/embedded-*.json") if "documents" not in p.name)
    kept = {path: path.stat().st_mtime_ns for path in results[1:]}
    content = json.loads(results[0].read_text())["results"]
    results[0].write_text(results[0].read_text()[:100])
    run = workbench("evaluate", "experiments=token_scaling_tiny", f"paths.outputs={root}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("1 evaluations are missing")
    assert {path: path.stat().st_mtime_ns for path in results[1:]} == kept
    assert json.loads(results[0].read_text())["results"] == content


def test_status_says_finished(root, first):
    run = workbench("status", "--json", "experiments=token_scaling_tiny", f"paths.outputs={root}")
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
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path, name):
    overrides, quoted = MISTAKES[name]
    base = [] if any(o.startswith("experiments") for o in overrides) else ["experiments=token_scaling_tiny"]
    run = workbench("run", *base, f"paths.outputs={tmp_path / 'outputs'}", *overrides, cwd=tmp_path)
    assert run.returncode not in (0, None)
    assert run.stderr.startswith("workbench: ")
    assert run.stderr.count("\n") == 1, run.stderr
    assert quoted in run.stderr
    assert not list(tmp_path.iterdir())


def test_more_tokens_than_there_are_is_refused_with_both_numbers(root, first):
    stages = set((root / "stages").iterdir())
    run = workbench("run", "experiments=token_scaling_tiny", f"paths.outputs={root}", "model=m0_03", "tokens=900000000")
    assert run.returncode != 0
    assert run.stderr.count("\n") == 1, run.stderr
    assert "max_epochs" in run.stderr
    assert set((root / "stages").iterdir()) == stages


def test_ctrl_c_writes_checkpoints_and_ends_as_killed(outputs, base_overrides, experiments):
    overrides = [*base_overrides, f"paths.outputs={outputs}", "tokens=5242880"]
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


def rows(outputs):
    return [line for path in outputs.glob("stages/*/metrics.jsonl") for line in path.read_text().splitlines()]
