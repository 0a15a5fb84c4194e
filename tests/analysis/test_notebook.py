"""Every study's notebook: calls alone, and each runs on a small made-up study of its own kind."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("made_sweep", Path(__file__).with_name("made_sweep.py"))
made_sweep = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(made_sweep)

FOLDER = Path(__file__).parents[2] / "experiments"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALLER = {
    "ablation": ["variant=base,no_positions,more_code", "optimizer.learning_rate=0.004,0.008", "seed=range(3)"],
    "chat": ["then.chat.at_tokens=250000,500000", "then.chat.lora.rank=2,8"],
    "continual": ["seed=0"],
    "distill": ["then.distill.alpha=0,0.5", "tokens=250000,500000"],
    "duplicates": ["seed=range(3)"],
    "extend": ["seed=0"],
    "isoflop": ["model=m0_015,m0_03,m0_06,m0_1,m0_2", "flops=2e12,4e12,8e12"],
    "learning_rate": ["model=m0_03,m0_1,m0_3"],
    "published": ["init=tinyllama_105b,tinyllama_3t,pythia_1b"],
    "repetition": ["data.unique_tokens=64000,256000,null", "tokens=128000,512000,2048000"],
    "seeds": ["seed_init=range(2)", "seed_data=range(2)"],
    "tinyllama": ["recipe=tinyllama_v1,tinyllama_v1_1"],
    "token_scaling": ["tokens=250000,1000000,4000000"],
    "transfer": ["model=w32,w64", "optimizer.learning_rate=0.004,0.008,0.016"],
    "token_scaling_laptop": ["model=m0_03,m0_1", "tokens=250000,1000000"],
}
"""Fewer points than a study has, enough for every cell of its notebook."""


def test_every_study_has_its_three_siblings():
    studies = {path.stem for path in FOLDER.glob("*.yaml") if not path.stem.endswith("_tiny")}
    assert studies == {path.stem for path in NOTEBOOKS} == {path.stem for path in FOLDER.glob("*.md")} == set(SMALLER)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_calls_alone(notebook):
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    source = "\n".join(line for cell in cells for line in cell["source"])
    assert "def " not in source
    assert "lambda" not in source
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


@pytest.fixture(scope="module")
def run_cells():
    """Run a notebook in a process with everything imported: call it with the notebook and its environment."""
    command = [sys.executable, str(Path(__file__).with_name("notebook_cells.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(notebook: Path, environment: dict[str, str]) -> str | None:
            print(json.dumps([str(notebook), environment]), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
    assert process.returncode == 0


@pytest.fixture
def publish(empty_database, tmp_path):
    """Make up a study and publish it: call it with overrides and get the environment for its notebook."""
    from workbench.tracking.mlflow import default_uri, publish_study

    def publish(overrides):
        shutil.copy(empty_database, tmp_path / "mlflow.db")
        layout, study = made_sweep.make_sweep(tmp_path, overrides)
        publish_study(layout, study)
        return {"MLFLOW_TRACKING_URI": default_uri(layout), "WORKBENCH_STUDY": study}

    return publish


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, publish, run_cells):
    failure = run_cells(notebook, publish([f"experiments={notebook.stem}", *SMALLER[notebook.stem]]))
    assert failure is None, failure


@pytest.mark.slow
def test_it_runs_in_a_kernel_of_its_own(publish, tmp_path):
    """One shows that what all begin with, and what they display, needs no more than a kernel has."""
    environment = {**os.environ, **publish(["experiments=chat", *SMALLER["chat"]])}
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", str(FOLDER / "chat.ipynb")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("1 +", "SyntaxError"),
        ("from warnings import warn\nwarn('it is cold')", "it is cold"),
        ("class Odd:\n    def _repr_html_(self):\n        raise OSError('not drawn')\nOdd()", "not drawn"),
        ("import os\nos._exit(3)", "without a word"),
    ],
    ids=["error", "syntax", "warning", "display", "death"],
)
def test_a_cell_that_fails_is_told(source, said, run_cells, tmp_path):
    cells = [{"cell_type": "code", "source": [line]} for line in ("import os", source, "raise KeyError('later')")]
    notebook = tmp_path / "failing.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    failure = run_cells(notebook, {})
    assert said in failure
    assert "KeyError" not in failure
