"""What frames read back of what was published: the latest plan, the evaluation asked for, the weights that are there."""

import json

import pytest
from outputs_tree import make_study
from stored_runs import SMALL, stored_counts

from workbench.study.evaluation_files import documents_path, result_path, write_result
from workbench.tracking.mlflow import default_uri, publish_study


def test_the_frame_says_what_the_study_is_for(root):
    from analysis.load import load_study

    made = make_study(root, sizes={"m0_03": 30_000}, budgets=(250_000,), evaluated=False)
    file = made.layout.study_file(made.study)
    plan = json.loads(file.read_text())
    for analysis in ("isoflop", None):
        file.write_text(json.dumps({**plan, "analysis": analysis}))
        publish_study(made.layout, made.study)
        assert load_study(made.study, default_uri(made.layout)).attrs.get("analysis") == analysis


def test_frames_leave_out_what_the_latest_plan_dropped(root):
    """A stage of an earlier plan stays in MLflow and comes back with the plan that has it."""
    from analysis.load import load_study

    layout, name = make_study(root, **SMALL).layout, "synthetic"
    publish_study(layout, name)
    path = layout.study_file(name)
    whole = json.loads(path.read_text())
    fewer = {i: stage for i, stage in whole["stages"].items() if stage["stage"]["model"]["name"] == "m0_1"}
    points = [point for point in whole["points"] if point["chain"][0]["stage"] in fewer]
    path.write_text(json.dumps({**whole, "stages": fewer, "points": points}))
    publish_study(layout, name)
    assert set(load_study(name, default_uri(layout)).model) == {"m0_1"}
    path.write_text(json.dumps(whole))
    publish_study(layout, name)
    assert set(load_study(name, default_uri(layout)).model) == {"m0_1", "m0_03"}


def test_frames_show_the_evaluation_that_the_study_asks_for(root):
    """A smaller evaluation, done later, does not take the place of the one the study asks for."""
    from analysis.load import load_study

    made = make_study(root, **SMALL)
    path = made.layout.study_file(made.study)
    plan = json.loads(path.read_text())
    checkpoint = made.layout.stage(next(iter(plan["stages"]))).list_checkpoints()[0]
    [result] = [p for p in (checkpoint / "evals").glob("*.json") if "documents" not in p.name]
    suite, _, eval_id = result.stem.rpartition("-")
    later = json.loads(result.read_text()) | {"eval_id": "f" * 16}
    later["date"] = later["date"] + 1000
    documents = json.loads(documents_path(result).read_text())
    write_result(result_path(checkpoint, suite, "f" * 16), later, documents)
    for asked in (eval_id, "f" * 16):
        path.write_text(json.dumps({**plan, "evaluation_ids": {suite: [asked]}}))
        publish_study(made.layout, made.study)
        frame = load_study(made.study, default_uri(made.layout))
        assert set(frame.loc[frame.checkpoint == str(checkpoint.resolve()), "eval_id"]) == {asked}


def test_scores_of_replaced_weights_do_not_stay(root):
    """A checkpoint that was trained again to other weights has no scores until it is evaluated, and then its own."""
    from analysis.load import load_study

    made = make_study(root, **SMALL)
    stage = made.layout.stage(next(iter(json.loads(made.layout.study_file(made.study).read_text())["stages"])))
    checkpoint = stage.list_checkpoints()[0]
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    evals = checkpoint / "evals"

    def publish(weights: str):
        files = {"model.safetensors": {"sha256": weights, "bytes": 1}}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
        publish_study(made.layout, made.study)
        frame = load_study(made.study, default_uri(made.layout))
        return frame[frame.checkpoint == str(checkpoint.resolve())].set_index("metric")["value"]

    publish_study(made.layout, made.study)  # as before weights were named
    first = publish("a" * 64)
    assert first.notna().all()
    evals.rename(root / "aside")
    assert publish("b" * 64).isna().all()
    (root / "aside").rename(evals)
    [result] = [path for path in evals.glob("*.json") if "documents" not in path.name]
    scores = json.loads(result.read_text())
    scores["results"]["heldout_prose"]["bits_per_byte,none"] += 1
    suite, _, eval_id = result.stem.rpartition("-")
    documents = json.loads(documents_path(result).read_text())
    write_result(result_path(checkpoint, suite, eval_id), scores, documents)
    second = publish("b" * 64)
    assert second["heldout/prose/bits_per_byte"] == pytest.approx(first["heldout/prose/bits_per_byte"] + 1)
    before = stored_counts(made.layout)
    publish("b" * 64)
    assert stored_counts(made.layout) == before
