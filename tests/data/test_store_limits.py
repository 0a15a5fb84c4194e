"""Caps and sizes of a store: what is read up to them, what is counted, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess

import pytest

from tests.data.store_texts import digests, heldout_texts, replace_source, training_texts
from workbench.data.heldout import is_heldout
from workbench.data.store import heldout_sizes, prepare, verify
from workbench.data.store_summary import dropped_table, notes, source_table
from workbench.study.layout import Layout


def test_caps_move_neither_held_out_documents_nor_tokenizer(prepared, two_sources, small_tokenizer, tmp_path):
    smaller = replace_source(two_sources, "a", max_bytes=30_000)
    small = prepare(smaller, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert small.fingerprint != prepared.fingerprint
    assert small.heldout_fingerprint == prepared.heldout_fingerprint
    kept = {n: d for n, d in digests(prepared).items() if not n.startswith("tokens_a")}
    assert {n: d for n, d in digests(small).items() if not n.startswith("tokens_a")} == kept
    assert 29_000 < small.manifest["sources"]["a"]["bytes"] <= 30_000
    tokens = small.sources["a"]
    assert (prepared.sources["a"][: len(tokens)] == tokens).all()


def test_counts_say_what_became_of_every_document(two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl):
    plain = prepare(two_sources, small_tokenizer, Layout(tmp_path / "plain"), workers=1)
    held, texts = heldout_texts(plain, "a"), make_documents(200, 2)
    odd = [*texts, *texts[:40], *["short one\nwith lines"] * 3, "", " \n\t", held[0], held[0] + "\nbehind it"]
    write_jsonl(tmp_path / "b.jsonl", odd)
    made = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    facts = made.manifest["sources"]["b"]
    split = [t for t in odd if is_heldout(hashlib.sha256(t.encode()).hexdigest(), 5.0)]
    trained = [text for text in odd if text not in split]
    assert facts["read"] == len(odd) == facts["documents"] + sum(facts["dropped"].values())
    assert facts["dropped"] == {
        "heldout_split": len(split),
        "duplicate": len(trained) - len(set(trained)) - trained.count(odd[240]) + 1,
        "too_short": trained.count(odd[240]),
        "empty": sum(not text.strip() for text in trained),
        "heldout_text": sum(held[0] in text for text in trained),
    }
    head, [_, row] = dropped_table(made)
    assert dict(zip(head, row, strict=True))["too short"] == str(facts["dropped"]["too_short"])
    assert sum(int(cell) for cell in row[2:]) == int(row[1]) == len(odd)


def read_all_first(self, method, arguments):
    """`Pool.results` with workers that read as far ahead as can be."""
    yield from [self.submit(method, *each).result() for each in list(arguments)]


def test_damage_behind_the_cap_matters_to_no_number_of_workers(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl, monkeypatch
):
    monkeypatch.setattr("workbench.data.build._TEXT_A_CHUNK", 20_000)
    path = write_jsonl(tmp_path / "b.jsonl", make_documents(200, 2))
    with path.open("ab") as file:
        file.write(b"{}\n")
    capped = replace_source(two_sources, "b", max_bytes=40_000)
    first = prepare(capped, small_tokenizer, Layout(tmp_path / "first"), workers=1)
    monkeypatch.setattr("workbench.data.workers.Pool.results", read_all_first)
    assert digests(prepare(capped, small_tokenizer, Layout(tmp_path / "second"), workers=1)) == digests(first)
    with pytest.raises(ValueError, match=r"b\.jsonl, line 201: no field 'text'"):
        prepare(two_sources, small_tokenizer, Layout(tmp_path / "second"), workers=1)


def test_counts_and_overlap_do_not_depend_on_how_far_workers_read_ahead(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl, monkeypatch
):
    monkeypatch.setattr("workbench.data.build._TEXT_A_CHUNK", 20_000)
    write_jsonl(tmp_path / "a.jsonl", [text for text in make_documents(400, 1) for _ in range(2)])
    data = replace_source(two_sources, "a", max_bytes=60_000)
    first = prepare(data, small_tokenizer, Layout(tmp_path / "first"), workers=1)
    monkeypatch.setattr("workbench.data.workers.Pool.results", read_all_first)
    second = prepare(data, small_tokenizer, Layout(tmp_path / "second"), workers=1)
    assert digests(first) == digests(second)
    for facts in ("sources", "overlap_before"):
        assert first.manifest[facts] == second.manifest[facts]


def test_a_cap_without_room_for_the_first_document_is_refused_with_both_numbers(two_sources, small_tokenizer, tmp_path):
    data = replace_source(two_sources, "a", max_bytes=300)
    with pytest.raises(
        ValueError, match=r"'a': max_bytes=300 has no room for the first document, which has \d{3} bytes"
    ):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert not list((tmp_path / "outputs" / "data").iterdir())


def test_a_large_document_that_ends_a_source_early_is_named_with_both_numbers(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    large = "\n".join(make_documents(100, seed=8))
    write_jsonl(tmp_path / "a.jsonl", [*make_documents(50, 1), large, *make_documents(200, 3)])
    capped = {cap: replace_source(two_sources, "a", max_bytes=cap) for cap in (100_000, 200_000)}
    stores = {c: prepare(d, small_tokenizer, Layout(tmp_path / "outputs"), workers=1) for c, d in capped.items()}
    facts = stores[100_000].manifest["sources"]["a"]
    assert facts["bytes"] < 40_000
    assert facts["left_out_bytes"] == len(large)
    assert facts["dropped"]["beyond_cap"] == 1
    note, *few = notes(stores[100_000])
    assert all("held-out document" in line for line in few)
    for number in (
        f"{facts['bytes']:,} of max_bytes=100,000",
        f"{len(large):,} bytes",
        f"{facts['bytes'] + len(large)}",
    ):
        assert number in note
    assert not [line for line in notes(stores[200_000]) if "max_bytes" in line]
    row = dict(
        zip(*(part for part in (source_table(stores[100_000])[0], source_table(stores[100_000])[1][0])), strict=True)
    )
    assert row["filled"] == f"{facts['bytes'] / 100_000:.1%}"
    tokens = stores[100_000].sources["a"]
    assert (stores[200_000].sources["a"][: len(tokens)] == tokens).all()


def test_files_that_are_not_read_are_named_and_counted(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "a.jsonl", make_documents(200, seed=1))
    for name in ("README.md", *(f"{i:02}.log" for i in range(30))):
        (tmp_path / "data" / name).write_text("x")
    source = dataclasses.replace(two_sources.sources["a"], path=str(tmp_path / "data"))
    data = dataclasses.replace(two_sources, sources={"a": source})
    made = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert made.manifest["sources"]["a"]["skipped_files"]["count"] == 31
    assert len(made.manifest["sources"]["a"]["skipped_files"]["names"]) == 20
    assert notes(made)[:1] == [
        "source 'a': 31 files there are not read as jsonl: 00.log, 01.log, 02.log, 03.log, 04.log and 26 more"
    ]


def test_held_out_documents_are_as_long_as_is_asked(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    write_jsonl(tmp_path / "a.jsonl", make_documents(400, seed=1, lines=100))
    source = dataclasses.replace(two_sources.sources["a"], heldout_bytes=20_000)
    for cut in (1500, 3000):
        data = dataclasses.replace(two_sources, sources={"a": source}, heldout_document_bytes=cut)
        made = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
        assert cut - 200 < max(len(text.encode()) for text in heldout_texts(made, "a")) <= cut
        assert not verify(made)


def test_held_out_documents_shorter_than_any_document_are_refused(two_sources):
    with pytest.raises(
        ValueError, match=r"^data\.heldout_document_bytes=100 is below data\.min_document_bytes=200[^\n]*$"
    ):
        dataclasses.replace(two_sources, heldout_document_bytes=100)
    sources = {name: dataclasses.replace(source, heldout_bytes=0) for name, source in two_sources.sources.items()}
    dataclasses.replace(two_sources, sources=sources, heldout_document_bytes=100)


def test_few_held_out_documents_are_named_with_their_number(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    """Error bars over a handful of documents say little."""
    write_jsonl(tmp_path / "few.jsonl", make_documents(200, seed=1))
    write_jsonl(tmp_path / "many.jsonl", make_documents(1500, seed=1))
    for name, said in (("few", True), ("many", False)):
        source = dataclasses.replace(
            two_sources.sources["a"], path=str(tmp_path / f"{name}.jsonl"), heldout_bytes=10**6
        )
        data = dataclasses.replace(two_sources, sources={"a": source})
        made = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
        count = made.manifest["sources"]["a"]["heldout_documents"]
        assert (count < 20) == said
        assert [f"scores rest on {count} held-out documents" in note for note in notes(made)] == (
            [True] if said else []
        )


def test_short_documents_are_dropped(two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl):
    write_jsonl(tmp_path / "b.jsonl", make_documents(200, 2) + ["short one\nwith lines"] * 3)
    prepared = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert min(len(text.encode()) for text in training_texts(prepared, "b")) >= 200


def test_sizes_of_held_out_text_are_those_of_the_command_line_tools(prepared, tmp_path):
    text = "".join(heldout_texts(prepared, "a")).encode()
    sizes = heldout_sizes(prepared)["a"]
    assert sizes["bytes"] == len(text)
    for tool in ("gzip", "xz"):
        if shutil.which(tool):
            packed = subprocess.run([tool, "-9", "-c"], input=text, capture_output=True, check=True).stdout
            assert sizes[f"{tool}_bytes"] == pytest.approx(len(packed), abs=20)
