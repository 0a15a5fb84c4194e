"""What a published study holds in MLflow."""

import sqlite3

from workbench.study.layout import Layout
from workbench.tracking.mlflow import default_uri

SMALL = {"sizes": {"m0_03": 30_000, "m0_1": 100_000}, "budgets": (50_000, 100_000), "row_every": 5}


def stored_counts(layout: Layout) -> dict[str, int]:
    tables = ("runs", "metrics", "logged_models", "logged_model_metrics", "inputs", "params", "tags")
    connection = sqlite3.connect(layout.database)
    counts = {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
    connection.close()
    return counts


def run_infos(layout: Layout, study: str) -> dict:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(layout))
    experiment = client.get_experiment_by_name(study)
    return {run.data.tags.get("stage", ""): run for run in client.search_runs([experiment.experiment_id])}
