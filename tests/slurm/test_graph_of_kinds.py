"""One graph of several kinds on a real Slurm: pretrain, fine-tune, a user's own kind; each scored."""

import json
import random
import re
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from warm_commands import run_command

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]  # patience for a slow and shared machine

PROJECT = Path(__file__).resolve().parents[2]
WORDS = ["list", "dict", "open", "read", "close", "print", "sort", "range"]
STUDY = [
    "experiments=token_scaling_tiny",
    "model=m0_03",
    "model.context_tokens=128",
    "recipe.batch_sequences=8",
    "tokens=20480",
    "evaluation=chat",
    "evaluation.suites.chat.limit=8",
    "evaluation.suites.heldout.limit=4",
    "tracking.publish=false",
    "then=sft_lora",
    "++then.chat.chat.kind=jsonl",
    "++then.chat.chat.template=chatml",
    "++then.chat.chat.heldout_percent=10",
    "++then.chat.tokens=8192",
    "++then.chat.warmup_tokens=1024",
    "++then.chat.batch_sequences=8",
]


@pytest.fixture
def folder(tmp_path):
    """Write conversations, and the kind of docs/kinds.md."""
    rng = random.Random(0)
    with (tmp_path / "chat.jsonl").open("w") as file:
        for number in range(200):
            asked = f"what is {rng.choice(WORDS)} {number}"
            turns = [("user", asked), ("assistant", f"it is {rng.choice(WORDS)}")]
            file.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "kinds.md").read_text(), re.DOTALL)
    (tmp_path / "mine" / "prune").mkdir(parents=True)
    for name, block in zip(("spec", "plan", "run"), blocks, strict=True):
        (tmp_path / "mine" / "prune" / f"{name}.py").write_text(block)
    return tmp_path


def run(slurm, *arguments):
    done = run_command(arguments, env=slurm.env, cwd=PROJECT, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait(slurm, seconds=900):
    until = time.monotonic() + seconds
    while queue := slurm.run(["squeue", "--noheader", "--array", "--format=%i %j %T %r"]).strip():
        assert time.monotonic() < until, queue
        time.sleep(0.5)


def weights(root):
    """Each stage's kind, and its last weights."""
    found = {}
    for stage in sorted((root / "stages").iterdir()):
        kind = re.search(r"^  kind: (\w+)", (stage / "stage.yaml").read_text(), re.M)[1]
        last = sorted(stage.glob("checkpoints/step_*"))[-1]
        assert list((last / "evals").glob("heldout-*.json")), f"{kind} {stage.name} was not scored"
        found[stage.name] = (kind, load_file(last / "model.safetensors"))
    return found


def test_pretrain_fine_tune_and_a_kind_of_ones_own_are_one_graph(slurm, folder, know_speeds):
    options = ["--plugins", folder / "mine"]
    trained = [*STUDY, f"++then.chat.chat.files=[{folder / 'chat.jsonl'}]"]
    settings = [*trained, "++then.pruned.kind=prune"]
    there, here = folder / "there", folder / "here"
    asked = [*options, *settings, "hydra/launcher=slurm", "cluster=slurm_demo", f"paths.outputs={there}"]
    launch = run(slurm, "run", *asked)
    assert "submitted: 4 trainings, 4 evaluations, 1 publishing" in launch
    # What is edited after the launch, a plugin too, changes nothing.
    (folder / "mine" / "prune" / "run.py").write_text("raise RuntimeError('edited')\n")
    wait(slurm)
    states = json.loads(run(slurm, "status", "--json", *asked))
    assert {state["state"] for state in states} == {"finished"}, states
    (folder / "mine" / "prune" / "run.py").write_text(
        re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "kinds.md").read_text(), re.DOTALL)[2]
    )
    here.mkdir()
    know_speeds([*trained, f"paths.outputs={here}"])
    run(slurm, "run", *options, *settings, f"paths.outputs={here}")
    ours, theirs = weights(there), weights(here)
    assert sorted(kind for kind, _ in ours.values()) == ["pretrain", "pretrain", "prune", "sft"]
    assert ours.keys() == theirs.keys()
    for stage, (_, tensors) in ours.items():
        assert all((tensor == theirs[stage][1][name]).all() for name, tensor in tensors.items()), stage
    again = run(slurm, "run", *asked)
    assert "nothing is missing" in again
    slurm.clear()
