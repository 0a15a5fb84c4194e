"""Where configs are found: the project's `conf/` and `experiments/`, and a user's folder of studies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
CONFIG_DIR = PROJECT_ROOT / "conf"


def search_folders(experiments: Path | None, scratch: Path) -> list[Path]:
    """Folders that are searched for config groups after `conf/`.

    Parameters
    ----------
    experiments
        A user's folder of studies; groups within it (`cluster/mine.yaml`) are found too, and those beside it if it is
        called `experiments`.
    scratch
        An empty folder that may be written to: the project's studies are linked into it, since Hydra takes every folder
        beside them for a config group, and `analysis` is a setting.

    Raises
    ------
    ValueError
        The folder does not exist, or a file of its groups has the same name as one in `conf/`.
    """
    project = scratch / "project"
    project.mkdir()
    (project / "experiments").symlink_to(PROJECT_ROOT / "experiments", target_is_directory=True)
    if experiments is None:
        return [project]
    folder = experiments.expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"--experiments {folder}: no such folder")
    if folder.name == "experiments":
        folders = [folder.parent, folder]
    else:
        user = scratch / "user"
        user.mkdir()
        (user / "experiments").symlink_to(folder, target_is_directory=True)
        folders = [user, folder]
    for root in folders:
        _refuse_hidden(root)
    return [*folders, project]


def _refuse_hidden(folder: Path) -> None:
    """Refuse files that Hydra would never read because it finds the project's first."""
    for path in sorted(CONFIG_DIR.glob("*/**/*.yaml")):
        name = path.relative_to(CONFIG_DIR)
        if (folder / name).exists() and not (folder / name).samefile(path):
            raise ValueError(f"{folder / name} would be hidden by the project's conf/{name}: give it another name")


def search_override(folders: Sequence[Path]) -> str:
    """Override that makes Hydra search these folders."""
    return f"hydra.searchpath=[{','.join(quoted(f'file://{folder}') for folder in folders)}]"


def quoted(text: str) -> str:
    """Quote a text as one value in Hydra's override grammar, whatever it contains."""
    # A backslash counts only before a quote, and a dollar only before a brace.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return "'" + escaped.replace("${", "\\${") + "'"
