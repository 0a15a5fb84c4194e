"""Small studies that fine-tune or distill.

It lets tests import `training_processes` and `taught_students` by name, as the processes that they start do.
"""

import json
import shutil
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from warm_commands import IMPORTED_BY_COMMANDS

from tests.kinds.imported_studies import TOKENS
from workbench.data.store import open_prepared
from workbench.forecast.study_facts import make_facts, prepare_data
from workbench.launch.snapshot import freeze_study
from workbench.study.warm_processes import IMPORTED
from workbench.train.whole_stage import train_stage

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "train")]

from taught_students import KEPT, of_kind  # noqa: E402
from training_processes import IMPORTED_BY_RANKS  # noqa: E402

WORDS = [a + b + c for a in ("ba", "ki", "re", "ta", "vo") for b in ("da", "mu", "so") for c in ("l", "n", "s")]


@pytest.fixture(scope="session", autouse=True)
def one_server_for_all_processes():
    """Commands, their workers and ranks are forked from one server, which imports what the first of them asks for alone."""
    if sys.platform == "linux":
        forkserver.set_forkserver_preload([*IMPORTED[:-1], *IMPORTED_BY_RANKS, *IMPORTED_BY_COMMANDS, IMPORTED[-1]])
        forkserver.ensure_running()


@pytest.fixture(scope="session")
def conversations(tmp_path_factory):
    """Short questions with one-word answers."""
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl"
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(400):
            turns = []
            for _ in range(rng.integers(1, 3)):
                question, answer = " ".join(rng.choice(WORDS, 2)), " ".join(rng.choice(WORDS[:4], rng.integers(1, 4)))
                turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


@pytest.fixture
def tune(compose, overrides, experiments, conversations):
    """Plan, prepare and freeze a study that fine-tunes; `then` is `sft` or `sft_lora`."""

    def make(then, *more):
        settings = [
            f"then={then}",
            "then.chat.chat.kind=jsonl",
            f"then.chat.chat.files=[{conversations}]",
            "then.chat.chat.template=zephyr",
            "then.chat.chat.heldout_percent=10",
            "then.chat.tokens=8192",
            "then.chat.warmup_tokens=512",
            "then.chat.batch_sequences=4",
            "model.context_tokens=128",
            "evaluation=chat",
            "evaluation.suites.heldout.limit=4",
            *([] if "~evaluation.suites.chat" in more else ["evaluation.suites.chat.limit=10"]),
        ]
        given = [override for override in overrides if "suites.embedded" not in override]
        facts = make_facts(compose([*given, *settings, *more], experiments))
        prepare_data(facts, print)
        return freeze_study(facts)

    return make


@pytest.fixture
def taught(make_study, outputs):
    """A study under outputs of its own, with its teacher trained: call it and get its facts."""

    def make(name, *more):
        root = outputs.parent / name
        root.mkdir()
        (root / "data").symlink_to(outputs / "data")
        facts = make_study(f"paths.outputs={root}", *KEPT, *more)
        for node in of_kind(facts, "pretrain"):
            train_stage(facts.layout, node.id)
        return facts

    return make


@pytest.fixture
def checkpoint(outputs, tmp_path):
    """Make a family's tiny random checkpoint with the tokenizer of the prepared corpus."""
    # Other tests leave stores of tokenizers with templates and named tokens beside it.
    stores = [path for path in (outputs / "data").iterdir() if (path / "manifest.json").exists()]
    store = next(path for path in sorted(stores) if not list(path.rglob("chat_template.jinja")))

    def make(name, **changes):
        from tests.model.test_pretrained import FAMILIES

        kind, config = FAMILIES[name]
        directory = tmp_path / f"made_{name}"
        torch.manual_seed(0)
        values = {**config.to_dict(), "vocab_size": open_prepared(store).vocab_size + 1, **changes}
        kind(type(config)(**values)).save_pretrained(directory)
        for file in open_prepared(store).tokenizer_dir.iterdir():
            shutil.copyfile(file, directory / file.name)
        return directory

    return make


@pytest.fixture
def begin(compose, overrides, experiments):
    """Plan, prepare and freeze a study that begins from a checkpoint."""

    def make(directory, *more):
        settings = [*overrides, "init=hf", f"init.path={directory}", *TOKENS, *more]
        facts = make_facts(compose(settings, experiments))
        prepare_data(facts, print)
        return freeze_study(facts)

    return make
