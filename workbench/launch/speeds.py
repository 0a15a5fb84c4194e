"""Training speeds that jobs have measured on a cluster, for the next plan's time limits and costs."""

from __future__ import annotations

import json
import statistics

from workbench.config.schema import Stage
from workbench.study.files import exclusive, write_atomically
from workbench.study.identity import digest, model_identity
from workbench.study.layout import Layout
from workbench.tracking import spool

_ROWS = 200
"""Steps whose median counts; the last ones, so that compilation and start-up are behind."""
_FILE = "cluster_speeds.json"


class Speeds:
    """Tokens a second of one process, by what it depends on; kept beside the stages.

    Parameters
    ----------
    layout
        The outputs.
    cluster
        The cluster's name.
    """

    def __init__(self, layout: Layout, cluster: str) -> None:
        self._path, self._cluster = layout.root / _FILE, cluster
        self._known: dict[str, float] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def get(self, stage: Stage) -> float | None:
        """Speed of a stage like this one; None where no job has trained one yet."""
        return self._known.get(self._key(stage))

    def remember(self, layout: Layout, stage_id: str, stage: Stage, processes: int) -> None:
        """Keep what a stage's last steps took, from its rows."""
        rows = spool.read_rows(layout.stage(stage_id).path)[-_ROWS:]
        if not rows:
            return
        speed = statistics.median(row[spool.TRAIN_TOKENS_PER_SECOND] for row in rows) / processes
        with exclusive(self._path.with_suffix(".lock")):
            known = json.loads(self._path.read_text()) if self._path.exists() else {}
            write_atomically(self._path, json.dumps({**known, self._key(stage): speed}, indent=1))

    def _key(self, stage: Stage) -> str:
        numerics = stage.numerics
        circumstances = [numerics.threads, numerics.attention, numerics.compile, numerics.activation_checkpointing]
        return digest([model_identity(stage.model), stage.precision, circumstances, self._cluster])
