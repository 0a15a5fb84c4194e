"""Addresses of stores, whatever the outputs folder is called."""

import pytest
from outputs_tree import make_study
from sqlalchemy.engine import make_url

from analysis.experiment_store import resolve_uri
from analysis.load import load_study
from workbench.study.layout import Layout
from workbench.tracking.connection import PublishError, artifact_location, database_file, default_uri
from workbench.tracking.mlflow import log_figures, publish_study

ODD = [
    "a%b",
    "a%20b",
    "%3F",
    "what?",
    "a?b=c",
    "ha#sh",
    "sp ace",
    "üñí",
    "quo'te",
    "semi;colon",
    "pl+us",
    "a@b:c",
    "[1]",
]


@pytest.mark.parametrize("name", ["plain", *ODD])
def test_a_database_lies_in_its_folder(tmp_path, name, monkeypatch):
    layout = Layout(tmp_path / name)
    layout.root.mkdir()
    layout.database.touch()
    uri = default_uri(layout)
    assert make_url(uri).database == str(layout.database)
    assert database_file(uri) == layout.database
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(layout.root)
    assert resolve_uri() == uri


def test_plain_addresses_stay_as_they_were(tmp_path):
    assert default_uri(Layout(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"


def test_artifacts_lie_in_the_outputs_or_where_a_server_says(tmp_path):
    layout = Layout(tmp_path / "a?b#c%20 d")
    location = artifact_location(layout, "reference/mine", default_uri(layout))
    assert location == f"{tmp_path.as_uri()}/a%3Fb%23c%2520%20d/mlartifacts/reference/mine"
    for database in ("postgresql://me@host/mlflow", "postgresql+psycopg://me@host/x", "mysql+pymysql://me@host/mlflow"):
        assert artifact_location(layout, "reference/mine", database) == location
    assert artifact_location(layout, "mine", "http://127.0.0.1:5000") is None


def test_what_is_no_address_is_said():
    with pytest.raises(PublishError, match=r"^[^\n]*'sqlite;x'"):
        database_file("sqlite;x")


def test_a_study_is_published_and_loaded_in_an_odd_folder(root):
    """The database, the artifacts and nothing else are made there, and nothing beside it."""
    odd = root / "a%20b?c#d é"
    odd.mkdir()
    (root / "mlflow.db").rename(odd / "mlflow.db")
    made = make_study(odd, sizes={"m0_03": 30_000}, budgets=(250_000,))
    figure = odd / "loss.csv"
    figure.write_text("x\n")
    assert publish_study(made.layout, made.study).rows == made.rows
    log_figures(made.layout, made.study, [figure])
    assert len(load_study(made.study, default_uri(made.layout))) == len(made.values)
    assert [path.name for path in root.iterdir()] == [odd.name]
    assert list((odd / "mlartifacts" / made.study).glob("*/artifacts/figures/loss.csv"))
