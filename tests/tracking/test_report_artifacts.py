"""A study's report among the artifacts of its run."""

from outputs_tree import make_study
from stored_runs import SMALL, run_infos

from workbench.tracking.mlflow import default_uri, log_figures, publish_study


def test_figures_stand_with_the_study(root):
    from mlflow import MlflowClient

    made = make_study(root, **SMALL)
    names = ("a.csv", "a.lineage.json", "noise.table.csv", "chinchilla.json", "report.html")
    for name in names:
        (root / name).write_text("x\n1\n")
    for _ in range(2):
        log_figures(made.layout, made.study, [root / name for name in names], description="what was asked")
    publish_study(made.layout, made.study)
    runs = run_infos(made.layout, made.study)
    assert len(runs) == 7
    client = MlflowClient(tracking_uri=default_uri(made.layout))
    run = client.get_run(runs[""].info.run_id)
    found = {
        folder: [file.path for file in client.list_artifacts(run.info.run_id, folder)]
        for folder in (None, "figures", "fits", "tables")
    }
    assert found[None] == ["figures", "fits", "report.files.json", "report.html", "study.json", "tables"]
    assert found["figures"] == ["figures/a.csv", "figures/a.lineage.json"]
    assert found["fits"] == ["fits/chinchilla.json"]
    assert found["tables"] == ["tables/noise.table.csv"]
    assert run.data.tags["mlflow.note.content"] == "what was asked"
    assert (run.data.tags["points"], run.data.tags["stages"], run.data.tags["commit"]) == ("4", "6", "c0ffee")


def test_what_an_earlier_report_stored_is_removed(root):
    """Artifacts that no report stored stay, and so does what the report stores again."""
    from mlflow import MlflowClient

    made = make_study(root, **SMALL)
    names = ("a.csv", "b.csv", "noise.table.csv", "chinchilla.json", "report.html", "mine.svg")
    for name in names:
        (root / name).write_text("x\n1\n")
    log_figures(made.layout, made.study, [root / name for name in names[:-1]])
    client = MlflowClient(tracking_uri=default_uri(made.layout))
    run_id = run_infos(made.layout, made.study)[""].info.run_id
    client.log_artifact(run_id, str(root / "mine.svg"), "figures")
    log_figures(made.layout, made.study, [root / "b.csv", root / "report.html"])
    found = {
        file.path for folder in ("figures", "fits", "tables", None) for file in client.list_artifacts(run_id, folder)
    }
    assert {path for path in found if "." in path} == {
        "figures/b.csv", "figures/mine.svg", "report.files.json", "report.html", "study.json"
    }  # fmt: skip
    log_figures(made.layout, made.study, [])
    assert [file.path for file in client.list_artifacts(run_id, "figures")] == ["figures/mine.svg"]
