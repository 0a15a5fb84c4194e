"""Looking at a study must not wait for libraries that only training and drawing need."""

import subprocess
import sys

HEAVY = {"torch", "mlflow", "lm_eval", "transformers", "pandas", "matplotlib"}
CODE = f"""
import sys
import workbench.cli.study_verbs, workbench.launch.slurm.queue_view, workbench.launch.console, workbench.launch.slurm.display
print(*sorted({HEAVY!r} & set(sys.modules)))
"""


def test_status_imports_no_heavy_library():
    loaded = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == []
