"""Lets tests import `training_processes` by its name, as the processes that they start do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
