"""Token files that were made elsewhere, from the command's settings to scores, and through kills."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, to_dict
from workbench.data.corpus.pipeline import building_folder
from workbench.data.fingerprint import data_fingerprint
from workbench.data.store import open_prepared, prepare
from workbench.study.layout import Layout

COMMAND = """
import json, sys
from pathlib import Path
from workbench.config.schema import DataConfig, TokenizerConfig, from_dict
from workbench.data.store import prepare
from workbench.study.layout import Layout
if __name__ == "__main__":
    data, tokenizer, outputs, workers = json.loads(sys.argv[1])
    config = from_dict(DataConfig, data), from_dict(TokenizerConfig, tokenizer)
    prepare(*config, Layout(Path(outputs)), workers=workers)
"""


def study_overrides(base_overrides: list[str], path: Path, tokenizer, outputs: Path, **changes: str) -> list[str]:
    kept = [o for o in base_overrides if not o.startswith(("data=", "tokenizer=", "tokens="))]
    return [
        *kept,
        "data=tokens",
        f"data.sources.text.path={path}",
        "data.sources.text.heldout_bytes=3000",
        "data.sources.text.max_epochs=null",
        *(f"data.sources.text.{name}={value}" for name, value in changes.items()),
        "+data.corpus.shard_bytes=20000",
        "tokenizer=llama2",
        f"tokenizer.path={tokenizer.path}",
        "tokenizer.vocab_size=300",
        "model.context_tokens=64",  # long enough for the continuations of the small tokenizer
        "tokens=10240",
        f"paths.outputs={outputs}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["megatron", "npy", "header", "flat"])
def test_a_model_trains_on_token_files(
    base_overrides, tmp_path, run_local, compose, write_tokens, llama_tokenizer, form: str
):
    from workbench.forecast.study_facts import make_facts, prepare_data
    from workbench.launch.snapshot import freeze_study

    path, changes = write_tokens(form)
    facts = make_facts(compose(study_overrides(base_overrides, path, llama_tokenizer, tmp_path / "outputs", **changes)))
    prepare_data(facts, print)
    facts = freeze_study(facts)
    run_local(facts)
    nodes = list(facts.plan.nodes.values())
    store = open_prepared(facts.layout.data(nodes[0].stage.data_fingerprint))
    assert store.manifest["sources"]["text"]["shards"][0]["format"] == form
    losses = [
        json.loads(line)["train/loss"] for line in facts.layout.stage(nodes[0].id).metrics.read_text().splitlines()
    ]
    assert losses[-1] < losses[0]
    results = [path for node in nodes for path in facts.layout.stage(node.id).checkpoints.rglob("evals/*.json")]
    assert results
    assert all("heldout_text" in path.read_text() for path in results)


@pytest.mark.slow
def test_prepare_prints_what_token_files_have(base_overrides, tmp_path, capsys, write_tokens, llama_tokenizer):
    path, changes = write_tokens("flat")
    overrides = study_overrides(base_overrides, path, llama_tokenizer, tmp_path / "outputs", **changes)
    with pytest.raises(SystemExit) as ended:
        main(["prepare", *overrides])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert "text: token files (1), used where they are; documents by begin" in printed.out
    assert "not measured" in printed.out
    path.unlink()
    with pytest.raises(SystemExit) as ended:
        main(["plan", *overrides])
    assert ended.value.code != 0
    assert f"{path} is not there" in capsys.readouterr().err


def test_token_files_need_the_tokenizer_that_they_were_made_with(compose):
    with pytest.raises(
        ValueError, match=r"data.sources.text.kind='tokens' needs the tokenizer .* set tokenizer.kind=file"
    ):
        compose(["data=tokens", "data.sources.text.path=a.bin", "study=x", "tokens=1M", "model=m0_1"])


@pytest.mark.slow
@pytest.mark.parametrize(("form", "workers", "seed"), [("megatron", 1, 0), ("flat", 2, 1)])
def test_killed_at_random_moments(write_tokens, llama_tokenizer, tmp_path, hash_store, form, workers: int, seed: int):
    path, changes = write_tokens(form)
    source = SourceConfig("tokens", path=str(path), heldout_bytes=3_000, **changes)
    data = DataConfig("ready", {"text": source}, corpus=CorpusConfig(shard_bytes=4_000))
    whole = prepare(data, llama_tokenizer, Layout(tmp_path / "whole"), workers=1)
    layout, draw = Layout(tmp_path / "killed"), random.Random(seed)
    directory = layout.data(data_fingerprint(data, llama_tokenizer))
    records = building_folder(directory) / "records"
    (tmp_path / "command.py").write_text(COMMAND)
    values = json.dumps([to_dict(data), to_dict(llama_tokenizer), str(layout.root), workers])

    def start() -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(
            [sys.executable, tmp_path / "command.py", values], stderr=subprocess.PIPE, text=True, env=environment
        )

    total = 2 * len(json.loads((whole.directory / "plan.json").read_text())["shards"]) + 4
    kills = 0
    for moment in sorted(draw.sample(range(total), 3)):
        process = start()
        while process.poll() is None and len(list(records.rglob("*.json"))) < moment:
            time.sleep(0.002)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    assert kills >= 2
    last = start()
    said = last.communicate(timeout=120)[1]
    assert last.returncode == 0, said
    assert hash_store(directory) == hash_store(whole.directory)
