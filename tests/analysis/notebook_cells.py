"""Notebooks' cells, run as Jupyter's kernel runs them, each notebook in a process forked from one that is warm.

A kernel takes seconds to start and to import what all notebooks import: this process does so once. For each line of its
input, `[notebook, environment]` in JSON, it answers with a line, the traceback of what failed first in JSON or `null`.
It knows nothing of `workbench`, as a kernel does not, and a warning, which a kernel would print, fails.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel has it

from IPython.core.interactiveshell import InteractiveShell
from matplotlib_inline.backend_inline import configure_inline_support

for imported in ("analysis.report", "scipy.optimize", "scipy.stats", "mlflow.store.tracking.sqlalchemy_store"):
    importlib.import_module(imported)


class Shell(InteractiveShell):
    """A shell that keeps what it would show of errors, those of drawing what a cell returns or displays among them."""

    failures: list[str]

    def _showtraceback(self, etype, evalue, stb):
        self.failures.append("\n".join(stb))

    def enable_gui(self, gui=None):
        """Have no window."""


def run_cells(notebook: Path, environment: dict[str, str]) -> str | None:
    """Run all cells in order up to the first that fails, and return its traceback, if there is one."""
    os.environ.update(environment)
    os.chdir(notebook.parent)
    shell = Shell.instance(ipython_dir=tempfile.mkdtemp(), history_length=0, colors="nocolor")
    shell.failures = []
    configure_inline_support(shell, "inline")
    shell.run_line_magic("matplotlib", "inline")
    warnings.simplefilter("error")
    # MLflow 3.17 maps its tables with an option that SQLAlchemy 2.1 deprecates.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            result = shell.run_cell("".join(cell["source"]))
            if shell.failures or not result.success:
                return "\n".join(shell.failures) or repr(result)
    return None


def answer(request: str) -> str:
    """Fork, and return what the new process has to say: in JSON, what `run_cells` returns."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        notebook, environment = json.loads(request)
        os.write(write, json.dumps(run_cells(Path(notebook), environment)).encode())
        os._exit(0)
    os.close(write)
    told = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
    os.close(read)
    _, status = os.waitpid(process, 0)
    return told.decode() or json.dumps(f"it ended without a word, with status {status}")


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(answer(line) + "\n")
        sys.stdout.flush()
