"""Which points of a study have no result because a stage on their way failed, and how it failed."""

from __future__ import annotations

import json
from typing import Any

from workbench.study.causes import EVALUATION, cause_of
from workbench.study.evaluation_files import read_result, result_path
from workbench.study.layout import Layout, StageDir

_ERROR_CHARACTERS = 200


def failed_points(layout: Layout, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """List the points that a failure keeps from their result: of a stage of their chain, or of their last evaluation.

    Parameters
    ----------
    layout
        The outputs.
    plan
        Content of `study.json`.

    Returns
    -------
    list of dict
        Each with `point`, `stage` (the one that failed), `model`, `phase`, `cause` (as in
        `workbench.study.causes`) and `error` (one line).
    """
    found: list[dict[str, Any]] = []
    statuses: dict[str, dict[str, Any]] = {}
    for point in plan["points"]:
        chain = point["chain"]
        for reached in chain:
            statuses.setdefault(reached["stage"], _status(layout.stage(reached["stage"])))
        last = layout.stage(chain[-1]["stage"])
        if not _has_checkpoint(last, chain[-1]["tokens"]):
            failed = next((s for s in (r["stage"] for r in chain) if statuses[s].get("state") == "failed"), None)
        else:
            # The stage may be another study's too, whose evaluations are none of this one's.
            missed = statuses[last.id].get("evaluation_error") and _lacks_a_result(last, chain[-1]["tokens"], plan)
            failed = last.id if missed else None
        if failed is not None:
            stage = plan["stages"][failed]["stage"]
            found.append({"point": point["name"], **_failure(failed, stage, statuses[failed])})
    return found


def failed_points_tag(failed: list[dict[str, Any]], max_characters: int) -> str:
    """Write failed points as JSON of at most so many characters: as many as fit, and last the number left out."""
    kept: list[dict[str, Any]] = []
    for number, one in enumerate(failed):
        rest = {"left_out": len(failed) - number}
        if len(json.dumps([*kept, one, rest])) > max_characters:
            return json.dumps([*kept, rest])
        kept.append(one)
    return json.dumps(kept)


def _failure(identifier: str, stage: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    failed = status["state"] == "failed"
    error = status.get("error") if failed else status.get("evaluation_error")
    return {
        "stage": identifier,
        "model": stage["model"]["name"],
        "phase": stage["name"],
        "cause": cause_of(status.get("error_class")) if failed else EVALUATION,
        "error": str(error or "")[:_ERROR_CHARACTERS],
    }


def _has_checkpoint(stage: StageDir, tokens: int) -> bool:
    # Only a stage that was interrupted has its last checkpoint elsewhere than at the end, so the latest is enough.
    checkpoints = stage.list_checkpoints()
    if not checkpoints:
        return False
    try:
        return json.loads((checkpoints[-1] / "manifest.json").read_text(encoding="utf-8"))["tokens"] >= tokens
    except FileNotFoundError:  # a running stage has removed it meanwhile
        return False


def _lacks_a_result(stage: StageDir, tokens: int, plan: dict[str, Any]) -> bool:
    """Whether the checkpoint at `tokens` lacks the result of an evaluation that the study asks for."""
    asked: dict[str, list[str]] = plan.get("evaluation_ids", {})
    for checkpoint in reversed(stage.list_checkpoints() if asked else []):
        try:
            found = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["tokens"]
        except FileNotFoundError:
            continue
        if found == tokens:
            valid = [
                any(read_result(result_path(checkpoint, suite, i), i) for i in ids) for suite, ids in asked.items()
            ]
            return not all(valid)
    return True


def _status(stage: StageDir) -> dict[str, Any]:
    try:
        return json.loads(stage.status.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
