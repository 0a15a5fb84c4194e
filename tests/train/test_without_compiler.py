"""A process that trains uncompiled does not wait for PyTorch's compiler, which takes as long to import as PyTorch itself."""

import subprocess
import sys

COMPILER = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "sympy"}
TRAIN = f"""
import sys
from pathlib import Path
from workbench.study.layout import Layout
from workbench.train.whole_stage import train_stage
layout, stages = Layout(Path(sys.argv[1])), sys.argv[2:]
for stage in stages:
    train_stage(layout, stage)
print(*sorted({COMPILER!r} & set(sys.modules)), len(layout.stage(stages[0]).list_checkpoints()))
"""


def test_training_saving_and_going_on_import_no_compiler(make_study):
    """A trunk with a milestone, and the cooldown that goes on from its checkpoint, by Muon beside AdamW."""
    facts = make_study("recipe.milestones=[2560]", "optimizer.kind=muon")
    command = [sys.executable, "-c", TRAIN, str(facts.layout.root), *facts.plan.nodes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"]
    assert len(facts.plan.nodes) == 2
