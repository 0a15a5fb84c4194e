"""A tracking server that refuses, and one that accepts and never answers: the run is unharmed."""

import contextlib
import json
import socket
import threading
import time

import pytest
from warm_commands import run_command

from analysis.load import load_history, load_study
from workbench.study.layout import Layout
from workbench.tracking import spool
from workbench.tracking.mlflow import default_uri


def workbench(verb, overrides, experiments, *options):
    return run_command([verb, "--experiments", experiments, *options, *overrides])


@contextlib.contextmanager
def silent_server():
    """Accepts connections and never says a word."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    kept, done = [], threading.Event()

    def accept():
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                kept.append(server.accept()[0])

    thread = threading.Thread(target=accept)
    thread.start()
    yield server.getsockname()[1]
    done.set()
    thread.join()
    for connection in [*kept, server]:
        connection.close()


@contextlib.contextmanager
def refusing_server():
    """Give a port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


@pytest.mark.parametrize("server", [refusing_server, silent_server])
def test_the_run_is_unharmed_and_publishing_completes_it(overrides, outputs, experiments, server, know_speeds):
    with server() as port:
        began = time.monotonic()
        tracking = [f"tracking.uri=http://127.0.0.1:{port}", "tracking.timeout_seconds=2"]
        run = workbench("run", know_speeds([*overrides, *tracking]), experiments)
        assert run.returncode == 0, run.stdout + run.stderr
        assert time.monotonic() - began < 120
    assert "workbench publish small" in run.stderr
    assert "no table and no figures" in run.stdout
    layout = Layout(outputs)
    stages = json.loads(layout.study_file("small").read_text())["stages"]
    rows = {i: spool.read_rows(layout.stage(i).path) for i in stages}
    assert sum(map(len, rows.values())) == 40

    for published in ("40 rows", "0 rows"):
        assert f"published: {published}" in workbench("publish", overrides, experiments).stdout
    history = load_history("small", ("train/loss",), default_uri(layout))
    expected = {(i, row["step"], row["train/loss"]) for i in stages for row in rows[i]}
    assert set(history[["stage", "step", "train/loss"]].itertuples(index=False, name=None)) == expected
    assert len(history) == len(expected)
    assert load_study("small", default_uri(layout)).value.notna().all()
