"""Eight publishers at once before MLflow on PostgreSQL, the server killed in the middle: counted in its tables."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from outputs_tree import make_study
from servers import missing_for_postgres, mlflow_server, postgres

from workbench.tracking import spool

STUDIES = ("one", "two", "three", "four")
PROCESSES_A_STUDY = 2
DOWN_SECONDS = 3.0


@pytest.fixture
def database():
    reason = missing_for_postgres()
    if reason:
        pytest.skip(reason)
    # pytest's folders are closed to other users, and PostgreSQL does not run as root.
    folder = Path(tempfile.mkdtemp(prefix="workbench-postgres-"))
    folder.chmod(0o755)
    try:
        with postgres(folder / "postgres") as address:
            yield address
    finally:
        shutil.rmtree(folder)


def make_studies(root):
    """Four studies of which each shares its stages with another one."""
    made = make_study(root, "one", sizes={"m0_03": 30_000, "m0_1": 100_000}, budgets=(50_000, 100_000), row_every=1)
    plan = json.loads(made.layout.study_file("one").read_text())
    for number, study in enumerate(STUDIES):
        mine = {**plan, "study": study, "created": plan["created"] + number}
        if number >= 2:
            small = {entry["trajectory"] for entry in plan["stages"].values() if is_small(entry)}
            mine["stages"] = {key: entry for key, entry in plan["stages"].items() if entry["trajectory"] in small}
            mine["points"] = [point for point in plan["points"] if point["chain"][0]["stage"] in small]
        made.layout.study(study).mkdir(exist_ok=True)
        made.layout.study_file(study).write_text(json.dumps(mine))
    return made.layout


def is_small(entry):
    return entry["stage"]["model"]["name"] == "m0_03"


def hide_last_checkpoints(layout):
    """Take every stage back to its first checkpoint; return what is to be put back, with its content."""
    hidden = {}
    for path in layout.root.glob("stages/*"):
        stage = layout.stage(path.name)
        for checkpoint in stage.list_checkpoints()[1:]:
            hidden[checkpoint / "manifest.json"] = (checkpoint / "manifest.json").read_bytes()
            (checkpoint / "manifest.json").unlink()
    assert hidden
    return hidden


def expected(layout, study):
    """What the files say: training metrics, values of evaluations and checkpoints, each with its count."""
    rows, values, models = Counter(), Counter(), Counter()
    for stage_id, entry in json.loads(layout.study_file(study).read_text())["stages"].items():
        stage = layout.stage(stage_id)
        for row in spool.read_rows(stage.path, int(stage.list_checkpoints()[-1].name[5:])):
            metrics = {key: value for key, value in row.items() if key.startswith("train/")}
            for key, value in {**metrics, "train/tokens": row["tokens"]}.items():
                rows[stage_id, key, row["step"], int(row["time"] * 1000), float(value)] += 1
        for checkpoint in stage.list_checkpoints():
            if json.loads((checkpoint / "manifest.json").read_text())["tokens"] not in entry["wanted"]:
                continue
            models[stage_id, f"step-{checkpoint.name[5:]}"] += 1
            [file] = [path for path in (checkpoint / "evals").glob("*.json") if "documents" not in path.name]
            for task, metrics in json.loads(file.read_text())["results"].items():
                for key, value in metrics.items():
                    if isinstance(value, float):
                        values[stage_id, int(checkpoint.name[5:]), spool.metric_name(task, key), value] += 1
    return rows, values, models


def stored(tables, study):
    """Count the same in PostgreSQL's tables, runs and models that were deleted included."""
    of_study = """join runs on runs.run_uuid = {}
        join experiments on experiments.experiment_id = runs.experiment_id and experiments.name = %s
        join tags on tags.run_uuid = runs.run_uuid and tags.key = 'stage'"""
    rows = "select tags.value, key, step, timestamp, metrics.value from metrics " + of_study.format("metrics.run_uuid")
    rows = rows.replace(", key,", ", metrics.key,") + " where metrics.key like 'train/%%'"
    values = "select tags.value, metric_step, metric_name, metric_value from logged_model_metrics m "
    models = "select tags.value, m.name from logged_models m "
    queries = (rows, values + of_study.format("m.run_id"), models + of_study.format("m.source_run_id"))
    return tuple(Counter(tables.execute(query, [study]).fetchall()) for query in queries)


def count(tables, query):
    return tables.execute(query).fetchone()[0]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_eight_publishers_and_a_server_that_is_killed_lose_nothing_and_double_nothing(tmp_path, database):
    layout = make_studies(tmp_path)
    hidden = hide_last_checkpoints(layout)
    script = [sys.executable, str(Path(__file__).with_name("publishers.py"))]
    with (
        mlflow_server(tmp_path, f"postgresql+psycopg://{database}") as server,
        psycopg.connect(f"postgresql://{database}", autocommit=True) as tables,
    ):
        command = [*script, str(tmp_path), server.uri, *(STUDIES * PROCESSES_A_STUDY)]
        publishers = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            # The first rows are there and the most are not: requests are under way.
            wait_until(lambda: count(tables, "select count(*) from metrics") > 0)
            server.stop(signal.SIGKILL)
            at_the_kill = [count(tables, f"select count(*) from {table}") for table in ("metrics", "logged_models")]
            for path, content in hidden.items():
                path.write_bytes(content)
            time.sleep(DOWN_SECONDS)
            (tmp_path / "complete").touch()
            server.start()
            output, errors = publishers.communicate(timeout=120)
        finally:
            publishers.kill()
        assert publishers.returncode == 0, errors
        refused = [json.loads(line)["refused"] for line in output.splitlines()]
        assert len(refused) == len(STUDIES) * PROCESSES_A_STUDY
        assert all(refused), "every publisher met the server while it was down"
        for study in STUDIES:
            assert stored(tables, study) == expected(layout, study), study
        stages = {study: len(json.loads(layout.study_file(study).read_text())["stages"]) for study in STUDIES}
        assert count(tables, "select count(*) from runs") == sum(stages.values()) + len(STUDIES)
        assert count(tables, "select count(*) from runs where lifecycle_stage != 'active'") == 0
        assert at_the_kill[0] < count(tables, "select count(*) from metrics where key like 'train/%'")
    results = [path for path in server.artifacts.rglob("embedded-*.json") if "documents" not in path.name]
    assert len(results) == sum(expected(layout, study)[2].total() for study in STUDIES)
