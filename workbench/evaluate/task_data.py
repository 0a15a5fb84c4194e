"""The local files behind a task's documents, by content: a changed file is another question.

Where files are follows `datasets.load_dataset`, which lm-eval calls with a task's `dataset_path` and
`dataset_kwargs`: relative paths start at the working directory, or at `data_dir` where that is given.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.config.secret_urls import refuse_secrets
from workbench.data.fingerprint import hash_file

_OF_FILES = ("arrow", "csv", "hdf5", "json", "pandas", "parquet", "text", "webdataset", "xml")
BUILDERS = (*_OF_FILES, "audiofolder", "imagefolder", "pdffolder", "videofolder")
"""Names of `dataset_path` that read the files they are given, and no repository."""
_CODE = (".py", ".pyc", ".yaml", ".md")


def with_contents(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Describe a task with the content of its local files in the place of their paths.

    Parameters
    ----------
    config
        A task's file, includes merged and templates filled in.
    folder
        Folder of the function that makes its data set (`custom_dataset`), which may read what is beside it.

    Returns
    -------
    dict
        The config, unchanged where the task reads no local file: one from the hub, by URL, or held-out text.

    Raises
    ------
    ValueError
        A file is not there, or a pattern matches none.
    """
    path, given = config.get("dataset_path"), config.get("dataset_kwargs")
    kwargs: dict[str, Any] = given if isinstance(given, dict) else {}
    if "custom_dataset" in config:
        return config | _contents_of_custom(kwargs, folder)
    if not isinstance(path, str):
        return config
    base = Path(str(kwargs.get("data_dir") or "")).expanduser()
    if path not in BUILDERS:
        local = Path(path).expanduser()
        if not path or not local.exists():
            return config
        base, config = local / base, config | {"dataset_path": "local"}
    files = kwargs.get("data_files")
    if files is None and path in BUILDERS and "data_dir" not in kwargs:
        return config
    contents = _folder_contents(base) if files is None else _map_files(files, base)
    if contents == files:
        return config  # URLs alone
    rest = {key: value for key, value in kwargs.items() if key not in ("data_dir", "data_files")}
    return config | {"dataset_kwargs": {**rest, "contents": contents}}


def _contents_of_custom(kwargs: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Files that a function which makes the data set may read: absolute paths it is given, and those beside it."""
    named = {
        key: _folder_contents(Path(value))
        for key, value in kwargs.items()
        if isinstance(value, str) and Path(value).is_absolute() and Path(value).exists()
    }
    beside = {
        path.name: hash_file(path)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in _CODE and not path.name.startswith(".")
    }
    if not named and not beside:
        return {}
    return {"dataset_kwargs": kwargs | named, "files": beside}


def _folder_contents(path: Path) -> Any:
    """Hash of a file, or of every file in a folder by its place there; hidden ones are not data."""
    if path.is_file():
        return hash_file(path)
    if not path.is_dir():
        raise ValueError(f"data folder {str(path)!r} is not there (relative paths start at {Path.cwd()})")
    files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
    hidden = ("__pycache__", ".")
    return {
        name: hash_file(file) for name, file in files.items() if not any(p.startswith(hidden) for p in name.split("/"))
    }


def _map_files(data_files: Any, base: Path) -> Any:
    """Put hashes for the names in a `data_files`: one, a list, or one or a list of each split."""
    if isinstance(data_files, dict):
        return {split: _map_files(files, base) for split, files in data_files.items()}
    if isinstance(data_files, str):
        return _hashes(data_files, base)
    if isinstance(data_files, Sequence):
        return [_map_files(item, base) for item in data_files]
    raise ValueError(f"data_files={data_files!r} is neither a path, a list nor a list of each split")


def _hashes(pattern: str, base: Path) -> Any:
    """Hashes of the files that a path or glob names, in the order of their names; a URL stays as it is."""
    local = pattern.removeprefix("file://").rpartition("::")[2]
    if "://" in local:
        refuse_secrets("data_files", local)
        return pattern
    path = base / Path(local).expanduser()
    found = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (absolute globs)
    hashes = [hash_file(file) for file in found if file.is_file()]
    if not hashes:
        raise ValueError(f"data file {pattern!r} is not there (relative paths start at {base.absolute()})")
    return hashes
