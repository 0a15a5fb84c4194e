"""A kind of stage from outside the package: the example of docs/kinds.md, as a user would write it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from warm_commands import run_command

from workbench.config.kind_registry import PLUGINS, find_kind
from workbench.launch.snapshot import freeze_code
from workbench.study.layout import Layout

DOCS = Path(__file__).parents[2] / "docs" / "kinds.md"


@pytest.fixture
def plugins(tmp_path):
    """Write the documented kind into a folder of a user's."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    folder = tmp_path / "mine" / "prune"
    folder.mkdir(parents=True)
    for name, block in zip(("spec", "plan", "run"), blocks, strict=True):
        (folder / f"{name}.py").write_text(block)
    return folder.parent


def workbench(*arguments, **environment):
    return run_command(arguments, env={**os.environ, **environment})


def test_the_documented_kind_is_short(plugins):
    lines = [line for file in plugins.rglob("*.py") for line in file.read_text().splitlines()]
    assert len(lines) < 80


def test_it_is_run_scored_tracked_and_named_again(plugins, overrides, experiments, outputs, know_speeds):
    settings = [
        *know_speeds(overrides),
        "+then.pruned.kind=prune",
        "+then.pruned.share=0.5",
        "evaluation=embedded_tiny",
    ]
    options = ["--plugins", str(plugins), "--experiments", str(experiments)]
    done = workbench("run", *options, *settings)
    assert done.returncode == 0, done.stderr
    assert "m0_03 pruned" in done.stdout
    # By its name alone: where its kind came from is recorded.
    status = workbench("status", "small", WORKBENCH_OUTPUTS=str(outputs))
    assert "3 finished" in status.stdout, status.stdout + status.stderr
    again = workbench("run", "small", WORKBENCH_OUTPUTS=str(outputs))
    assert again.returncode == 0, again.stderr
    [weights] = [
        path
        for path in (outputs / "stages").glob("*/checkpoints/*/model.safetensors")
        if "kind: prune" in (path.parents[2] / "stage.yaml").read_text()
    ]
    matrices = [tensor for tensor in load_file(weights).values() if tensor.dim() == 2]
    zeros = sum(int((matrix == 0).sum()) for matrix in matrices)
    assert zeros / sum(matrix.numel() for matrix in matrices) == pytest.approx(0.5, abs=0.01)
    # Without the folder, one line says what is missing.
    refused = workbench("plan", "--experiments", str(experiments), *settings)
    assert refused.returncode == 2
    assert "kind='prune' is not a kind of stage" in refused.stderr


def test_its_modules_are_frozen_with_the_code(plugins, monkeypatch, tmp_path):
    monkeypatch.setenv(PLUGINS, str(plugins))
    layout = Layout(tmp_path / "outputs")
    first = freeze_code(layout)
    copies = {path.name: path.read_text() for path in (layout.code_copy(first.copy) / "plugins" / "prune").iterdir()}
    assert copies == {path.name: path.read_text() for path in (plugins / "prune").glob("*.py")}
    (plugins / "prune" / "run.py").write_text("# other\n")
    assert freeze_code(layout).copy != first.copy


def test_what_is_no_kind_is_one_line(plugins, monkeypatch, tmp_path):
    monkeypatch.setenv(PLUGINS, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="which is not a folder"):
        find_kind("prune")
    (plugins / "prune" / "run.py").unlink()
    monkeypatch.setenv(PLUGINS, str(plugins))
    with pytest.raises(ValueError, match=r"lacks run\.py"):
        find_kind("prune")


def test_a_kind_of_a_taken_name_is_refused(plugins, monkeypatch):
    (plugins / "prune").rename(plugins / "average")
    monkeypatch.setenv(PLUGINS, str(plugins))
    with pytest.raises(ValueError, match="given by both"):
        find_kind("average")


def test_an_installed_package_gives_kinds_by_entry_points(plugins, tmp_path, monkeypatch):
    package = tmp_path / "site" / "pruning"
    package.parent.mkdir()
    (plugins / "prune").rename(package)
    for file in package.glob("*.py"):
        file.write_text(file.read_text().replace("workbench_plugins.prune", "pruning"))
    facts = package.parent / "pruning-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pruning\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[workbench.kinds]\nmagnitude = pruning\n")
    script = "from workbench.config.kind_registry import find_kind, kind_names; print(kind_names(), find_kind('magnitude').plan.expand)"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert "'magnitude'" in done.stdout
    assert "function expand" in done.stdout


def test_a_kind_that_leaves_nothing_is_a_failure_and_no_endless_loop(plugins, monkeypatch, make_study, run_local):
    (plugins / "prune" / "run.py").write_text("def run(job):\n    pass\n")
    (plugins / "prune").rename(plugins / "idle")
    for part in ("spec", "plan"):
        file = plugins / "idle" / f"{part}.py"
        file.write_text(
            file.read_text().replace('"prune"', '"idle"').replace("workbench_plugins.prune", "workbench_plugins.idle")
        )
    monkeypatch.setenv(PLUGINS, str(plugins))
    facts = make_study("+then.nothing.kind=idle")
    with pytest.raises(RuntimeError, match="kind 'idle' ended without a checkpoint at"):
        run_local(facts, evaluate=False)
