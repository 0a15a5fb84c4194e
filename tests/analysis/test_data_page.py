"""A report's part on data: every number is the store's, what a store does not have is said, and text of it is only text."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.data_records import overlap_table, packing_table, removed_table, rule_table, source_table
from analysis.figures.lengths import lengths_figure
from analysis.report.data_page import add_data, data_blocks
from analysis.report.page import Section, build_page
from analysis.report.page_blocks import page_of
from analysis.report.study_results import DATA, Results
from workbench.data.data_record import make_record


def manifest_of(number):
    """What a store of each format says of itself, as the builders write it."""
    sources = {
        "web": {
            "documents": 1200, "tokens": 400_000, "bytes": 1_600_000, "read": 1300,
            "dropped": {"duplicate": 60, "too_short": 40}, "heldout_documents": 12, "heldout_bytes": 30_000,
        },
        "code": {
            "documents": 90, "tokens": 50_000, "bytes": 180_000, "read": 100,
            "dropped": {"duplicate": 10}, "heldout_documents": 4, "heldout_bytes": 8000,
        },
    }  # fmt: skip
    data = {
        "name": "made",
        "overlap_lines": 5,
        "sources": {name: {"kind": "jsonl", "path": f"/data/{name}", "revision": None} for name in sources},
    }
    manifest = {
        "fingerprint": "0123456789abcdef",
        "format": number,
        "tokenizer": {"vocab_size": 4096},
        "sources": sources,
    }
    manifest["config"] = {"data": data}
    if number == 2:
        left = {"share": 0.0125, "worst_document": 0.08, "documents_above_tenth": 0}
        return manifest | {"overlap_before": {"web": left | {"share": 0.5}}, "overlap_left": {"web": left}}
    data["corpus"] = {"shard_bytes": 1000, "exact_duplicates": True}
    for facts in sources.values():
        facts |= {"kept": facts["read"] - sum(facts["dropped"].values()), "cut": 7, "shards": []}
    sources["web"]["dropped"] |= {"gopher_min_words": 25, "near_duplicate": 15}
    sources["web"]["read"] += 40
    return manifest


FILES = {
    "lengths.json": {
        "web": {"bytes": {"256": 300, "1024": 900}, "tokens": {"64": 400, "128": 500, "256": 300}},
        "code": {"bytes": {"512": 30, "2048": 60}, "tokens": {"128": 30, "1024": 60}},
    },
    "near_duplicates.json": {
        "settings": {"bands": 14},
        "probability_by_similarity": {"0.7": 0.56, "0.8": 0.92},
        "documents": 1390,
        "dropped": 15,
        "groups_by_size": {"2": 9, "4": 2},
        "examples": [{"kept": {"source": "web", "text": "one two"}, "dropped": {"source": "code", "text": "one two three"}, "similarity": 0.8123}],
    },
    "contamination.json": {
        "settings": {"ngram": 13, "action": "cut"},
        "documents": 1390,
        "tasks": {
            "hellaswag": {
                "documents": 100, "checkable": 80, "dirty": [1, 5, 9, 11], "in_passages": [1], "passages": 17,
                "training_documents": {"cut": 3},
            },
            "winogrande": {"documents": 50, "checkable": 0, "dirty": [], "passages": 0},
        },
    },
}  # fmt: skip
HOSTILE = '<script>alert(1)</script> \u202e\x00 \ud800 & "quoted"' + "x" * 900


def write_store(folder, number, *, whole=False):
    (folder / "heldout").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest_of(number)))
    (folder / "heldout" / "web.jsonl").write_text(json.dumps({"id": "1", "text": "held <b>out</b>"}) + "\n")
    if whole:
        for name, content in FILES.items():
            (folder / name).write_text(json.dumps(content))
        (folder / "removed").mkdir()
        one = {"cause": "gopher_min_words", "value": 12, "source": "web", "text": HOSTILE, "key": "00"}
        (folder / "removed" / "samples.jsonl").write_text(json.dumps(one) + "\n")
    return folder


@pytest.fixture
def old(tmp_path):
    """Record of a store of format 2."""
    return make_record(write_store(tmp_path / "old", 2))


@pytest.fixture
def corpus(tmp_path):
    """Record of a corpus that has everything."""
    return make_record(write_store(tmp_path / "corpus", 3, whole=True))


def blocks_of(record):
    results = Results("made")
    add_data(results, {record["fingerprint"]: record})
    return results, data_blocks(record, results.drawn)


def test_what_a_store_does_not_have_is_not_measured(old):
    results, blocks = blocks_of(old)
    text = "".join(blocks)
    assert results.drawn == []
    for title in ("Lengths of documents", "Examples of removed text"):
        assert f"<h4>{title}</h4><p class=quiet>Not measured.</p>" in text
    assert "<h4>Languages</h4><p class=quiet>Not counted.</p>" in text
    assert "<h4>Overlap with tasks</h4><p class=quiet>Not checked.</p>" in text
    assert "Exact: 70 documents removed. Near: not measured." in text
    assert "1.25%" in text
    assert "50.00%" in text


def test_a_bare_corpus_says_that_nothing_is_measured(tmp_path):
    text = "".join(blocks_of(make_record(write_store(tmp_path / "bare", 3)))[1])
    assert "<h4>Held-out text in training text</h4><p class=quiet>Not measured.</p>" in text
    assert text.count("Not measured.") == 3
    assert text.count("Not counted.") == 1


def test_sources_and_causes_are_those_of_the_manifest(corpus):
    sources = source_table(corpus).set_index("source")
    assert sources.loc["web", ["documents", "tokens", "bytes", "held-out documents"]].tolist() == [
        1200,
        400_000,
        1_600_000,
        12,
    ]
    assert sources.loc["code", "bytes a token"] == 3.6
    assert sources.loc["code", "read from"] == "jsonl /data/code"
    removed = removed_table(corpus).set_index("source")
    assert removed.columns.tolist()[:5] == ["read", "kept", "too short", "duplicate", "near duplicate"]
    counts = removed.drop(columns="cut: held-out text")
    assert (counts["read"] == counts.drop(columns="read").sum(axis=1)).all()


def test_what_documents_were_chosen_by(tmp_path):
    assert "chosen by" not in "".join(blocks_of(make_record(write_store(tmp_path / "all", 3)))[1])
    folder = write_store(tmp_path / "chosen", 3)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["data"]["sources"]["web"] |= {
        "where": 'lang == "en" and stars >= 2',
        "quality": {"gopher": {"min_words": 50, "max_words": 100000, "min_stop_words": None}, "c4": None},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    record = make_record(folder)
    assert rule_table(record).to_numpy().tolist() == [
        ["web", "where", 'lang == "en" and stars >= 2'],
        ["web", "quality.gopher", "min_words: 50, max_words: 100000"],
    ]
    text = "".join(blocks_of(record)[1])
    assert "What documents were chosen by" in text
    assert "lang == &quot;en&quot; and stars &gt;= 2" in text


def test_a_cut_by_cause_is_a_column_a_cause(corpus):
    changed = json.loads(json.dumps(corpus))
    changed["sources"]["web"]["cut"] = {"heldout_text": 3, "task_text": 4}
    changed["sources"]["code"].pop("cut")
    table = removed_table(changed)
    assert table["cut: task text"].isna().tolist() == [False, True]
    changed["sources"]["code"]["cut"] = {}
    assert removed_table(changed)["cut: task text"].tolist() == [4, 0]
    assert "cut: task text" in "".join(data_blocks(changed, []))


def test_duplicates_of_a_corpus(corpus):
    changed = json.loads(json.dumps(corpus))
    dropped = changed["sources"]["web"]["dropped"]
    dropped["exact_duplicate"] = dropped.pop("duplicate")
    text = "".join(data_blocks(changed, []))
    assert "Exact: 70 documents removed. Near: 15 of 1,390 documents removed." in text
    assert "<p>Similarity 0.81.</p>" in text
    changed["exact_duplicates"] = False
    assert "Exact: not looked for." in "".join(data_blocks(changed, []))


def test_held_out_passages_of_a_corpus(corpus):
    left = {"web": {"share": 0.001, "worst_document": 0.05, "documents_above_tenth": 0.0}}
    text = "".join(data_blocks(corpus | {"overlap_left": left, "overlap_words": 13, "overlap_metered_bytes": 5000}, []))
    assert "0.10%" in text
    assert "before cutting" not in text
    assert "held-out passages of 13 words that stand in 5,000 bytes of training text" in text


def test_sources_of_token_files_are_named_wherever_nobody_looked_into_them(corpus):
    """What is 0 in the other sources is not 0 in theirs."""
    left = {"web": {"share": 0.0, "worst_document": 0.0, "documents_above_tenth": 0.0}}
    overlap = {**corpus["contamination"], "unchecked_sources": ["code"]}
    unread = {"token_sources": ["code"], "overlap_unmeasured_sources": ["code"], "contamination": overlap}
    text = "".join(data_blocks({**corpus, **unread, "overlap_left": left, "overlap_words": 13}, []))
    assert "documents removed. Not looked for in the token files of code." in text
    assert "Not looked for in the token files of code. Settings: ngram: 13" in text
    assert "after cutting. Not measured in the token files of code." in text
    alone = "".join(data_blocks({**corpus, **unread, "overlap_left": {}}, []))
    assert "Not measured.</p><p>Not measured in the token files of code.</p>" in alone
    assert "token files" not in "".join(data_blocks({**corpus, "overlap_left": left, "overlap_words": 13}, []))


def test_a_source_of_which_bytes_are_not_known(corpus):
    corpus["sources"]["web"] |= {"bytes": None}
    assert source_table(corpus)["bytes a token"].isna().tolist() == [True, False]
    assert "450,000 tokens" in "".join(data_blocks(corpus, []))


def test_overlap_by_task(corpus):
    table = overlap_table(corpus).set_index("task")
    assert table.loc["hellaswag", ["documents", "checkable", "dirty", "share"]].tolist() == [100, 80, 4, "5.0%"]
    assert pd.isna(table.loc["winogrande", "share"])
    text = "".join(blocks_of(corpus)[1])
    assert "training, cut" in text
    assert "Settings: ngram: 13; action: cut." in text
    assert "stood in the text that was read, before any was cut out and before caps" in text
    assert "stands in the corpus" not in text, "the store may not have it any more"


def test_languages_where_they_were_counted(corpus):
    assert "Languages</h4><p class=quiet>Not counted" in "".join(data_blocks(corpus, []))
    corpus["sources"]["web"]["languages"] = {"en": 900, "de": 300}
    text = "".join(data_blocks(corpus, []))
    assert "75.0%" in text
    assert text.index(">en<") < text.index(">de<")
    assert "Not counted of code." in text
    corpus["sources"]["web"]["languages_by"] = {"field": "meta.lang", "documents": 1200}
    corpus["sources"]["code"] |= {
        "languages": {"zxx": 40},
        "languages_by": {"detector": "detector 1.0", "documents": 40},
    }
    text = "".join(data_blocks(corpus, []))
    assert "Of web: documents that stay, by their field meta.lang." in text
    assert "Of code: 40 of the documents that stay, chosen by hash, as detector 1.0 finds them" in text
    assert "Not counted of" not in text


def test_text_of_the_corpus_is_short_and_only_text(corpus):
    text = "".join(blocks_of(corpus)[1])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\u202e\\u0000 \\ud800 &amp; &quot;quoted&quot;" in text
    assert "x" * 500 not in text
    assert "held &lt;b&gt;out" in text
    text.encode()


def test_the_figure_of_lengths_has_a_mark_a_power_of_two(corpus):
    figure, points = lengths_figure(corpus, "made")
    web = points[(points["panel"] == "bytes") & (points["role"] == "lengths, web")]
    assert web[["x", "y"]].to_numpy().tolist() == [[256, 25], [512, 0], [1024, 75]]
    assert set(points["data_fingerprint"]) == {"0123456789abcdef"}
    assert len(figure.axes) == 2
    with pytest.raises(ValueError, match="the lengths of the documents of 0123456789abcdef were not measured"):
        lengths_figure(corpus | {"lengths": None})


def test_packed_documents_have_a_table_by_context(corpus, tmp_path):
    assert corpus["packing"] == []
    assert "Packing" not in "".join(blocks_of(corpus)[1])
    facts = {"documents": 1200, "sequences": 200, "tokens": 399_000, "padded": 1000, "cut": 30, "cut_in_windows": 300}
    for context in (2000, 16, 500):
        folder = tmp_path / "packed" / f"corpus-{context}"
        folder.mkdir(parents=True)
        manifest = {"context_tokens": context, "sources": {"web": facts}, "files": {}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    record = make_record(tmp_path / "corpus")
    table = packing_table(record)
    assert table["context"].tolist() == [16, 500, 2000]
    row = table.iloc[0].to_dict()
    assert (row["padding"], row["documents cut"], row["cut if concatenated"]) == ("0.250%", "2.50%", "25.00%")
    page = "".join(blocks_of(record)[1])
    assert "Packing" in page
    assert "cut if concatenated" in page


def test_the_record_is_saved_with_the_report_and_removed_with_it(corpus, tmp_path):
    results, _ = blocks_of(corpus)
    written = {path.name for path in results.save(tmp_path / "figures")}
    assert {"0123456789abcdef.data.json", "lengths-0123456789abcdef.svg"} <= written
    assert json.loads((tmp_path / "figures" / "0123456789abcdef.data.json").read_text()) == corpus
    Results("made").save(tmp_path / "figures")
    assert not (tmp_path / "figures" / "0123456789abcdef.data.json").exists()


def test_the_page_has_a_part_on_data_with_its_figure(corpus, frame):
    results, blocks = blocks_of(corpus)
    page = page_of(results, frame)
    assert page.count('<figure id="lengths-0123456789abcdef"') == 1
    assert '<h2 id="data">Data</h2>' in page
    assert '<h2 id="figures">' not in page
    assert "click one for its data." in page
    results.name_absent("no result: m0_1")
    assert "no result" not in results.drawn[0].caption
    assert build_page("t", "", [Section(DATA, blocks)], results.drawn)
    assert dataclasses.replace(results.drawn[0]).section == DATA


def test_a_record_travels_with_the_studys_run(corpus, old, root, monkeypatch):
    """From there it is read where the store is not; a later report that has none takes it away."""
    from analysis.data_records import load_data_records
    from workbench.cli.show import data_records
    from workbench.tracking.mlflow import default_uri, log_figures

    made = sys.modules["outputs_tree"].make_study(root, sizes={"m0_1": 100_000}, budgets=(50_000,), row_every=5)
    results, uri = Results(made.study), default_uri(made.layout)
    log_figures(made.layout, made.study, results.save(made.layout.figures(made.study)))
    assert load_data_records(made.study, uri) == {}
    add_data(results, {corpus["fingerprint"]: corpus})
    log_figures(made.layout, made.study, results.save(made.layout.figures(made.study)))
    assert load_data_records(made.study, uri) == {corpus["fingerprint"]: corpus}
    names = {corpus["fingerprint"]: None, "fedcba9876543210": None}
    monkeypatch.setattr("workbench.forecast.study_facts.stores", lambda plan: names)
    facts = SimpleNamespace(layout=made.layout, plan=SimpleNamespace(study=made.study))
    assert data_records(facts, uri) == {corpus["fingerprint"]: corpus}
    write_store(made.layout.data(corpus["fingerprint"]), 2)
    assert data_records(facts, uri) == {corpus["fingerprint"]: old}


def test_damaged_files_of_a_store_are_named(tmp_path):
    folder = write_store(tmp_path / "damaged", 3, whole=True)
    (folder / "lengths.json").write_text("{")
    with pytest.raises(ValueError, match=r"lengths.json is damaged"):
        make_record(folder)
    with pytest.raises(ValueError, match="holds no prepared documents"):
        make_record(tmp_path)


def test_a_corpus_leads_from_its_readers_to_its_files(corpus, old):
    file = {"path": "/data/<a>.jsonl", "bytes": 1200, "sha256": "ab" * 32}
    web = {"kind": "jsonl", "path": "/data/*.jsonl", "revision": None, "files": [file], "count": 2, "bytes": 3000}
    inputs = {"web": {**web, "sha256": "cd" * 32}}
    hub = {
        "kind": "huggingface",
        "path": "c4",
        "revision": "f" * 40,
        "files": [],
        "count": 0,
        "bytes": 0,
        "sha256": None,
    }
    points = [f"tokens={n}M" for n in range(5)]
    readers = [{"stage": "0123456789abcdef", "of": "m0_1 trunk", "points": points}]
    text = "".join(data_blocks({**corpus, "inputs": inputs | {"hub": hub}, "read_by": readers}, []))
    assert f"<h3 id='data-{corpus['fingerprint']}'>" in text
    assert "0123456789abcdef" in text
    assert "tokens=0M; tokens=1M; tokens=2M and 2 more" in text
    assert "cd" * 32 in text
    assert f"huggingface c4 at {'f' * 12}" in text
    assert "<summary>Files of web, the first 1 of 2</summary>" in text
    assert "/data/&lt;a&gt;.jsonl" in text
    assert "Files of hub" not in text
    assert "Files it was made of" not in "".join(data_blocks(old, []))
