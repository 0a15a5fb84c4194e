"""The same through a real MLflow server, over HTTP on the loopback address."""

import math

import pytest
from outputs_tree import make_study
from servers import mlflow_server

from analysis.load import load_documents, load_history, load_study
from workbench.tracking.mlflow import log_figures, publish_study


def all_runs(client, study):
    return client.search_runs([client.get_experiment_by_name(study).experiment_id])


@pytest.fixture
def server(root):
    with mlflow_server(root, f"sqlite:///{root / 'mlflow.db'}") as running:
        yield running.uri


@pytest.mark.slow
def test_values_survive_http_exactly(root, server, capfd):
    from mlflow import MlflowClient

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
    for name in ("a.csv", "b.csv"):
        (root / name).write_text("x\n1\n")
    log_figures(made.layout, made.study, [root / "a.csv", root / "b.csv"], server)
    log_figures(made.layout, made.study, [root / "b.csv"], server)
    client = MlflowClient(tracking_uri=server)
    run_id = next(run.info.run_id for run in all_runs(client, made.study) if run.data.tags["kind"] == "study")
    assert [file.path for file in client.list_artifacts(run_id, "figures")] == ["figures/b.csv"]
