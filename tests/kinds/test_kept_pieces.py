"""Pieces of kept logits: what of them is safe, what is left, and what becomes of one that is damaged or lost."""

import json

from taught_students import of_kind
from training_processes import start, train

from workbench.config.plain import to_dict
from workbench.launch.slurm.on_node import _TURNS, Job


def test_turns_in_the_queue_that_end_between_two_checkpoints_are_progress(taught, tmp_path, monkeypatch):
    facts = taught("turns")
    [logits] = of_kind(facts, "logits")
    file = tmp_path / "batch.json"
    element = {"name": "kept", "stage": logits.id, "targets": logits.targets, "frozen": to_dict(logits.stage)}
    fixed = {"outputs": str(facts.layout.root), "kind": "train", "cluster": {"name": "none"}}
    file.write_text(json.dumps({**fixed, "elements": {"0": element}}))
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    job = Job(file)
    for _ in range(_TURNS + 2):
        assert start(1, train, root=facts.layout.root, stage=logits.id, stop_after=1)[0].error == "StoppedError"
        assert not facts.layout.stage(logits.id).list_checkpoints()
        assert not job._stands_still()
        assert not job._gained_nothing()
    start(1, train, root=facts.layout.root, stage=logits.id)
    assert not job._stands_still()
    assert [job._stands_still() for _ in range(_TURNS)] == [False] * (_TURNS - 1) + [True]
