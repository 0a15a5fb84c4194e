"""What a study's files say should stand in MLflow: records, read afresh from disk each time.

`workbench.tracking.mlflow` compares these with what MLflow holds and sends the difference. Everything a
record holds is a fact of the files, so that two readings of the same files give equal records.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import socket
from pathlib import Path
from typing import Any

from workbench.config import schema
from workbench.study.evaluation_files import check_result, documents_path
from workbench.study.files import is_held, load_yaml
from workbench.study.identity import identity_fields
from workbench.study.layout import Layout, StageDir
from workbench.tracking import spool
from workbench.tracking.missing import failed_points, failed_points_tag
from workbench.tracking.names import plain_name, run_name
from workbench.tracking.run_records import CheckpointRecord, EvaluationRecord, StageRecord, StudyRecord

MAX_CODE_FILE_BYTES = 10_000_000
"""A larger diff stays in the stage's directory."""
MAX_TAG_CHARACTERS = 5_000
"""Values of tags are cut here; MLflow refuses above 8,000."""

FAILED_POINTS = "failed_points"
"""Tag of a study's run: its points without a result because a stage failed, and how, as JSON."""

_OWN_LABEL = ("pretrain", "imported")
"""Kinds whose checkpoints are called as their model; others' names follow it, so that figures keep them apart."""
WEIGHTS = "weights"
"""Tag of a logged checkpoint: SHA-256 of its weights."""
STATES = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
"""A stage's state on disk, and MLflow's word for it."""


def read_study(layout: Layout, study: str) -> StudyRecord:
    """Read `study.json` and every stage directory it names.

    Raises
    ------
    ValueError
        There is no such study, or a file of it is not what it should be; the file is named.
    """
    file = layout.study_file(study)
    if not file.exists():
        raise ValueError(f"study {study!r} has no {file}: `workbench run` or `workbench plan` it first")
    plan = read_json(file)
    owners = _cost_owners(layout)
    skipped: list[str] = []
    stages = [
        _stage_record(layout.stage(stage_id), entry, plan, owners.get(stage_id, study), skipped)
        for stage_id, entry in plan["stages"].items()
        if layout.stage(stage_id).path.exists()
    ]
    asked = {"commit": plan.get("commit", ""), "points": len(plan["points"]), "stages": len(plan["stages"])}
    asked["command"] = plan.get("command", "")
    failed = failed_points(layout, plan)
    asked[FAILED_POINTS] = failed_points_tag(failed, MAX_TAG_CHARACTERS) if failed else ""
    tags = {key: str(value)[:MAX_TAG_CHARACTERS] for key, value in asked.items() if value != ""}
    return StudyRecord(
        study, file, _study_status(plan, stages), tuple(stages), tags, tuple(skipped), plan.get("analysis") or ""
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ValueError
        The file is damaged or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return value


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read a result file in lm-eval's format, named `<suite>-<eval_id>.json`.

    Non-numbers ("N/A") and NaN are left out: MLflow would store a NaN of a logged model as 0.

    Raises
    ------
    OSError
        It or its per-document values are not there.
    ValueError
        One of them does not match its checksum.
    """
    result = check_result(path)
    values = {
        spool.metric_name(task, key): float(value)
        for task, metrics in result["results"].items()
        for key, value in metrics.items()
        if "," in key and isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    }
    eval_id = str(result["eval_id"])
    suite = path.stem.removesuffix(f"-{eval_id}")
    date = result.get("date")
    seconds = float(date) if isinstance(date, int | float) else path.stat().st_mtime
    return EvaluationRecord(suite, eval_id, values, int(seconds * 1000), (path, documents_path(path)))


def _cost_owners(layout: Layout) -> dict[str, str]:
    """Name the study that each stage's cost is counted in: the first to have been made."""
    plans = [read_json(path) for path in sorted((layout.root / "studies").glob("*/study.json"))]
    owners: dict[str, str] = {}
    for plan in sorted(plans, key=lambda plan: (str(plan["created"]), plan["study"])):
        for stage_id in plan["stages"]:
            owners.setdefault(stage_id, plan["study"])
    return owners


def _stage_record(
    stage_dir: StageDir, entry: dict[str, Any], plan: dict[str, Any], owner: str, skipped: list[str]
) -> StageRecord:
    frozen = (
        load_yaml(stage_dir.config.read_text(encoding="utf-8"))["stage"]
        if stage_dir.config.exists()
        else entry["stage"]
    )
    stage = schema.from_dict(schema.Stage, frozen, f"{stage_dir.config}: stage")
    planned = schema.from_dict(schema.Stage, entry["stage"], "study.json: stage")
    kinds = _kinds(plan, stage_dir.id)
    label = planned.model.name if kinds[-1] in _OWN_LABEL else f"{planned.model.name} {planned.variety}"
    points = [
        (point, reached["tokens"])
        for point in plan["points"]
        for reached in point["chain"]
        if reached["stage"] == stage_dir.id
    ]
    # A stage that is only read, such as a teacher, is on no point's chain; its seeds are its readers'.
    readers = [point for point in plan["points"] if point["name"] in entry.get("points", ())]
    found = _read_checkpoints(stage_dir)
    manifests = [manifest for _, manifest in found]
    last = manifests[-1] if manifests else {}
    status, ended_ms, error = _stage_status(stage_dir, planned, manifests)
    tags = {
        "kind": "stage",
        "stage_kind": stage.kind,
        "start_tokens": str(stage.start_tokens),
        "kinds": ">".join(kinds),
        "study": plan["study"],
        **names_tags("points", [point["name"] for point, _ in points]),
        **names_tags("variant", sorted({_variant(point) for point, _ in points} - {""})),
        "stage": stage_dir.id,
        "phase": stage.name,
        "model": label,
        "parent": stage.parent.stage if stage.parent else "",
        "trajectory": str(entry["trajectory"]),
        "commit": str(last.get("commit", plan.get("commit", ""))),
        "dirty": str(last.get("dirty", plan.get("dirty", ""))).lower(),
        "data_fingerprint": stage.data_fingerprint,
        "numerics": json.dumps(last.get("numerics", schema.to_dict(stage.numerics)), sort_keys=True),
        "host": str(last.get("host", "")),
        "evaluation_ids": json.dumps(plan.get("evaluation_ids", {}), sort_keys=True),
        "cost_owner": owner,
        "cost_counted": str(owner == plan["study"]).lower(),
        "error": error[:MAX_TAG_CHARACTERS],
    }
    checkpoints = tuple(
        _checkpoint_record(path, manifest, tags, points, readers, skipped)
        for path, manifest in found
        if manifest["tokens"] in entry["wanted"]
    )
    return StageRecord(
        id=stage_dir.id,
        path=stage_dir.path,
        run_name=run_name(stage, label, stage_dir.id, [point for point, _ in points]),
        plain_name=plain_name(stage, label, stage_dir.id),
        params=_identity_params(stage),
        tags=tags,
        status=status,
        ended_ms=ended_ms,
        durable_step=last.get("step", -1),
        durable_tokens=last.get("tokens", -1),
        wanted_tokens=frozenset([*planned.targets, *entry["wanted"]]),
        checkpoints=checkpoints,
        artifacts=_stage_artifacts(stage_dir),
    )


def _kinds(plan: dict[str, Any], stage: str) -> list[str]:
    """Kinds of the stages behind one, and its own, first to last; one that goes on with its parent's training is one with it.

    Of records before there were others, all are pretraining.
    """
    values = plan["stages"][stage]["stage"]
    parent, kind = values["parent"], values.get("kind", "pretrain")
    before = _kinds(plan, parent["stage"]) if parent else []
    goes_on = parent and "origin" in values and parent["tokens"] != values["origin"]["tokens"]
    older = parent and "kind" not in values
    return before if before[-1:] == [kind] and (goes_on or older) else [*before, kind]


def _read_checkpoints(stage_dir: StageDir) -> list[tuple[Path, dict[str, Any]]]:
    """Complete checkpoints with their manifests; one that a running stage removes meanwhile is left out."""
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in stage_dir.list_checkpoints():
        with contextlib.suppress(FileNotFoundError):
            found.append((path, read_json(path / "manifest.json")))
    return found


def _checkpoint_record(
    path: Path,
    manifest: dict[str, Any],
    tags: dict[str, str],
    points: list[tuple[dict[str, Any], int]],
    readers: list[dict[str, Any]],
    skipped: list[str],
) -> CheckpointRecord:
    through = [point for point, reached in points if reached >= manifest["tokens"]]
    distinct = sum(count["distinct_tokens"] for count in manifest["counts"].values())
    drawn = sum(count["drawn_tokens"] for count in manifest["counts"].values())
    keys = ("step", "tokens", "sequences", "annealed", "params", "params_non_embedding", "flops")
    params = {key: json.dumps(manifest[key]) for key in keys}
    params |= {"unique_tokens": str(distinct), "epochs": repr(drawn / distinct)} if distinct else {}
    params |= {
        "kinds": tags["kinds"],
        "start_tokens": tags["start_tokens"],
        "stage": tags["stage"],
        "trajectory": tags["trajectory"],
        "commit": str(manifest["commit"]),
    }
    params["data_fingerprint"] = str(manifest["data_fingerprint"])
    for seed in ("seed_init", "seed_data"):
        values = {point[seed] for point in through or readers}
        params[seed] = str(values.pop()) if len(values) == 1 else ""
    evaluations: list[EvaluationRecord] = []
    for file in sorted((path / "evals").glob("*.json")):
        if file.name.endswith(".documents.json"):
            continue
        try:
            evaluations.append(read_evaluation(file))
        except (OSError, ValueError) as error:
            skipped.append(str(error))
    return CheckpointRecord(
        step=manifest["step"],
        params={key: value for key, value in params.items() if value},
        tags={
            "kind": "checkpoint",
            "study": tags["study"],
            "stage": tags["stage"],
            "model": tags["model"],
            **names_tags("points", [point["name"] for point in through]),
            "checkpoint": str(path.resolve()),
            **_weights_tag(manifest),
            "evaluation_ids": tags["evaluation_ids"],
        },
        evaluations=tuple(evaluations),
    )


def _weights_tag(manifest: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of a checkpoint's weights, by which scores of others are told from its own."""
    weights = manifest.get("files", {}).get("model.safetensors")
    return {} if weights is None else {WEIGHTS: weights["sha256"]}


def _variant(point: dict[str, Any]) -> str:
    """Name of a point's variant; empty in studies planned before there were any."""
    return str(point.get("config", {}).get("variant", {}).get("name", ""))


def names_tags(key: str, names: list[str]) -> dict[str, str]:
    """Names joined by ` | `, in as many tags as they need: `points`, `points.2`, ...; all but the last end in ` |`."""
    parts: list[list[str]] = [[]]
    length = 0
    for name in names:
        length += len(name) + 3
        if length > MAX_TAG_CHARACTERS and parts[-1]:
            parts.append([])
            length = len(name) + 3
        parts[-1].append(name)
    keys = [key, *(f"{key}.{i}" for i in range(2, len(parts) + 1))]
    return {key: " | ".join(part) + (" |" if key != keys[-1] else "") for key, part in zip(keys, parts, strict=True)}


def _identity_params(stage: schema.Stage) -> dict[str, str]:
    """Fields that the stage's id hashes, as `model.width` -> `64`; labels and targets are left out."""
    flat: dict[str, str] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value if isinstance(value, str) else json.dumps(value)

    whole = schema.to_dict(stage)
    visit("", {name: whole[name] for name in identity_fields(stage)})
    del flat["model.name"]
    return {key: value[:MAX_TAG_CHARACTERS] for key, value in flat.items()}


def _stage_artifacts(stage_dir: StageDir) -> tuple[tuple[Path, str], ...]:
    files = [(stage_dir.config, "")] if stage_dir.config.exists() else []
    for path in sorted(stage_dir.code.rglob("*")):
        if path.is_file() and path.stat().st_size <= MAX_CODE_FILE_BYTES:
            folder = path.parent.relative_to(stage_dir.path).as_posix()
            files.append((path, folder))
    return tuple(files)


def artifacts_digest(files: tuple[tuple[Path, str], ...]) -> str:
    """Hash of names and contents, to see whether stored artifacts are the present ones."""
    digest = hashlib.sha256()
    for path, folder in files:
        digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _stage_status(
    stage_dir: StageDir, planned: schema.Stage, manifests: list[dict[str, Any]]
) -> tuple[str, int | None, str]:
    """Finished where every checkpoint this study wants is there, whatever another study's run came to since."""
    wanted = set(planned.targets)
    ends = [manifest["time"] for manifest in manifests if manifest["tokens"] in wanted]
    if len(ends) == len(wanted):
        return "FINISHED", int(max(ends) * 1000), ""
    return _read_status(stage_dir)


def _read_status(stage_dir: StageDir) -> tuple[str, int | None, str]:
    """MLflow's status, end in milliseconds, and the error's text, as `status.json` has them.

    A stage that says it runs on this machine, and whose lock no process holds, was killed.
    """
    if not stage_dir.status.exists():
        return "SCHEDULED", None, ""
    status = read_json(stage_dir.status)
    state = STATES[status["state"]]
    if state == "RUNNING" and status["host"] == socket.gethostname() and not is_held(stage_dir.lock):
        state = "KILLED"
    ended = None if state == "RUNNING" else int(status["time"] * 1000)
    return state, ended, str(status.get("error") or "")


def _study_status(plan: dict[str, Any], stages: list[StageRecord]) -> str:
    states = {stage.status for stage in stages}
    for state in ("RUNNING", "FAILED", "KILLED"):
        if state in states:
            return state
    return "FINISHED" if states == {"FINISHED"} and len(stages) == len(plan["stages"]) else "SCHEDULED"
