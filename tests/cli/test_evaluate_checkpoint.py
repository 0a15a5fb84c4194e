"""`workbench evaluate --checkpoint` scores a checkpoint from outside by a study's suites and held-out text."""

import json
from pathlib import Path

import pytest

from tests.model.test_pretrained import FAMILIES
from workbench.cli import main
from workbench.data.store import open_prepared


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    return ended.value.code


def test_a_checkpoint_from_outside_is_scored_and_its_scores_printed(
    make_study, overrides, experiments, tmp_path, capsys
):
    facts = make_study()
    [fingerprint] = {node.stage.stream.data_fingerprint for node in facts.plan.nodes.values()}
    tokenizer = open_prepared(facts.layout.data(fingerprint)).tokenizer_dir
    kind, config = FAMILIES["pythia"]
    kind(type(config)(**{**config.to_dict(), "vocab_size": 1000})).save_pretrained(tmp_path / "pythia")
    for file in tokenizer.iterdir():
        (tmp_path / "pythia" / file.name).write_bytes(file.read_bytes())
    options = ["--experiments", str(experiments), "--checkpoint", str(tmp_path / "pythia"), *overrides]
    assert run(*options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "licence unknown" in lines[0]
    assert any(line.startswith("heldout/prose/bits_per_byte") for line in lines)
    [result] = [line for line in lines if line.endswith(".json")]
    assert f"{facts.layout.root}/imported/" in result
    assert json.loads(Path(result).read_text(encoding="utf-8"))["results"]
    assert run(*options, "seed=1,2") == 0  # points of one study, scored alike
    assert capsys.readouterr().out.splitlines()[-2] == result
    assert run(*options, "numerics.threads=1,2") == 2
    assert "sweep none of them" in capsys.readouterr().err
    assert run("--revision", "main", *overrides) == 2
    assert "name that too" in capsys.readouterr().err
