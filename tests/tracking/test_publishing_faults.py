"""A tracking server that is down, refuses or is silent costs bounded time and nothing else."""

import os
import socket
import threading
import time

import pytest
from outputs_tree import make_study

from workbench.tracking.mlflow import PublishError, default_uri, init_store, publish_study

SMALL = {"sizes": {"m0_03": 30_000}, "budgets": (50_000, 100_000), "row_every": 5}


@pytest.fixture
def silent_server():
    """Accepts every connection and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    connections = []

    def accept():
        while True:
            try:
                connections.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for connection in connections:
        connection.close()
    thread.join()


def assert_bounded_failure(made, uri):
    before = dict(os.environ)
    started = time.monotonic()
    with pytest.raises(PublishError) as caught:
        publish_study(made.layout, made.study, uri, timeout_seconds=1)
    assert time.monotonic() - started < 6
    assert "\n" not in str(caught.value)
    assert "workbench publish" in str(caught.value)
    assert dict(os.environ) == before


def test_refusing_server_then_a_working_store(root, closed_port):
    made = make_study(root, **SMALL)
    assert_bounded_failure(made, closed_port)
    assert publish_study(made.layout, made.study).rows == made.rows


def test_silent_server_then_a_working_store(root, silent_server):
    made = make_study(root, **SMALL)
    assert_bounded_failure(made, silent_server)
    report = publish_study(made.layout, made.study)
    assert (report.rows, report.evaluations) == (made.rows, made.evaluations)


def test_file_that_is_no_database(tmp_path):
    made = make_study(tmp_path, **SMALL)
    made.layout.database.write_text("this is no database, " * 100)
    with pytest.raises(PublishError, match="cannot be opened as an MLflow database"):
        init_store(default_uri(made.layout))


def test_deleted_experiment_is_named(root):
    from mlflow import MlflowClient

    made = make_study(root, **SMALL)
    client = MlflowClient(tracking_uri=default_uri(made.layout))
    client.delete_experiment(client.create_experiment(made.study, artifact_location=root.as_uri()))
    with pytest.raises(PublishError, match="is deleted"):
        publish_study(made.layout, made.study)
