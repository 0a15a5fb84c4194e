import json
import math

import outputs_tree
import pytest

from analysis.experiment_store import find_database
from analysis.load import (
    FRAME_COLUMNS,
    load_documents,
    load_history,
    load_runs,
    load_study,
)

BITS = "heldout/prose/bits_per_byte"


def test_values_errors_and_ids_survive_exactly(published, frame):
    made, _ = published
    found = {
        (row.stage, row.tokens, row.metric): (row.value, None if math.isnan(row.stderr) else row.stderr, row.eval_id)
        for row in frame.itertuples()
    }
    assert found == made.values
    assert len(frame) == len(made.values)


def test_columns(published, frame):
    made, _ = published
    assert tuple(frame.columns) == FRAME_COLUMNS
    plan = json.loads(made.layout.study_file(made.study).read_text())
    for row in frame.itertuples():
        entry = plan["stages"][row.stage]
        assert row.trajectory == entry["trajectory"]
        assert row.annealed == (entry["stage"]["name"] == "cooldown")
        assert row.params_non_embedding == outputs_tree.SIZES[row.model]
        assert row.params == row.params_non_embedding + 16_384
        assert row.flops == 6.0 * row.params_non_embedding * row.tokens
        assert (row.unique_tokens, row.epochs) == (row.tokens, 1.0)
        assert (row.seed_init, row.seed_data) == (0, 0)
        assert row.checkpoint == str(made.layout.stage(row.stage).checkpoint(row.tokens // 2000).resolve())
        assert (row.commit, row.data_fingerprint) == ("c0ffee", "d" * 16)
        through = [
            point["name"]
            for point in plan["points"]
            for part in point["chain"]
            if part["stage"] == row.stage and part["tokens"] >= row.tokens
        ]
        assert row.point.split(" | ") == through
    cooled = frame[frame["annealed"]]
    assert not cooled["point"].str.contains("|", regex=False).any()


def test_unscored_checkpoints_are_rows_of_nan(root):
    from workbench.tracking.mlflow import default_uri, publish_study

    made = outputs_tree.make_study(root, sizes={"m0_03": 30_000}, budgets=(50_000, 100_000))
    victim = min(root.glob("stages/*/checkpoints/*/evals/embedded-*6789.json"))
    victim.unlink()
    publish_study(made.layout, made.study)
    frame = load_study(made.study, default_uri(made.layout))
    lacking = frame[frame["value"].isna()]
    assert set(lacking["checkpoint"]) == {str(victim.parents[1].resolve())}
    assert sorted(lacking["metric"]) == sorted({metric for _, _, metric in made.values})
    assert lacking["eval_id"].isna().all()
    assert frame["annealed"].dtype == bool

    nothing = outputs_tree.make_study(root, "other", sizes={"m1": 5}, budgets=(9_000,), evaluated=False)
    publish_study(nothing.layout, "other")
    frame = load_study("other", default_uri(nothing.layout))
    assert len(frame) == nothing.checkpoints
    assert frame["metric"].isna().all()


def test_two_evaluations_of_one_checkpoint_stay_apart(root):
    """The latest counts, with its own standard error and id; a metric that only the older has is kept."""
    from workbench.study.evaluation_files import write_result
    from workbench.tracking.mlflow import default_uri, publish_study

    made = outputs_tree.make_study(root, sizes={"m0_03": 30_000}, budgets=(50_000,))
    publish_study(made.layout, made.study)
    file = max(root.glob("stages/*/checkpoints/*/evals/embedded-*6789.json"))
    result = json.loads(file.read_text())
    result |= {"eval_id": "ffff", "date": result["date"] + 100}
    result["results"] = {"heldout_prose": {"bits_per_byte,none": 1.25, "bits_per_byte_stderr,none": 0.5}}
    write_result(file.with_name("embedded-ffff.json"), result, {})
    assert publish_study(made.layout, made.study).evaluations == 1
    frame = load_study(made.study, default_uri(made.layout))
    mine = frame[frame["checkpoint"] == str(file.parents[1].resolve())].set_index("metric")
    assert tuple(mine.loc[BITS, ["value", "stderr", "eval_id"]]) == (1.25, 0.5, "ffff")
    assert mine.loc["heldout/code/bits_per_byte", "eval_id"] == "abcdef0123456789"
    assert len(frame) == len(made.values)


def test_history_is_the_rows(published):
    made, uri = published
    history = load_history(made.study, ("train/loss", "train/gradient_norm", "train/nothing"), uri)
    assert len(history) == made.rows
    assert history["train/nothing"].isna().all()
    for row in history.sample(20, random_state=0).to_dict("records"):
        expected = outputs_tree.row_of(row["step"], outputs_tree.SIZES[row["model"]])
        assert row["tokens"] == expected["tokens"]
        assert row["train/loss"] == expected["train/loss"]
        assert row["train/gradient_norm"] == expected["train/gradient_norm"]
        assert row["time"] == pytest.approx(expected["time"], abs=1e-3)


def test_documents_give_the_score(published, frame):
    made, uri = published
    documents = load_documents(made.study, BITS, uri, models=["m1"])
    assert set(documents["model"]) == {"m1"}
    scores = frame[frame["metric"] == BITS].set_index("checkpoint")["value"]
    for checkpoint, rows in documents.groupby("checkpoint"):
        value = -rows["loglikelihood"].sum() / math.log(2) / rows["bytes"].sum()
        assert value == pytest.approx(scores[checkpoint], rel=1e-12)
    words = load_documents(made.study, "heldout/prose/last_word/acc", uri, models=["m1"])
    assert set(words["correct"]) <= {0, 1}


def test_wrong_names_are_refused(published, tmp_path):
    made, uri = published
    with pytest.raises(ValueError, match=r"no study 'nothing' in .*; there are: synthetic"):
        load_study("nothing", uri)
    with pytest.raises(ValueError, match="metric 'x/y': documents are kept only for bits_per_byte and acc"):
        load_documents(made.study, "x/y", uri)
    with pytest.raises(ValueError, match="no such database"):
        load_study("synthetic", f"sqlite:///{tmp_path}/none.db")


def test_runs_have_status_and_cost(published):
    made, uri = published
    runs = load_runs(made.study, uri)
    assert len(runs) == 20
    assert set(runs["status"]) == {"FINISHED"}
    assert set(runs["cost_counted"]) == {True}


def test_database_is_found_upward(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no outputs/mlflow\.db"):
        find_database(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "mlflow.db").touch()
    below = tmp_path / "experiments" / "deep"
    below.mkdir(parents=True)
    assert find_database(below) == tmp_path / "outputs" / "mlflow.db"
    monkeypatch.chdir(tmp_path / "outputs")
    assert find_database() == tmp_path / "outputs" / "mlflow.db"
