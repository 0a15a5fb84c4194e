"""A real Slurm for these tests; where there is none they skip and say why."""

import importlib.util
import sys
from pathlib import Path

import pytest

# `training_processes`, by the name that the processes it starts know it by.
sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
_SPEC = importlib.util.spec_from_file_location("slurm_cluster", Path(__file__).with_name("two_nodes.py"))
cluster = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(cluster)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Start two nodes for a module, and stop them: what a failed test leaves queued or down is nobody else's."""
    lack = cluster.missing()
    if lack:
        pytest.skip(f"no Slurm: {lack}")
    made = cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    made.start()
    yield made
    made.stop()
