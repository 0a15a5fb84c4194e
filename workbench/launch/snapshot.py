"""Freezing: a stage's directory holds its config and its code's version before anything runs."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from workbench.config.schema import Stage, from_dict, to_dict
from workbench.study.chain import merge_targets
from workbench.study.files import exclusive, read_stage, write_atomically
from workbench.study.layout import StageDir
from workbench.train.targets import keep_targets, missing_targets, targets


@dataclass(frozen=True)
class CodeVersion:
    """Commit of the project, and what was changed since."""

    commit: str
    """Full hash; `unknown` outside a git checkout."""
    dirty: bool
    """Whether files differ from the commit, or are not in it."""
    diff: str
    """The difference of the tracked files as a patch."""


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


def freeze_stage(stage_dir: StageDir, stage: Stage, code: CodeVersion) -> Stage:
    """Write a stage's config and code version; targets that are there already are kept beside the new.

    Where nothing is left to train, the code version stays that of the training.

    Returns
    -------
    Stage
        With the targets of every launch so far.
    """
    stage_dir.path.mkdir(parents=True, exist_ok=True)
    with exclusive(stage_dir.path / "freeze.lock"):
        missing = missing_targets(stage_dir, targets(stage))
        if stage_dir.config.exists():
            old = read_stage(stage_dir)
            stage = merge_targets(_with_circumstances(old, stage), stage)
        write_atomically(
            stage_dir.config, yaml.safe_dump({"id": stage_dir.id, "stage": to_dict(stage)}, sort_keys=False)
        )
        keep_targets(stage_dir, stage)
        if missing or not stage_dir.code.exists():
            stage_dir.code.mkdir(exist_ok=True)
            write_atomically(stage_dir.code / "version.json", json.dumps({"commit": code.commit, "dirty": code.dirty}))
            write_atomically(stage_dir.code / "diff.patch", code.diff)
    return stage


def _with_circumstances(old: Stage, new: Stage) -> Stage:
    """Give the old stage's targets under the new launch's numerics, checkpoint policy and resources."""
    values = to_dict(old) | {name: to_dict(getattr(new, name)) for name in ("numerics", "checkpoint", "resources")}
    return from_dict(Stage, values)
