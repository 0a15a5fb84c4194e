"""Reference results arrive once, are read back as they were, and leave trainings alone."""

import importlib.util
import json
import math
import sqlite3
import sys
from pathlib import Path

import pandas as pd
import pytest
from outputs_tree import make_study

from analysis.load import FRAME_COLUMNS, load_runs, load_study
from analysis.reference import load_lm_eval, tinyllama_milestones
from workbench.study.layout import Layout
from workbench.tracking.mlflow import default_uri, publish_study
from workbench.tracking.published_results import ImportReport, import_reference

spec = importlib.util.spec_from_file_location(
    "result_trees", Path(__file__).parents[1] / "analysis" / "result_trees.py"
)
trees = sys.modules["result_trees"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trees)

STUDY = "reference/mine"
RULES = {"study": STUDY, "tokens": (r"step(\d+)", 1000), "annealed": "last"}
SIZES = {"small": {"params": 1000, "params_non_embedding": 900}, "large": {"params": 5000}}
MADE = ImportReport(runs=2, checkpoints=3, metrics=9)


@pytest.fixture
def folder(tmp_path):
    """Two models, three checkpoints, and every kind of value."""
    files = {"a": trees.old(1, 0.25), "b": trees.old(2, 0.1 + 0.2, stderr="N/A"), "c": trees.old(2, 0.5, size="large")}
    files["c"]["results"]["lambada"] = {"ppl": math.inf, "ppl_stderr": 0.0, "acc": 0.0, "acc_stderr": 0.0}
    del files["c"]["results"]["lambada"]["acc"], files["c"]["results"]["lambada"]["acc_stderr"]
    files["a"]["results"]["arc"] = {"acc": 0.2, "acc_stderr": 0.01}
    return trees.write(tmp_path / "files", **files)


def load(folder, **more):
    return load_lm_eval(folder, **{**RULES, "facts": SIZES, **more})


def same(frame, root):
    """Whether MLflow gives the frame back."""
    back = load_study(STUDY, default_uri(Layout(root)))
    columns = [column for column in FRAME_COLUMNS if column != "run_id"]
    pd.testing.assert_frame_equal(back[columns], frame[columns], check_dtype=False)
    return back["run_id"].notna().all()


def counts(root):
    connection = sqlite3.connect(root / "mlflow.db")
    tables = ("runs", "metrics", "logged_models", "logged_model_metrics", "inputs", "params", "tags")
    found = {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
    connection.close()
    return found


def test_what_arrives_is_what_was_read_and_again_adds_nothing(root, folder):
    frame = load(folder)
    assert import_reference(Layout(root), frame) == MADE
    assert same(frame, root)
    before = counts(root)
    assert import_reference(Layout(root), frame) == ImportReport()
    assert counts(root) == before
    runs = load_runs(STUDY, default_uri(Layout(root)))
    assert sorted(runs["run"]) == ["large (reference)", "small (reference)"]
    assert set(runs["phase"]) == {"reference"}
    assert set(runs["cost_counted"]) == {False}


def test_a_corrected_file_and_a_corrected_fact_are_sent(root, folder):
    import_reference(Layout(root), load(folder))
    file = json.loads((folder / "a.json").read_text())
    file["results"]["piqa"]["acc"] = 0.75
    trees.write(folder, a=file)
    assert import_reference(Layout(root), load(folder)) == ImportReport(metrics=1)
    assert same(load(folder), root)
    # A task that is not in the files any more stays.
    trees.write(folder, a=trees.old(1, 0.5))
    import_reference(Layout(root), load(folder))
    back = load_study(STUDY, default_uri(Layout(root))).set_index(["model", "tokens", "metric"])
    assert back.loc[("small", 1000, "piqa/acc"), "value"] == 0.5
    assert back.loc[("small", 1000, "arc/acc"), "value"] == 0.2
    corrected = load(folder, facts={**SIZES, "large": {"params": 6000}})
    report = import_reference(Layout(root), corrected)
    assert (report.replaced, report.checkpoints, report.runs) == (1, 1, 0)
    back = load_study(STUDY, default_uri(Layout(root)))
    assert back.groupby("model")["params"].first().to_dict() == {"small": 1000, "large": 6000}
    assert import_reference(Layout(root), corrected) == ImportReport()


def test_the_last_import_counts_whatever_came_between(root, folder, tmp_path, monkeypatch):
    # A clock that stands still, or was set back, must not make the older import the later one.
    monkeypatch.setattr("workbench.tracking.published_results.time.time", lambda: 1_700_000_000.0)
    first = load(folder)
    other = trees.old(1, 0.9)
    other["versions"] = {"piqa": 7}
    second = load(trees.write(tmp_path / "later", a=other), annealed="none")
    for frame in (first, second, first):
        report = import_reference(Layout(root), frame)
    assert report == ImportReport(metrics=2)
    assert same(first, root)


def test_checkpoints_of_other_imports_stay(root, folder, tmp_path):
    import_reference(Layout(root), load(folder))
    more = load(trees.write(tmp_path / "more", a=trees.old(9, 0.9)))
    assert import_reference(Layout(root), more) == ImportReport(checkpoints=1, metrics=2, others=3)
    back = load_study(STUDY, default_uri(Layout(root)))
    assert back["checkpoint"].nunique() == 4


def test_tinyllama_is_imported_like_files(root):
    frame = tinyllama_milestones()
    report = import_reference(Layout(root), frame)
    assert report == ImportReport(runs=1, checkpoints=7, metrics=73)
    back = load_study("reference/tinyllama", default_uri(Layout(root)))
    assert back["value"].tolist() == pytest.approx(frame["value"].tolist(), abs=0, nan_ok=True)
    assert back["stderr"].isna().all()


def test_trainings_are_left_alone(root, folder):
    made = make_study(root, sizes={"m0_03": 30_000}, budgets=(50_000,), row_every=500)
    publish_study(made.layout, made.study)
    before = counts(root)
    frame = load(folder, study=made.study)
    with pytest.raises(ValueError, match="has trainings: import under another name, such as reference/synthetic"):
        import_reference(Layout(root), frame)
    made.layout.study_file(made.study).unlink()
    with pytest.raises(ValueError, match="has trainings"):
        import_reference(Layout(root), frame)
    assert counts(root) == before


def test_unclear_checkpoints_are_refused(root, folder):
    with pytest.raises(ValueError, match=r"tokens of 3 checkpoints are unknown, such as org/\w+@step\d: give tokens"):
        import_reference(Layout(root), load(folder, tokens=None))
    with pytest.raises(ValueError, match="are both 'all' at 2000 tokens: tell them apart"):
        import_reference(Layout(root), load(folder, model=lambda _: "all"))
    both = pd.concat([load(folder), tinyllama_milestones()])
    with pytest.raises(ValueError, match="an import is one study"):
        import_reference(Layout(root), both)


class _CutError(Exception):
    """The process is gone."""


@pytest.mark.parametrize("calls", [1, 3, 5, 6, 8, 10])
def test_an_import_that_was_cut_off_is_completed(root, folder, monkeypatch, calls):
    """Whichever write was the last, the next import sends the rest, and nothing twice."""
    from mlflow import MlflowClient

    left = [calls]

    def cut(write):
        def call(*arguments, **options):
            if not left[0]:
                raise _CutError
            left[0] -= 1
            return write(*arguments, **options)

        return call

    frame = load(folder)
    with monkeypatch.context() as patch:
        for name in ("create_run", "set_terminated", "create_logged_model", "finalize_logged_model", "log_outputs"):
            patch.setattr(MlflowClient, name, cut(getattr(MlflowClient, name)))
        patch.setattr(MlflowClient, "log_batch", cut(MlflowClient.log_batch))
        with pytest.raises(_CutError):
            import_reference(Layout(root), frame)
    import_reference(Layout(root), frame)
    assert same(frame, root)
    runs = load_runs(STUDY, default_uri(Layout(root)))
    assert sorted(runs["stage"]) == ["large", "small"]
    assert set(runs["status"]) == {"FINISHED"}
    assert import_reference(Layout(root), frame) == ImportReport()


def command(capsys, *words):
    from workbench.cli import main

    with pytest.raises(SystemExit) as end:
        main(["import", *map(str, words)])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_command(root, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    facts = tmp_path / "facts.csv"
    facts.write_text("model,params,params_non_embedding\nsmall,1000,900\nlarge,5000,\nhuge,9,9\n")
    words = (folder, f"study={STUDY}", r"tokens=step(\d+)*1_000", f"facts={facts}", "annealed=last", "shots=0")
    code, out, _ = command(capsys, *words)
    assert code == 0
    assert "facts of model huge match no file" in out
    assert [line.split() for line in out.splitlines()[2:4]] == [
        ["small", "1,000", "1K", "to", "2K", "2", "3", "3"],
        ["large", "5,000", "2K", "to", "2K", "1", "3", "2"],
    ]
    assert "sent: 2 runs, 3 checkpoints (0 replaced), 9 values and standard errors" in out
    assert same(load(folder), root)
    assert "sent: 0 runs, 0 checkpoints (0 replaced), 0 values" in command(capsys, *words)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("study=x",), "import takes one folder of result files, but was given []"),
        (("FOLDER",), "import needs the study's name"),
        (("FOLDER", "study=x", "size=3"), "import does not know 'size=3': give study="),
        (("FOLDER", "study=x", "family=llama"), "family='llama': pythia alone is known"),
        (("FOLDER", "study=x", "family=pythia", "shots=0"), "family=pythia says shots by itself"),
        (("FOLDER", "study=x", "tokens=step"), "tokens=step: give a pattern and the tokens of one"),
        (("FOLDER", "study=x", "shots=few"), "shots=few: give a number"),
        (("FOLDER", "study=x", "annealed=yes"), "annealed=yes: give none or last"),
        (("FOLDER", "study=x", "facts=/none.csv"), "/none.csv"),
        (("FOLDER/none", "study=x"), "there is no such file or folder"),
    ],
)
def test_a_wrong_command_is_one_line(folder, capsys, words, message):
    code, _, err = command(capsys, *(word.replace("FOLDER", str(folder)) for word in words))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_broken_file_is_named_and_nothing_is_sent(root, folder, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(root))
    (folder / "z.json").write_text(json.dumps({"results": 3})[:-2])
    before = counts(root)
    code, _, err = command(capsys, folder, "study=reference/x", r"tokens=step(\d+)*1000")
    assert code == 2
    assert "z.json is not valid JSON" in err
    assert counts(root) == before
