"""The same through a real MLflow server, over HTTP on the loopback address."""

import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from outputs_tree import make_study

from analysis.load import load_documents, load_history, load_study
from workbench.tracking.mlflow import publish_study


@pytest.fixture
def server(root):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--workers", "1", "--port", str(port), "--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}"]
    options += ["--artifacts-destination", str(root / "server-artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            env={**os.environ, **quiet},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail((root / "server.log").read_text())
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.mark.slow
def test_values_survive_http_exactly(root, server, capfd):
    made = make_study(root, sizes={"m0_03": 30_000}, budgets=(50_000, 100_000), row_every=5)
    report = publish_study(made.layout, made.study, server)
    assert (report.rows, report.checkpoints, report.evaluations) == (made.rows, made.checkpoints, made.evaluations)
    again = publish_study(made.layout, made.study, server)
    assert (again.rows, again.checkpoints, again.evaluations, again.runs) == (0, 0, 0, 0)
    assert capfd.readouterr().out == ""
    frame = load_study(made.study, server)
    found = {
        (row.stage, row.tokens, row.metric): (row.value, None if math.isnan(row.stderr) else row.stderr, row.eval_id)
        for row in frame.itertuples()
    }
    assert found == made.values
    assert len(load_history(made.study, tracking_uri=server)) == made.rows
    assert len(load_documents(made.study, "heldout/code/bits_per_byte", server)) == 150 * made.checkpoints
