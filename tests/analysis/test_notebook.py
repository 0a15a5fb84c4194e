import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "token_scaling.ipynb"


def test_notebook_holds_calls_alone():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    source = "\n".join(line for cell in cells for line in cell["source"])
    assert "def " not in source
    assert "lambda" not in source
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
def test_notebook_runs(published, tmp_path):
    made, uri = published
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "WORKBENCH_STUDY": made.study}
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", str(NOTEBOOK)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout
