"""Freezing: the record of a study and the directories of its stages hold config and code before anything runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from workbench.config.kind_registry import plugin_folders
from workbench.config.schema import Config, Stage, from_dict, to_dict
from workbench.data.fingerprint import heldout_fingerprint
from workbench.data.store import open_prepared
from workbench.evaluate.reconcile import evaluation_id_on
from workbench.forecast.study_facts import Facts, look, stores
from workbench.study.chain import merge_targets
from workbench.study.files import exclusive, is_held, read_stage, write_atomically
from workbench.study.layout import Layout, StageDir
from workbench.study.study_plan import study_record
from workbench.study.study_record import change_record
from workbench.train.attempt_status import read_status, write_status
from workbench.train.targets import keep_targets, missing_targets


@dataclass(frozen=True)
class CodeVersion:
    """Commit of the project, and what was changed since."""

    commit: str
    """Full hash; `unknown` outside a git checkout."""
    dirty: bool
    """Whether files differ from the commit, or are not in it."""
    diff: str
    """The difference of the tracked files as a patch."""
    copy: str = ""
    """Digest of the code itself, untracked files included; names its copy under the outputs."""

    @property
    def facts(self) -> dict[str, Any]:
        """What stands in each stage and checkpoint."""
        return {"commit": self.commit, "dirty": self.dirty, "copy": self.copy}


PLUGINS_COPY = "plugins"
"""Folder of a user's own kinds in a copy of the code."""
PROJECT_ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("workbench/**/*.py", "workbench/**/*.yaml", "analysis/**/*.py", "requirements.lock", "pyproject.toml")


def freeze_code(layout: Layout, root: Path = PROJECT_ROOT) -> CodeVersion:
    """Copy the running code under the outputs, once a version, for jobs to import whatever is edited later."""
    code = code_version(root)
    files = {path.relative_to(root).as_posix(): path.read_bytes() for glob in _COPIED for path in root.glob(glob)}
    files |= _plugin_files()
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    code = replace(code, copy=digest.hexdigest()[:16])
    target = layout.code_copy(code.copy)
    if not target.exists():
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        try:
            partial.rename(target)
        except OSError:  # another launch was faster
            shutil.rmtree(partial)
    return code


def _plugin_files() -> dict[str, bytes]:
    """Give the modules of a user's own kinds, by where a job finds them."""
    folders = {spec.parent for folder in plugin_folders() for spec in folder.glob("*/spec.py")}
    return {
        f"{PLUGINS_COPY}/{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for folder in folders
        for path in folder.rglob("*.py")
    }


def code_version(root: Path) -> CodeVersion:
    """Ask git about the checkout that the running code lies in."""

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, errors="replace", check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return run.stdout

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return CodeVersion("unknown", False, "")
    changed = git("status", "--porcelain")
    return CodeVersion(commit.strip(), bool(changed), git("diff", "--binary", "HEAD") or "")


def freeze_stage(stage_dir: StageDir, stage: Stage, code: CodeVersion, *, underway: bool = False) -> Stage:
    """Write a stage's config and code version; targets that are there already are kept beside the new.

    Where nothing is left to train, the code version stays that of the training; where a job is `underway`,
    everything but the targets stays as that job was submitted.

    Returns
    -------
    Stage
        With the targets of every launch so far.
    """
    stage_dir.path.mkdir(parents=True, exist_ok=True)
    with exclusive(stage_dir.path / "freeze.lock"):
        missing = missing_targets(stage_dir, stage)
        if stage_dir.config.exists():
            old = read_stage(stage_dir)
            if underway:
                stage = _with_circumstances(stage, old)
            stage = merge_targets(_with_circumstances(old, stage), stage)
        write_atomically(
            stage_dir.config, yaml.safe_dump({"id": stage_dir.id, "stage": to_dict(stage)}, sort_keys=False)
        )
        keep_targets(stage_dir, stage)
        if (missing and not underway) or not stage_dir.code.exists():
            stage_dir.code.mkdir(exist_ok=True)
            write_atomically(stage_dir.code / "version.json", json.dumps(code.facts))
            write_atomically(stage_dir.code / "diff.patch", code.diff)
    return stage


def _with_circumstances(stage: Stage, other: Stage) -> Stage:
    """Give a stage's targets under another launch's numerics, checkpoint policy and resources."""
    values = to_dict(stage) | {name: to_dict(getattr(other, name)) for name in ("numerics", "checkpoint", "resources")}
    return from_dict(Stage, values)


def freeze_study(
    facts: Facts,
    code: CodeVersion | None = None,
    underway: Container[str] = (),
    command: str = "",
    launcher: Mapping[str, Any] | None = None,
) -> Facts:
    """Write `study.json` and every stage's directory; return the facts as they are then.

    Parameters
    ----------
    facts
        The study.
    code
        A frozen version of the code; None freezes the running one.
    underway
        Stages with live jobs: their targets are extended, and nothing else of them is touched.
    command
        What the user typed, to be typed again.
    launcher
        Fields of its `workbench.config.launcher_settings.Launcher`, for commands that name the study alone.
    """
    code = code or freeze_code(facts.layout)
    write_study(facts, code.commit, code.dirty, command, launcher)
    record_evaluations(facts)
    for node in facts.plan.nodes.values():
        stage_dir = facts.layout.stage(node.id)
        freeze_stage(stage_dir, node.stage, code, underway=node.id in underway)
        _settle_status(stage_dir, missing_targets(stage_dir, node.stage))
    return look(facts.plan)


def _settle_status(stage_dir: StageDir, missing: list[int]) -> None:
    """Set right the status of a stage whose process died after its last checkpoint and before saying so."""
    latest = read_status(stage_dir)
    if not missing and latest is not None and latest["state"] != "finished" and not is_held(stage_dir.lock):
        write_status(stage_dir, "finished")


def write_study(
    facts: Facts, commit: str, dirty: bool, command: str = "", launcher: Mapping[str, Any] | None = None
) -> None:
    """Write `study.json`, keeping the time it was first made; `command` launches the study again, by `launcher`."""

    def replaced(before: dict[str, Any]) -> dict[str, Any]:
        record = study_record(facts.plan, created=before.get("created", time.time()), commit=commit, dirty=dirty)
        record["evaluation_ids"] = before.get("evaluation_ids", {})
        record["command"] = command or before.get("command", "")
        record["launcher"] = launcher or before.get("launcher")
        record["plugins"] = [str(folder) for folder in plugin_folders()]
        return record

    change_record(facts.layout, facts.plan.study, replaced)


def record_evaluations(facts: Facts) -> None:
    """Say in `study.json` which evaluation of each suite counts now; frames leave the suite's others out."""
    evaluation = facts.plan.evaluation
    if not facts.layout.study_file(facts.plan.study).exists():
        return
    counted: dict[str, list[str]] = {}
    for suite in evaluation.suites.values():
        ids: set[str] = set()
        for fingerprint, config in stores(facts.plan).items():
            heldout = _heldout(facts.layout, fingerprint, config)
            ids.add(evaluation_id_on(suite, evaluation.precision, facts.layout, fingerprint, heldout))
        counted[suite.name] = sorted(ids)

    def with_ids(record: dict[str, Any]) -> dict[str, Any]:
        return {**record, "evaluation_ids": {**record.get("evaluation_ids", {}), **counted}}

    change_record(facts.layout, facts.plan.study, with_ids)


def _heldout(layout: Layout, fingerprint: str, config: Config) -> str:
    """Fingerprint of the held-out documents: the store's own, where there is one."""
    if (layout.data(fingerprint) / "manifest.json").exists():
        return open_prepared(layout.data(fingerprint)).heldout_fingerprint
    return heldout_fingerprint(config.data, config.tokenizer)
