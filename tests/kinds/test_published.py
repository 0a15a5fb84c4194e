"""The study `published`: its models' files, and two made-up milestones of one model run as one study."""

import shutil

import pytest
import torch
import yaml
from warm_commands import run_command

from tests.model.test_pretrained import FAMILIES
from workbench.config.compose import CONFIG_DIR, PROJECT_ROOT
from workbench.data.store import open_prepared
from workbench.study.layout import Layout

STUDY = yaml.safe_load((PROJECT_ROOT / "experiments" / "published.yaml").read_text())
CHOICES = STUDY["hydra"]["sweeper"]["params"]["init"].replace(" ", "").split(",")


@pytest.mark.parametrize("choice", CHOICES)
def test_every_model_is_named_with_its_tokens(compose, choice):
    values = yaml.safe_load((CONFIG_DIR / "init" / f"{choice}.yaml").read_text())
    [(_, config)] = compose(["experiments=published", f"init={choice}"])
    assert (config.init.path, config.tokens) == (values["path"], 0)
    assert config.init.tokens > 10**11
    assert config.init.licence == "apache-2.0"


def test_there_are_seven_milestones_and_one_is_the_end(compose):
    configs = [
        config for _, config in compose([f"init={','.join(c for c in CHOICES if 'tinyllama' in c)}", "tokens=0"])
    ]
    tokens = [config.init.tokens for config in configs]
    assert len(tokens) == 7 == len(set(tokens))
    assert tokens == sorted(tokens)
    assert [config.init.annealed for config in configs] == [False] * 6 + [True]
    assert {config.init.name for config in configs} == {"tinyllama_1b"}


def test_made_up_milestones_run_as_one_study(outputs, experiments, overrides, tmp_path, empty_database):
    shutil.copy(empty_database, Layout(outputs).database)
    [store] = [path for path in (outputs / "data").iterdir() if (path / "manifest.json").exists()][:1]
    prepared = open_prepared(store)
    paths = [yaml.safe_load((CONFIG_DIR / "init" / f"{c}.yaml").read_text())["path"] for c in CHOICES]
    for seed, (path, family) in enumerate([(paths[0], "tinyllama"), (paths[6], "tinyllama"), (paths[7], "pythia")]):
        kind, config = FAMILIES[family]
        torch.manual_seed(seed)
        kind(type(config)(**{**config.to_dict(), "vocab_size": prepared.vocab_size})).save_pretrained(tmp_path / path)
        for file in prepared.tokenizer_dir.iterdir():
            shutil.copyfile(file, tmp_path / path / file.name)
    given = [override for override in overrides if not override.startswith(("tokens=", "study=", "recipe.", "model"))]
    command = ["run", "--experiments", str(experiments), "experiments=published", *given, "model.vocab_size=512"]
    command += [f"init={CHOICES[0]},{CHOICES[6]},{CHOICES[7]}", "init.revision=null"]  # directories have none
    done = run_command(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = [line.split()[:3] for line in done.stdout.splitlines() if line.strip().startswith(("tinyllama", "pythia"))]
    assert sorted((name, tokens) for name, _, tokens in table) == [
        ("pythia_14m", "300B"), ("tinyllama_1b", "105B"), ("tinyllama_1b", "3T")
    ]  # fmt: skip
    assert "not trained" not in done.stdout
