"""Every path under the outputs' root, in one place.

outputs/
  data/<fingerprint>/            prepared token store, tokenizer, held-out documents
  data/<fingerprint>.jobs/       of a corpus: claims of the jobs that make it, status.json, log.txt, inputs.json
  code/<digest>/                 copy of the project's code that jobs import from
  jobs/<token>/                  one submission to Slurm: batch.json, script, logs
  stages/<id>/                   one trajectory: stage.yaml, code/, metrics.jsonl (and .parquet), checkpoints/, jobs/
  imported/<fingerprint>/        results of a checkpoint from outside
  studies/<study>/study.json     points, stages, dependencies, cost estimate
  studies/<study>/published.json what the last publishing left
  studies/<study>/claimed/       an empty file for every stage that a launch onto a cluster has claimed
  figures/<study>/  fits/<study>/
  outputs.id                     names this folder to MLflow, wherever it is moved
  mlflow.db  mlartifacts/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StageDir:
    """Paths of one stage."""

    path: Path
    """The stage's directory, `<outputs>/stages/<id>`."""

    @property
    def id(self) -> str:
        """The stage's id."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The frozen `Stage`, as YAML."""
        return self.path / "stage.yaml"

    @property
    def code(self) -> Path:
        """Commit and uncommitted diff at submission."""
        return self.path / "code"

    @property
    def metrics(self) -> Path:
        """One row per optimizer step."""
        return self.path / "metrics.jsonl"

    @property
    def metrics_table(self) -> Path:
        """The same rows as a Parquet file, once the stage is finished."""
        return self.path / "metrics.parquet"

    @property
    def status(self) -> Path:
        """State of the latest attempt."""
        return self.path / "status.json"

    @property
    def log(self) -> Path:
        """The stage's log."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """File on which the process that trains the stage holds a kernel lock."""
        return self.path / "lock"

    @property
    def jobs(self) -> Path:
        """Claims: which submission does which part of the stage."""
        return self.path / "jobs"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Directory of the checkpoint after `step` optimizer steps of the chain."""
        return self.checkpoints / f"step_{step:08d}"

    def list_checkpoints(self) -> list[Path]:
        """Complete checkpoints (those with a manifest), in order of their steps."""
        found = [p.parent for p in self.checkpoints.glob("step_*/manifest.json")]
        return sorted((p for p in found if p.name[5:].isdecimal()), key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """Optimizer steps of the chain behind a checkpoint directory's name."""
    return int(checkpoint.name.removeprefix("step_"))


@dataclass(frozen=True)
class Layout:
    """Paths under one outputs' root."""

    root: Path
    """The outputs' root."""

    def data(self, fingerprint: str) -> Path:
        """Return the folder of prepared data."""
        return self.root / "data" / fingerprint

    def corpus_jobs(self, fingerprint: str) -> Path:
        """Return the folder of the claims of jobs that make a corpus."""
        return self.root / "data" / f"{fingerprint}.jobs"

    def corpus(self, fingerprint: str) -> StageDir:
        """Return what a corpus's node has beside its store, with a stage's names: status and log of whoever made it last."""
        return StageDir(self.corpus_jobs(fingerprint))

    def code_copy(self, digest: str) -> Path:
        """Return the folder of one copy of the code."""
        return self.root / "code" / digest

    def batch(self, token: str) -> Path:
        """Return the folder of one submission."""
        return self.root / "jobs" / token

    def stage(self, stage_id: str) -> StageDir:
        """One stage."""
        return StageDir(self.root / "stages" / stage_id)

    def imported(self, fingerprint: str) -> Path:
        """Return the folder of a checkpoint from outside."""
        return self.root / "imported" / fingerprint

    def study(self, name: str) -> Path:
        """Folder of one study."""
        return self.root / "studies" / name

    def study_file(self, name: str) -> Path:
        """Plan of one study."""
        return self.study(name) / "study.json"

    def figures(self, name: str) -> Path:
        """Figures of one study."""
        return self.root / "figures" / name

    def fits(self, name: str) -> Path:
        """Fits of one study."""
        return self.root / "fits" / name

    @property
    def identity(self) -> Path:
        """File that holds the folder's own id."""
        return self.root / "outputs.id"

    @property
    def database(self) -> Path:
        """Default MLflow store."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """Default MLflow artifacts."""
        return self.root / "mlartifacts"
