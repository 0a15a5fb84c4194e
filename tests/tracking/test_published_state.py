"""A publishing of nothing new reads nothing, and whatever is new, lost or in doubt is compared again and sent once."""

import json
import os
import shutil
import sqlite3
import time

import pytest
from outputs_tree import make_study, row_of

from workbench.study.evaluation_files import documents_path, result_path, write_result
from workbench.tracking import mlflow as publishing
from workbench.tracking import published_state, spool
from workbench.tracking.mlflow import PublishError, PublishReport, default_uri, log_figures, publish_study

SMALL = {"sizes": {"m0_03": 30_000}, "budgets": (50_000,), "row_every": 5}


def age(root):
    """As if everything had been written a while ago."""
    for path in (*(root / "stages").rglob("*"), *root.glob("studies/*/study.json")):
        if path.is_file():
            os.utime(path, (time.time() - 60, time.time() - 60))


@pytest.fixture
def made(root):
    made = make_study(root, **SMALL)
    age(root)
    publish_study(made.layout, made.study)
    return made


@pytest.fixture
def compared(monkeypatch):
    """How often files and store were compared."""
    calls = []
    original = publishing._Publisher.publish

    def counting(self):
        calls.append(self.record.name)
        return original(self)

    monkeypatch.setattr(publishing._Publisher, "publish", counting)
    return calls


def counts(layout):
    tables = ("runs", "metrics", "logged_models", "logged_model_metrics", "inputs", "params", "tags")
    connection = sqlite3.connect(layout.database)
    found = {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
    connection.close()
    return found


def some_stage(made):
    return made.layout.stage(next(iter(json.loads(made.layout.study_file(made.study).read_text())["stages"])))


def test_nothing_new_reads_neither_store_nor_rows(made, monkeypatch):
    for module, name in ((publishing, "connect"), (publishing.intended, "read_study"), (spool, "_scan")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("something was read"))
    assert publish_study(made.layout, made.study) == PublishReport()


def test_whatever_is_new_is_found(made, compared):
    stage = some_stage(made)
    checkpoint, *_, last = stage.list_checkpoints()
    manifest = json.loads((last / "manifest.json").read_text())
    [result] = [path for path in (checkpoint / "evals").glob("*.json") if "documents" not in path.name]
    later = json.loads(result.read_text())
    later |= {"eval_id": "f" * 16, "date": later["date"] + 1000}
    plan = json.loads(made.layout.study_file(made.study).read_text())
    step = manifest["step"] + 5

    def row():
        with spool.MetricsWriter(stage.metrics) as writer:
            writer.write(row_of(step, 30_000))

    def save():
        new = manifest | {"step": step, "tokens": step * 2000}
        stage.checkpoint(step).mkdir()
        (stage.checkpoint(step) / "manifest.json").write_text(json.dumps(new))

    changes = {
        "row": row,
        "checkpoint": save,
        "result": lambda: write_result(
            result_path(checkpoint, "embedded", "f" * 16), later, json.loads(documents_path(result).read_text())
        ),
        "status": lambda: stage.status.write_text(stage.status.read_text().replace("elsewhere", "elsewherf")),
        "code": lambda: (stage.code / "commit").write_text("c0ffef\n"),
        "plan": lambda: made.layout.study_file(made.study).write_text(json.dumps(plan | {"analysis": "isoflop"})),
        "another study's plan": lambda: (
            made.layout.study("aaa").mkdir(),
            made.layout.study_file("aaa").write_text(json.dumps(plan | {"study": "aaa", "created": 0.0})),
        ),
        "a stage that is gone": lambda: shutil.rmtree(stage.path),
    }
    for number, (what, change) in enumerate(changes.items(), 1):
        change()
        age(made.layout.root)
        publish_study(made.layout, made.study)
        assert len(compared) == number, what
        publish_study(made.layout, made.study)
        assert len(compared) == number, what


def test_a_lost_or_damaged_record_adds_nothing(made, compared):
    before, record = counts(made.layout), made.layout.study(made.study) / "published.json"
    whole = record.read_text()
    for content in (None, "", "{", "[1]", '{"complete": true}', whole.replace("sqlite", "sqlitf")):
        if content is None:
            record.unlink()
        else:
            record.write_text(content)
        assert publish_study(made.layout, made.study) == PublishReport()
        assert record.read_text() == whole
    assert len(compared) == 6
    assert counts(made.layout) == before


def test_another_store_gets_everything_once(made, empty_database, compared):
    """A store that is wiped, one that is put back from a copy, and one at another address."""
    layout, before = made.layout, counts(made.layout)
    shutil.copy(layout.database, layout.root / "copy.db")
    shutil.copy(empty_database, layout.database)
    assert publish_study(layout, made.study).rows == made.rows
    assert publish_study(layout, made.study) == PublishReport()
    assert counts(layout) == before
    shutil.copy(layout.root / "copy.db", layout.database)
    assert publish_study(layout, made.study) == PublishReport()
    other = layout.root / "other.db"
    shutil.copy(empty_database, other)
    assert publish_study(layout, made.study, f"sqlite:///{other}").rows == made.rows
    assert len(compared) == 3


def test_a_file_that_is_replaced_under_a_living_process_gets_everything(made):
    """A kept connection would go on with the file that is no more, and say that all is there."""
    made.layout.database.unlink()
    assert publish_study(made.layout, made.study).rows == made.rows
    connection = sqlite3.connect(made.layout.database)
    [[rows]] = connection.execute("select count(*) from metrics where \"key\" = 'train/loss'")
    connection.close()
    assert rows == made.rows


def test_studies_in_one_file_leave_each_other_alone(made, compared):
    """Looking at one in turn with the other compares nothing again and again."""
    shutil.copytree(made.layout.study(made.study), made.layout.study("other"))
    plan = json.loads(made.layout.study_file("other").read_text()) | {"study": "other", "created": 2e9}
    made.layout.study_file("other").write_text(json.dumps(plan))
    age(made.layout.root)
    for study in ("other", made.study):
        publish_study(made.layout, study)
    assert compared == ["other", made.study]
    for study in ("other", made.study) * 2:
        assert publish_study(made.layout, study) == PublishReport()
    assert compared == ["other", made.study]


def test_what_somebody_deletes_in_an_sqlite_store_comes_back(made):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(made.layout))
    experiment = client.get_experiment_by_name(made.study).experiment_id
    [run, *_] = client.search_runs([experiment], "tags.kind = 'stage'")
    client.delete_run(run.info.run_id)
    assert publish_study(made.layout, made.study).runs == 1


def test_what_changed_just_now_is_compared_again(made, compared):
    """A file may change once more within the time that the file system tells apart."""
    stage = some_stage(made)
    stage.status.write_text(stage.status.read_text())
    for _ in range(2):
        publish_study(made.layout, made.study)
    assert len(compared) == 2
    age(made.layout.root)
    for _ in range(2):
        publish_study(made.layout, made.study)
    assert len(compared) == 3


def test_after_one_that_failed_two_are_compared(made, compared, monkeypatch):
    """What a server carries out after it was given up is found by the second."""
    (some_stage(made).code / "commit").write_text("c0ffef\n")
    age(made.layout.root)
    with monkeypatch.context() as patch:
        patch.setattr(publishing._Publisher, "_mark_dropped", lambda self: (_ for _ in ()).throw(OSError("cut off")))
        with pytest.raises(PublishError, match="cut off"):
            publish_study(made.layout, made.study)
    for _ in range(4):
        assert publish_study(made.layout, made.study) == PublishReport()
    assert len(compared) == 3


def test_killed_at_every_write_then_published_again(root, monkeypatch):
    """Between sending and noting that it was sent, and everywhere before."""
    made = make_study(root, **SMALL)
    age(root)
    state = {"left": 0}

    class Killed(BaseException):
        pass

    def dying(self, record, _original=published_state.PublishedState._write):
        if state["left"] == 0:
            raise Killed
        state["left"] -= 1
        return _original(self, record)

    monkeypatch.setattr(published_state.PublishedState, "_write", dying)
    deaths = 0
    for survived in range(4):
        state["left"] = survived
        try:
            publish_study(made.layout, made.study)
        except Killed:
            deaths += 1
    assert deaths == 2
    once = counts(made.layout)
    assert (once["runs"], once["logged_models"]) == (3, made.checkpoints)
    state["left"] = -1
    for _ in range(3):
        assert publish_study(made.layout, made.study) == PublishReport()
    assert counts(made.layout) == once


def test_one_that_waited_for_another_compares_nothing(made, compared, monkeypatch):
    asked = iter([False, True])
    monkeypatch.setattr(published_state.PublishedState, "is_current", lambda *_: next(asked))
    monkeypatch.setattr(publishing.intended, "read_study", lambda *_: pytest.fail("files were read"))
    assert publish_study(made.layout, made.study) == PublishReport()
    assert compared == []


def test_a_running_stage_and_a_damaged_result_are_never_at_rest(root, compared):
    made = make_study(root, **SMALL)
    stage = some_stage(made)
    whole = stage.status.read_text()
    stage.status.write_text(json.dumps(json.loads(whole) | {"state": "running", "host": "elsewhere"}))
    shutil.rmtree(stage.list_checkpoints()[-1])
    for number in (1, 2):
        age(root)
        publish_study(made.layout, made.study)
        assert len(compared) == number
    stage.status.write_text(whole)
    victim = next(iter(sorted(root.glob("stages/*/checkpoints/*/evals/embedded-*6789.json"))))
    victim.write_text(victim.read_text()[:-10])
    for number in (3, 4):
        age(root)
        assert len(publish_study(made.layout, made.study).skipped) == 1
        assert len(compared) == number


def test_a_report_leaves_nothing_to_compare(made, compared):
    (made.layout.root / "a.csv").write_text("x\n1\n")
    log_figures(made.layout, made.study, [made.layout.root / "a.csv"], description="what was asked")
    assert publish_study(made.layout, made.study) == PublishReport()
    assert compared == []


def test_write_ahead_logging_is_not_trusted(made, compared):
    connection = sqlite3.connect(made.layout.database)
    connection.execute("pragma journal_mode=wal")
    connection.close()
    for _ in range(2):
        assert publish_study(made.layout, made.study) == PublishReport()
    assert len(compared) == 2


@pytest.mark.slow
def test_a_server_is_asked_for_one_experiment(root, compared):
    from mlflow import MlflowClient
    from servers import mlflow_server

    made = make_study(root, **SMALL)
    age(root)
    with mlflow_server(root, default_uri(made.layout)) as server:
        assert publish_study(made.layout, made.study, server.uri).rows == made.rows
        for _ in range(2):
            assert publish_study(made.layout, made.study, server.uri) == PublishReport()
        assert len(compared) == 1
        client = MlflowClient(tracking_uri=server.uri)
        experiment = client.get_experiment_by_name(made.study).experiment_id
        client.set_experiment_tag(experiment, published_state.MARK, "as a store put back from a copy has it")
        assert publish_study(made.layout, made.study, server.uri) == PublishReport()
        assert len(compared) == 2
        client.delete_experiment(experiment)
        with pytest.raises(PublishError, match="is deleted"):
            publish_study(made.layout, made.study, server.uri)
