"""What a study's run in MLflow keeps of its report: figures, tables, records of data and fits, and the page on top.

`workbench.tracking.mlflow` connects, holds the study's lock and says which run.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPORT_FILES = "report.files.json"
"""Artifact of a study's run that lists what its report stored, so that the next can remove what it does not store."""


def replace_report(client: MlflowClient, run_id: str, files: Sequence[Path], uri: str) -> None:
    """Store files in the folders of their kinds, and remove what an earlier call stored and this one does not.

    Parameters
    ----------
    client, run_id
        The study's own run.
    files
        Figures, tables (`.table.csv`), records of data (`.data.json`), fits (`.json` beside no figure) and a page (`.html`).
    uri
        Where the client connects to.
    """
    earlier, paths = _read_report_files(client, run_id), {_artifact_path(file) for file in files}
    # A call that is killed leaves a list of both.
    client.log_dict(run_id, {"files": sorted(earlier | paths)}, REPORT_FILES)
    for file in files:
        client.log_artifact(run_id, str(file), _artifact_folder(file))
    _delete_artifacts(client, run_id, earlier - paths, uri)
    client.log_dict(run_id, {"files": sorted(paths)}, REPORT_FILES)


def _read_report_files(client: MlflowClient, run_id: str) -> set[str]:
    """Artifacts that an earlier report stored, empty where none is known."""
    if REPORT_FILES not in {file.path for file in client.list_artifacts(run_id)}:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, REPORT_FILES, folder)
        return set(json.loads(Path(path).read_text(encoding="utf-8"))["files"])


def _delete_artifacts(client: MlflowClient, run_id: str, paths: set[str], uri: str) -> None:
    """Remove artifacts of a run, which its client has no call for."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not paths:
        return
    repository = get_artifact_repository(str(client.get_run(run_id).info.artifact_uri), tracking_uri=uri)
    for path in sorted(paths):
        repository.delete_artifacts(path)


def _artifact_path(file: Path) -> str:
    """Path of one file of a study's results among its run's artifacts."""
    return "/".join(part for part in (_artifact_folder(file), file.name) if part)


def _artifact_folder(file: Path) -> str | None:
    """Folder in the study's run for one file of its results."""
    if file.suffix == ".html":
        return None
    if file.name.endswith(".table.csv"):
        return "tables"
    if file.name.endswith(".data.json"):
        return "data"
    return "fits" if file.suffix == ".json" and not file.name.endswith(".lineage.json") else "figures"
