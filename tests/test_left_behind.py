"""The guard that finds what tests leave in the repository."""

from pathlib import Path

import pytest

from tests.conftest import assert_nothing_left


def test_what_a_folder_gained_is_named(tmp_path: Path):
    (tmp_path / ".gitignore").write_text("outputs/\n*.egg-info/\n.pytest_cache/\n")
    (tmp_path / "README.md").touch()
    before = {path.name for path in tmp_path.iterdir()}
    for name in ("outputs", "x.egg-info", ".pytest_cache"):
        (tmp_path / name).mkdir()
    assert_nothing_left(tmp_path, before)
    (tmp_path / "mlruns").mkdir()
    with pytest.raises(AssertionError, match="has left mlruns in "):
        assert_nothing_left(tmp_path, before)
