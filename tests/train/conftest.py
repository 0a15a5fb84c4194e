"""Lets tests import `training_processes` by its name, as the processes that they start do."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def fresh(make_study, outputs):
    """The same study under other outputs: call it and get its facts."""

    def make(name, *more):
        root = outputs.parent / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        return make_study(f"paths.outputs={root}", *more)

    return make
