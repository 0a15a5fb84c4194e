"""What a corpus takes, from measured speeds: arithmetic, what is not known, and what a trial measures."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.config.schema import CorpusConfig, DataConfig, SourceConfig, TokenizerConfig
from workbench.data.corpus.corpus_speeds import Speed, recall
from workbench.data.corpus.corpus_trial import try_corpus
from workbench.data.corpus.shards import plan_shards
from workbench.data.fingerprint import data_fingerprint
from workbench.data.packed_index import make_packing, packing_folder, read_packing
from workbench.data.store import prepare
from workbench.forecast.corpus_estimate import CorpusWork, corpus_disk, corpus_time, describe_corpus
from workbench.forecast.packing_estimate import PackingWork, estimate_packing
from workbench.study.layout import Layout

SPEED = Speed(bytes=20_000_000, seconds=4.0, work_bytes=8_000_000, store_bytes=5_000_000)
TOKENIZER = TokenizerConfig(vocab_size=300, train_bytes=50_000)
WORK = CorpusWork(
    name="web",
    input_bytes=1_800_000_000_000,
    unknown_sources=(),
    stated_bytes=0,
    is_packed=False,
    shards=7200,
    tasks=14404,
    cores=100,
    bytes_per_second=5e6,
    measured="as n1 made such data last",
    cpu_seconds=360_000.0,
    seconds=3600.0,
    disk_while_bytes=1_170_000_000_000,
    disk_after_bytes=450_000_000_000,
)


@pytest.fixture(name="data")
def fixture_data(tmp_path: Path) -> DataConfig:
    """A corpus of 600 kB in shards of 100 kB."""
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(3000)]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=80))}) + "\n" for _ in range(1300)]
    (tmp_path / "text.jsonl").write_text("".join(lines))
    source = SourceConfig("jsonl", path=str(tmp_path / "text.jsonl"), heldout_bytes=5000)
    return DataConfig("web", {"text": source}, corpus=CorpusConfig(shard_bytes=100_000))


def test_time_is_the_work_divided_by_the_cores():
    assert corpus_time(50_000_000_000, 250_000_000, SPEED, 100) == (10_000.0, 100.0)


def test_time_is_not_less_than_the_largest_shard_takes():
    assert corpus_time(50_000_000_000, 40_000_000_000, SPEED, 100) == (10_000.0, 8_000.0)


def test_disk_grows_with_the_input():
    assert corpus_disk(1_800_000_000_000, SPEED) == (1_170_000_000_000, 450_000_000_000)


def test_a_line_says_what_it_takes():
    assert describe_corpus(WORK) == (
        "data web is not made yet: input: 1.8 TB, 7,200 shards, 14,404 tasks; 5 MB/s a core (as n1 made such data last); "
        "about 100 CPU hours, 60 min on 100 cores; disk: 1.17 TB while it is made, 450 GB after"
    )


def test_what_is_not_known_is_said():
    unmeasured = replace(WORK, bytes_per_second=None, cpu_seconds=None, seconds=None)
    assert describe_corpus(unmeasured).endswith("14,404 tasks; time and disk: not measured")
    unknown = replace(WORK, input_bytes=None, unknown_sources=("code",), cpu_seconds=None, seconds=None)
    line = describe_corpus(unknown)
    assert "input: not known of code (data.sources.*.size_bytes states it)" in line
    assert "hours" not in line
    assert "disk" not in line


def test_what_is_to_be_fetched_is_said():
    line = describe_corpus(replace(WORK, download_bytes=900_000_000_000))
    assert "input: 1.8 TB (900 GB of it from the hub, kept in its cache), 7,200 shards" in line


def test_a_stated_size_is_no_part_of_the_fingerprint(data: DataConfig):
    stated = replace(data, sources={"text": replace(data.sources["text"], size_bytes=5)})
    assert data_fingerprint(stated, TOKENIZER) == data_fingerprint(data, TOKENIZER)
    with pytest.raises(ValueError, match=r"source size_bytes=0 must be .* at least 1"):
        replace(data.sources["text"], size_bytes=0)


def test_a_trial_measures_the_beginning_of_the_input(data: DataConfig):
    data = replace(data, corpus=CorpusConfig())
    tried = try_corpus(data, TOKENIZER, plan_shards(data))
    assert tried is not None
    speed, what = tried
    assert what == "the beginning of the input"
    assert speed.seconds > 0
    assert 500_000 < speed.bytes <= 800_000
    assert speed.store_bytes == speed.bytes // 4 * 2
    assert speed.tokens == speed.bytes // 4
    assert 1000 < speed.documents < 1300
    assert 0 < speed.work_bytes < 2 * speed.bytes


def test_a_finished_corpus_leaves_its_speed(data: DataConfig, tmp_path: Path):
    outputs = tmp_path / "outputs"
    assert recall(outputs, data, TOKENIZER) is None
    prepared = prepare(data, TOKENIZER, Layout(outputs), workers=2)
    found = recall(outputs, data, TOKENIZER)
    assert found is not None
    assert found[0].bytes == (tmp_path / "text.jsonl").stat().st_size
    names = [name for name in prepared.manifest["files"] if name.startswith("tokens/")]
    assert found[0].store_bytes == sum(prepared.manifest["files"][name]["bytes"] for name in names)
    assert recall(outputs, replace(data, overlap_lines=7), TOKENIZER) is None
    stored = prepared.manifest["sources"]["text"]
    assert (found[0].documents, found[0].tokens) == (stored["documents"], stored["tokens"])


def test_a_speed_that_was_kept_before_documents_were_counted_is_still_read():
    assert Speed(bytes=2, seconds=1.0, work_bytes=1, store_bytes=1).documents is None


def test_a_packed_index_takes_what_its_format_says():
    """A million documents of 3,000 tokens into 2,048: at most 2.46 pieces each, 12 bytes a piece and 8 a sequence."""
    work = estimate_packing(2048, ("web",), 1_000_000, 3_000_000_000)
    assert work.pieces == 1_000_000 + 1_464_844
    assert work.disk_bytes == 12 * work.pieces + 8 * (1_464_844 + 1)
    assert work.seconds == pytest.approx(3e9 / 1.7e9)
    assert estimate_packing(2048, ("web",), 9_000_000, 3_000_000_000).seconds == pytest.approx(10_464_844 / 1.9e6)
    assert estimate_packing(2048, ("web",), None, 3e9) == PackingWork(2048, ("web",), None, None, None)


def test_the_estimate_of_a_packed_index_is_about_what_it_takes(data: DataConfig, tmp_path: Path):
    prepared = prepare(data, TOKENIZER, Layout(tmp_path / "outputs"), workers=2)
    found = recall(tmp_path / "outputs", data, TOKENIZER)
    assert found is not None
    for context in (32, 256):
        make_packing(prepared, context)
        size = sum(path.stat().st_size for path in packing_folder(prepared, context, "text").glob("*.bin"))
        guess = estimate_packing(context, ("text",), found[0].documents, found[0].tokens)
        facts = read_packing(prepared, context)["text"]
        assert facts["pieces"] <= guess.pieces
        assert 0.9 < guess.disk_bytes / size < 1.5


def test_packing_is_not_estimated_where_documents_were_not_counted():
    line = describe_corpus(replace(WORK, packing=(estimate_packing(2048, ("web",), None, None),)))
    assert line.endswith(
        "; packing web into 2,048 tokens: not estimated, since the documents of the data that were measured were not counted"
    )
    packed = replace(WORK, packing=(estimate_packing(2048, ("web", "code"), 4e8, 225e9),))
    assert describe_corpus(packed).endswith(
        "; packing web, code into 2,048 tokens: about 4 min of one process after that, and 7 GB of disk (by docs/performance.md)"
    )
