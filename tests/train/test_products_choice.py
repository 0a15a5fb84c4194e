"""`numerics.products=openblas` in a training: recorded with its checkpoints, and said where another one went before."""

import shutil

import torch

from workbench.model.matmul import uses_onednn
from workbench.model.openblas import found_openblas
from workbench.train import checkpoint as ckpt
from workbench.train.whole_stage import train_stage


def test_a_checkpoint_says_which_library_multiplied(make_study):
    for library, expected in (
        ("onednn", {"products": "onednn", "onednn": True}),
        ("openblas", {"products": "openblas", "onednn": False, "openblas": found_openblas()}),
    ):
        if library == "onednn" and not uses_onednn(torch.device("cpu")):
            continue
        facts = make_study(f"numerics.products={library}")
        trunk = next(iter(facts.plan.nodes))
        train_stage(facts.layout, trunk)
        path = facts.layout.stage(trunk).list_checkpoints()[-1]
        numerics = ckpt.read_manifest(path)["numerics"]
        assert {key: numerics[key] for key in numerics if key in ("products", "onednn", "openblas")} == expected
        for old in facts.layout.stage(trunk).list_checkpoints():
            shutil.rmtree(old)
