"""The Python of the README, and the first of docs/fits.md, runs as it stands."""

import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
import outputs_tree
import pandas as pd
import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
FITS = re.search(
    r"(?:^(?:    .*)?\n)+", (README.parent / "docs" / "fits.md").read_text().split("\n", 2)[2], re.MULTILINE
)


def test_there_are_examples():
    assert len(BLOCKS) == 2
    assert FITS is not None
    assert "fit_law(" in FITS[0]


@pytest.mark.slow
@pytest.mark.parametrize("block", [*BLOCKS, textwrap.dedent(FITS[0])], ids=["own", "study", "fits"])
def test_an_example_runs(block, empty_database, tmp_path, monkeypatch, capsys):
    from workbench.tracking.mlflow import default_uri, publish_study

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    made = outputs_tree.make_study(tmp_path, "token_scaling", row_every=10_000)
    publish_study(made.layout, made.study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(made.layout))
    monkeypatch.chdir(tmp_path)
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6)))
    loss = 1.8 + 480 / n**0.35 + 2100 / d**0.37
    noise = np.random.default_rng(0).normal(0, 0.003, len(n))
    pd.DataFrame({"params": n, "tokens": d, "loss": loss * np.exp(noise)}).to_csv("runs.csv", index=False)
    exec(compile(block, str(README), "exec"), {})
    assert capsys.readouterr().out.strip()
