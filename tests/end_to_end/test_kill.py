"""SIGKILL at twenty random moments, and then everything is as if nothing had been."""

import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from warm_commands import Command

from analysis.load import load_history, load_runs, load_study
from workbench.forecast.study_facts import make_facts
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.mlflow import default_uri
from workbench.tracking.thinning import is_sent
from workbench.train.checkpoint import checkpoints_by_tokens, verify

KILLS = 20
STUDY = ["tokens=327680,655360", "checkpoint.interval_seconds=0.2", "recipe.milestones=[65536]"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a start takes seconds, and many on a busy machine


def start(overrides, experiments):
    """Start `workbench run` in a process group of its own."""
    return Command(["run", "--experiments", experiments, *overrides], merge=True)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def rows_written(root):
    return sum(path.stat().st_size for path in (root / "stages").glob("*/metrics.jsonl"))


def kill_somewhere(process, root, rng):
    """Wait until the run trains (or evaluates), then a random while, then SIGKILL to all of its processes."""
    before, patience = rows_written(root), time.monotonic() + 120
    while rows_written(root) == before and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.4))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return alive


def numbers(root, facts):
    layout, found = Layout(root), {}
    for identifier, node in facts.plan.nodes.items():
        rows = spool.read_rows(layout.stage(identifier).path)
        found[identifier] = [{k: v for k, v in row.items() if k not in spool.WALL_CLOCK} for row in rows]
        present = checkpoints_by_tokens(layout.stage(identifier))
        assert set(node.targets) <= set(present)
        for tokens in node.targets:
            files = verify(present[tokens])["files"]
            for name in ("model.safetensors", "optimizer.safetensors"):
                if name in files:
                    found[identifier, tokens, name] = load_file(present[tokens] / name)
        branches = checkpoints_by_tokens(layout.stage(identifier), resumable=True)
        assert set(node.stage.branch_points) <= set(branches)
    return found


def test_killed_at_twenty_random_moments(outputs, tmp_path, base_overrides, experiments, compose, know_speeds):
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    for root in (untouched, killed):
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
    finish(start(know_speeds([*base_overrides, *STUDY, f"paths.outputs={untouched}"]), experiments))

    rng, kills, attempts = random.Random(20), 0, 0
    overrides = know_speeds([*base_overrides, *STUDY, f"paths.outputs={killed}"])
    while kills < KILLS:
        attempts += 1
        assert attempts <= KILLS + 3, "the study is too short to be killed so often"
        kills += kill_somewhere(start(overrides, experiments), killed, rng)
    finish(start(overrides, experiments))

    facts = make_facts(compose(overrides, experiments))
    ours, theirs = numbers(killed, facts), numbers(untouched, facts)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(key, str):
            assert value == theirs[key]
            assert [row["step"] for row in value] == sorted({row["step"] for row in value})
        else:
            assert all(torch.equal(tensor, theirs[key][name]) for name, tensor in value.items()), key
    compare_mlflow(killed, untouched, facts)


def compare_mlflow(killed, untouched, facts):
    """Rows and evaluations in MLflow are equal, nothing twice, nothing missing."""
    histories, frames = [], []
    assert set(load_runs("small", default_uri(Layout(killed))).status) == {"FINISHED"}
    for root in (killed, untouched):
        uri = default_uri(Layout(root))
        metrics = ["train/loss", "train/gradient_norm", "train/learning_rate"]
        history = load_history("small", metrics, uri)
        keys = ["stage", "step"]
        assert not history.duplicated(keys).any()
        assert raw_rows(uri, "train/loss") == sum(
            is_sent(number, tokens, {*facts.plan.nodes[stage].targets, *facts.plan.nodes[stage].stage.milestones})
            for stage, rows in history.sort_values(keys).groupby("stage")
            for number, tokens in enumerate(rows.tokens, 1)
        )
        histories.append(history.sort_values(keys).reset_index(drop=True)[[*keys, "tokens", *metrics]])
        frame = load_study("small", uri)
        keys = ["stage", "tokens", "metric"]
        assert not frame.duplicated(keys).any()
        frames.append(frame.sort_values(keys).reset_index(drop=True)[[*keys, "value", "stderr", "eval_id"]])
    assert histories[0].equals(histories[1])
    assert frames[0].equals(frames[1])
    steps = sum(node.tokens // node.stage.batch_tokens for node in facts.plan.nodes.values())
    assert len(histories[0]) == steps
    assert histories[0].notna().all(axis=None)


def raw_rows(uri, metric):
    """Rows MLflow stores of a metric, duplicates of a step included."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], "tags.kind = 'stage'")
    return sum(len(client.get_metric_history(run.info.run_id, metric)) for run in runs)
