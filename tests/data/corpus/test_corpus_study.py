"""A study on a corpus: composed, prepared, printed, trained and evaluated like one on any other data."""

from __future__ import annotations

import json

import pytest

from workbench.cli import main
from workbench.config.schema import CorpusConfig
from workbench.config.schema.contamination_config import Contamination
from workbench.config.schema.near_duplicates import NearDuplicates
from workbench.config.schema.quality_thresholds import GopherThresholds, QualitySettings
from workbench.data.store import open_prepared


def test_a_corpus_is_asked_for_by_its_settings(compose):
    chosen = ["data=python", "study=x", "tokens=1M", "model=m0_1"]
    for setting, corpus in (
        ("data.name=python", None),
        ("data.corpus={}", CorpusConfig()),
        ("+data.corpus.shard_bytes=64M", CorpusConfig(64_000_000)),
        ("data.corpus={exact_duplicates: false}", CorpusConfig(exact_duplicates=False)),
        ("data.corpus={near_duplicates: {bands: 9}}", CorpusConfig(near_duplicates=NearDuplicates(bands=9))),
        ("data.corpus={contamination: {texts: x}}", CorpusConfig(contamination=Contamination("x"))),
    ):
        assert [config.data.corpus for _, config in compose([*chosen, setting])] == [corpus]
    with pytest.raises(ValueError, match="shards_bytes"):
        compose([*chosen, "data.corpus={shards_bytes: 1}"])
    with pytest.raises(ValueError, match=r"data\.corpus\.shard_bytes=0 must be"):
        compose([*chosen, "data.corpus={shard_bytes: 0}"])
    source = ["data=jsonl_corpus", *chosen[1:], "data.sources.text.path=a.jsonl"]
    ((_, config),) = compose([*source, "data.sources.text.quality={gopher: {min_words: 20}}"])
    assert config.data.sources["text"].quality == QualitySettings(gopher=GopherThresholds(min_words=20))
    assert config.data.corpus == CorpusConfig(near_duplicates=NearDuplicates())
    changed = ["data.corpus.near_duplicates=null", "data.corpus.contamination={texts: x, action: mark}"]
    ((_, config),) = compose([*source, *changed])
    assert config.data.corpus == CorpusConfig(contamination=Contamination("x", action="mark"))
    with pytest.raises(ValueError, match=r"'=' is no sign"):
        compose([*source, "data.sources.text.where=\"lang = 'en'\""])


@pytest.mark.slow
def test_a_model_trains_on_a_corpus(base_overrides, experiments, tmp_path, run_local, compose):
    from workbench.forecast.study_facts import make_facts, prepare_data
    from workbench.launch.snapshot import freeze_study

    overrides = [*base_overrides, f"paths.outputs={tmp_path / 'outputs'}", "data.corpus={shard_bytes: 40000}"]
    overrides += [f"data.sources.{name}.heldout_bytes=20000" for name in ("prose", "code")]
    facts = make_facts(compose(overrides, experiments))
    prepare_data(facts, print)
    facts = freeze_study(facts)
    run_local(facts)
    nodes = list(facts.plan.nodes.values())
    store = open_prepared(facts.layout.data(nodes[0].stage.stream.data_fingerprint))
    assert all(len(source["shards"]) > 2 for source in store.manifest["sources"].values())
    trunk = facts.layout.stage(nodes[0].id)
    losses = [json.loads(line)["train/loss"] for line in trunk.metrics.read_text().splitlines()]
    assert losses[-1] < losses[0]
    results = [path for node in nodes for path in facts.layout.stage(node.id).checkpoints.rglob("evals/*.json")]
    assert results
    assert all("heldout_prose" in path.read_text() for path in results)


@pytest.mark.slow
def test_prepare_prints_its_tables(base_overrides, tmp_path, capsys, corpus):
    overrides = [o for o in base_overrides if o != "data=corpus"]
    overrides += ["data=jsonl", f"data.sources.text.path={corpus}/*.jsonl", "data.sources.text.heldout_bytes=4000"]
    with pytest.raises(SystemExit) as ended:
        main(["prepare", *overrides, f"paths.outputs={tmp_path}", "data.corpus={shard_bytes: 40000}"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert "reading: " in printed.err
    assert "passages of 13 words of text's held-out text that are left in" in printed.out
    assert "held-out split" in printed.out
