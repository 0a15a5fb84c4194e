from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from workbench.config.schema import (
    DataConfig,
    MixtureSegment,
    SourceConfig,
    StreamConfig,
    StreamSource,
    TokenizerConfig,
)
from workbench.data import folders, python_texts, store
from workbench.data.heldout import is_heldout
from workbench.data.store import heldout_sizes, open_prepared, prepare, verify
from workbench.data.store_summary import describe, dropped_table, notes, source_table
from workbench.data.stream import Stream
from workbench.data.tokenizer import load_saved
from workbench.evaluate.suites.documents import read_heldout
from workbench.study.layout import Layout


def training_texts(prepared, source: str) -> list[str]:
    """Documents of the finished store, decoded from its token ids."""
    tokens = prepared.sources[source]
    tokenizer = load_saved(prepared.tokenizer_dir)
    parts = np.split(tokens, np.flatnonzero(tokens == prepared.bos_id))[1:]
    return [tokenizer.decode(part[1:].tolist()) for part in parts]


def heldout_texts(prepared, source: str) -> list[str]:
    with prepared.heldout_path(source).open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def share_inside(heldout: list[str], training: list[str], length: int = 5) -> float:
    """Share of held-out bytes in runs of `length` non-blank lines of the training texts: written down once more."""
    fold = [["".join(line.split()) for line in text.split("\n") if line.strip()] for text in training]
    seen = {tuple(lines[i : i + length]) for lines in fold for i in range(len(lines) - length + 1)}
    inside = total = 0
    for text in heldout:
        lines = [line for line in text.split("\n") if line.strip()]
        folded = ["".join(line.split()) for line in lines]
        hit = set()
        for i in range(len(lines) - length + 1):
            if tuple(folded[i : i + length]) in seen:
                hit.update(range(i, i + length))
        inside += sum(len(lines[i].encode()) for i in hit)
        total += sum(len(line.encode()) for line in lines)
    return inside / total


def replace_source(data: DataConfig, name: str, **changes) -> DataConfig:
    source = dataclasses.replace(data.sources[name], **changes)
    return dataclasses.replace(data, sources={**data.sources, name: source})


def digests(prepared) -> dict[str, str]:
    return {name: facts["sha256"] for name, facts in prepared.manifest["files"].items()}


def test_a_store_holds_its_documents(prepared, make_documents):
    originals = {"a": make_documents(400, 1), "b": make_documents(200, 2)}
    for name, texts in originals.items():
        stored = training_texts(prepared, name)
        facts = prepared.manifest["sources"][name]
        assert set(stored) <= set(texts)
        assert len(stored) == facts["documents"] > 0.85 * len(texts)
        assert facts["tokens"] == len(prepared.sources[name])
        assert facts["bytes"] == sum(len(text.encode()) for text in stored)
        held = heldout_texts(prepared, name)
        assert 3000 < sum(len(text.encode()) for text in held) == facts["heldout_bytes"] <= 4000
        assert not set(held) & set(stored)
        assert max(prepared.sources[name]) < prepared.vocab_size
    assert prepared.manifest["dtype"] == "<u2"
    assert "0.00% left" in describe(prepared)


def test_a_stream_runs_over_a_store(prepared):
    sources = {"a": StreamSource(), "b": StreamSource()}
    config = StreamConfig(prepared.fingerprint, 32, 0, sources, [MixtureSegment(0, {"a": 1, "b": 1})])
    tokens, index = Stream(prepared, config).batch(0, 8)
    assert tokens.shape == (8, 33)
    row = prepared.sources[("a", "b")[index[0]]]
    assert any((row[p * 32 : p * 32 + 33] == tokens[0]).all() for p in range(len(row) // 32))


def test_prepare_again_does_nothing(prepared, two_sources, small_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "build", lambda *_: pytest.fail("built again"))
    again = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"))
    assert again.manifest == prepared.manifest
    verify(again)


def test_the_number_of_workers_changes_nothing(prepared, two_sources, small_tokenizer, tmp_path):
    two = prepare(two_sources, small_tokenizer, Layout(tmp_path / "two"), workers=2)
    assert digests(two) == digests(prepared)


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


def test_a_planted_passage_leaves_the_training_text(
    prepared, two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    passage = heldout_texts(prepared, "a")[0].split("\n")[:8]
    before, after = make_documents(2, seed=9)
    planted = "\n".join([before, *("      " + line for line in passage), after])
    exact = heldout_texts(prepared, "a")[1]
    texts = [*make_documents(200, 2), planted, exact]
    write_jsonl(tmp_path / "b.jsonl", texts)
    assert share_inside(heldout_texts(prepared, "a"), texts) > 0.2
    leaky = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert heldout_texts(leaky, "a") == heldout_texts(prepared, "a")
    training = training_texts(leaky, "a") + training_texts(leaky, "b")
    assert before in training
    assert after in training
    assert not [line for line in passage if any(line in text for text in training)]
    assert share_inside(heldout_texts(leaky, "a"), training) == 0
    assert leaky.manifest["overlap_before"]["a"]["share"] > 0.1
    assert leaky.manifest["overlap_left"]["a"] == {"share": 0, "worst_document": 0, "documents_above_tenth": 0}


def test_a_store_that_leaks_is_not_kept(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl, monkeypatch
):
    clean = prepare(two_sources, small_tokenizer, Layout(tmp_path / "clean"), workers=1)
    write_jsonl(tmp_path / "b.jsonl", [*make_documents(200, 2), "x\n" + heldout_texts(clean, "a")[0]])
    monkeypatch.setattr("workbench.data.overlap.HeldoutRuns.cut", lambda self, text: ([text], set()))
    with pytest.raises(RuntimeError, match="'a' has 100% of its bytes in training"):
        prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert not list((tmp_path / "outputs" / "data").iterdir())


@pytest.fixture
def python_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_documents, write_with_key):
    """A made-up corpus of Python files; `write(name, text)` adds one, its hash says whether it is held out."""
    files: list[tuple[str, str]] = []

    def write(number: int, text: str, heldout: bool) -> None:
        path = tmp_path / f"file{number}.py"
        key = write_with_key(path, lambda draw: f"# {draw}\n{text}", heldout)
        files.append((key, str(path)))

    monkeypatch.setattr(python_texts, "list_files", lambda: sorted(files))
    monkeypatch.setattr(python_texts, "describe_corpus", lambda: [[key, path] for key, path in files])
    for i, text in enumerate(make_documents(120, seed=5)):
        docstring = "\n    ".join(text.split("\n"))
        body = "\n".join(
            f"    value_{letter} = compute_something(previous, {i}) + step_{letter}" for letter in "abcdefghijkl"
        )
        write(i, f'def f{i}():\n    """{docstring}\n    """\n{body}\n    return value_a\n', heldout=i % 10 == 0)
    return write


def test_a_held_out_passage_planted_in_training_code_and_docstrings_is_removed(
    python_files, small_tokenizer, tmp_path, make_documents
):
    sources = {
        "prose": SourceConfig("python_prose", heldout_bytes=5000),
        "code": SourceConfig("python_code", heldout_bytes=5000),
    }
    data = DataConfig("python", sources, heldout_percent=5.0)
    clean = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    prose, code = heldout_texts(clean, "prose"), heldout_texts(clean, "code")
    assert prose
    assert code
    as_comment = "".join(f"    # {line}\n" for line in code[0].split("\n")[1:3])
    as_string = "\n".join("        " + line for line in prose[0].split("\n"))
    stolen = code[0].replace("\n", "\n    ")
    padding = "\n".join(f"    other_{letter} = padding(something, more)" for letter in "abcdefghijklmnop")
    planted = f"class Copy:\n{as_comment}    {stolen}\n\n    TEXT = [f'''\n{as_string}\n''']\n{padding}\n"
    python_files(500, planted, heldout=False)
    before = share_inside(prose + code, [planted])
    assert before > 0.1
    leaky = prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert leaky.fingerprint != clean.fingerprint
    assert heldout_texts(leaky, "prose") == prose
    assert heldout_texts(leaky, "code") == code
    training = training_texts(leaky, "prose") + training_texts(leaky, "code")
    assert any("other_p = padding" in text for text in training)
    assert share_inside(prose + code, training) == 0
    assert not any(prose[0].split("\n")[2] in text for text in training)
    assert leaky.manifest["overlap_before"]["prose"]["share"] > 0.05
    assert leaky.manifest["overlap_before"]["code"]["share"] > 0.05


def test_docstrings_of_training_files_are_in_prose_and_nowhere_in_code(python_files, small_tokenizer, tmp_path):
    sources = {
        "prose": SourceConfig("python_prose", heldout_bytes=3000),
        "code": SourceConfig("python_code", heldout_bytes=3000),
    }
    prepared = prepare(DataConfig("python", sources), small_tokenizer, Layout(tmp_path), workers=1)
    assert all("value_" in text and '"""' not in text for text in training_texts(prepared, "code"))
    assert all("value_" not in text for text in training_texts(prepared, "prose"))


def test_exact_duplicates_are_stored_once(two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl):
    texts = make_documents(400, seed=1)
    write_jsonl(tmp_path / "a.jsonl", texts + texts[::-1])
    write_jsonl(tmp_path / "b.jsonl", make_documents(200, 2) + texts[:100])
    prepared = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    stored = training_texts(prepared, "a") + training_texts(prepared, "b")
    assert len(stored) == len(set(stored)) > 500


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


def test_a_source_without_text_is_named_before_the_tokenizer_is_trained(
    two_sources, small_tokenizer, tmp_path, write_jsonl
):
    write_jsonl(tmp_path / "b.jsonl", ["short one"] * 3 + [""])
    source = dataclasses.replace(two_sources.sources["b"], heldout_bytes=0)
    data = dataclasses.replace(two_sources, sources={"b": source})
    with pytest.raises(
        ValueError, match=r"'b' has no training text of .*=200 bytes or more; dropped are .*1 empty, 3 too short"
    ):
        prepare(data, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


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


def test_what_only_looks_like_a_line_end_stays_in_training_and_held_out_text(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    odd = ["\f\x1c\u2028\u0085\v ".join(text.split("\n")) + "\nand a line" for text in make_documents(200, 1)]
    write_jsonl(tmp_path / "a.jsonl", odd)
    made = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert set(training_texts(made, "a")) <= set(odd)
    assert set(heldout_texts(made, "a")) <= set(odd)
    read = read_heldout(str(made.heldout_dir), "a")
    assert sorted(row["text"] for row in read) == sorted(heldout_texts(made, "a"))


def test_a_lock_is_held_by_one_at_a_time_though_its_file_goes(tmp_path):
    inside, most = 0, []

    def hold() -> None:
        nonlocal inside
        for _ in range(20):
            with folders.locked(tmp_path / "a.lock"):
                inside += 1
                most.append(inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert not list(tmp_path.iterdir())


def test_inputs_that_change_while_they_are_read_make_no_store(
    two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl
):
    def change(what, done, total):
        write_jsonl(tmp_path / "b.jsonl", make_documents(150, 2))

    with pytest.raises(ValueError, match="inputs of data 'two' changed while they were read"):
        prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1, progress=change)
    assert not list((tmp_path / "outputs" / "data").iterdir())


def test_a_store_under_another_name_is_refused(prepared):
    moved = prepared.directory.rename(prepared.directory.with_name("0123456789abcdef"))
    with pytest.raises(ValueError, match=f"0123456789abcdef holds data {prepared.fingerprint}"):
        open_prepared(moved)


def test_short_documents_are_dropped(two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl):
    write_jsonl(tmp_path / "b.jsonl", make_documents(200, 2) + ["short one\nwith lines"] * 3)
    prepared = prepare(two_sources, small_tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert min(len(text.encode()) for text in training_texts(prepared, "b")) >= 200


def test_names_of_stores_follow_what_is_in_them(two_sources, small_tokenizer, tmp_path, make_documents, write_jsonl):
    def name(data=two_sources, tokenizer=small_tokenizer):
        return store.data_fingerprint(data, tokenizer), store.heldout_fingerprint(data, tokenizer)

    first, held = name()
    same = replace_source(two_sources, "a", weight=5.0, unique_tokens=100, max_epochs=None)
    assert name(dataclasses.replace(same, name="other")) == (first, held)
    capped = name(replace_source(two_sources, "a", max_bytes=1000))
    assert capped[0] != first
    assert capped[1] == held
    assert name(tokenizer=dataclasses.replace(small_tokenizer, vocab_size=301))[0] != first
    assert name(tokenizer=dataclasses.replace(small_tokenizer, vocab_size=301))[1] == held
    for changed in (
        dataclasses.replace(two_sources, heldout_percent=6.0),
        dataclasses.replace(two_sources, min_document_bytes=100),
        dataclasses.replace(two_sources, overlap_lines=4),
        dataclasses.replace(two_sources, heldout_document_bytes=3000),
        replace_source(two_sources, "b", heldout_bytes=100),
    ):
        assert name(changed)[0] != first
        assert name(changed)[1] != held
    write_jsonl(tmp_path / "a.jsonl", make_documents(400, seed=7))
    assert name()[0] != first
    assert name()[1] != held


def test_a_failed_build_leaves_nothing_and_a_killed_one_is_replaced(
    two_sources, small_tokenizer, tmp_path, monkeypatch
):
    layout = Layout(tmp_path / "outputs")
    fingerprint = store.data_fingerprint(two_sources, small_tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr("workbench.data.build._facts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(two_sources, small_tokenizer, layout, workers=1)
    assert not list((tmp_path / "outputs" / "data").iterdir())
    killed = tmp_path / "outputs" / "data" / f"{fingerprint}.partial"
    killed.mkdir()
    (killed / "tokens_zzz.bin").write_bytes(b"left over")
    prepared = prepare(two_sources, small_tokenizer, layout, workers=1)
    assert not killed.exists()
    assert not list(prepared.directory.glob("*zzz*"))


def test_damaged_stores_are_named(prepared, tmp_path):
    path = prepared.directory / "tokens_a.bin"
    original = path.read_bytes()
    path.write_bytes(original[:-2])
    with pytest.raises(ValueError, match=rf"tokens_a.bin has {len(original) - 2} bytes, not {len(original)}"):
        open_prepared(prepared.directory)
    path.write_bytes(original[:-2] + bytes([original[-2] ^ 1, original[-1]]))
    with pytest.raises(ValueError, match=r"tokens_a.bin is damaged"):
        verify(open_prepared(prepared.directory))
    with pytest.raises(ValueError, match="run `workbench prepare`"):
        open_prepared(tmp_path / "nowhere")


def test_sizes_of_held_out_text_are_those_of_the_command_line_tools(prepared, tmp_path):
    text = "".join(heldout_texts(prepared, "a")).encode()
    sizes = heldout_sizes(prepared)["a"]
    assert sizes["bytes"] == len(text)
    for tool in ("gzip", "xz"):
        if shutil.which(tool):
            packed = subprocess.run([tool, "-9", "-c"], input=text, capture_output=True, check=True).stdout
            assert sizes[f"{tool}_bytes"] == pytest.approx(len(packed), abs=20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heldout_percent": 1e-4}, "no held-out document: raise data.heldout_percent"),
        ({"min_document_bytes": 10**6}, "below data.min_document_bytes=1000000, so that no document could be held out"),
    ],
)
def test_sources_that_give_nothing_are_refused(two_sources, small_tokenizer, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        prepare(dataclasses.replace(two_sources, **change), small_tokenizer, Layout(tmp_path / "outputs"), workers=1)


def test_a_tokenizer_from_a_file_with_a_large_vocabulary(two_sources, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<unk>": 0, "<s>": 69_999, **{str(i): i for i in range(1, 400)}, "token": 66_000}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "words.json"))
    tokenizer = TokenizerConfig("file", 70_000, str(tmp_path / "words.json"), bos="<s>")
    prepared = prepare(two_sources, tokenizer, Layout(tmp_path / "outputs"), workers=1)
    assert prepared.manifest["dtype"] == "<u4"
    assert (prepared.vocab_size, prepared.bos_id, prepared.eos_id) == (70_000, 69_999, None)
    special = prepared.manifest["tokenizer"]["special"]
    assert (special["bos"], special["bos_from"], special["eos"]) == ("<s>", "tokenizer.bos", None)
    assert "beginning of sequence '<s>' (from tokenizer.bos), end of sequence none" in describe(prepared)
    counts = np.bincount(prepared.sources["a"])
    assert len(counts) == 70_000
    assert counts[69_999] == prepared.manifest["sources"]["a"]["documents"]
    assert counts[66_000] > 0
    with pytest.raises(ValueError, match=r"vocab_size=32000, but .*words\.json has 70000 ids"):
        prepare(two_sources, dataclasses.replace(tokenizer, vocab_size=32_000), Layout(tmp_path / "outputs"), workers=1)


KILLED = """
import os, signal, sys, threading, time
from workbench.config.schema import DataConfig, SourceConfig, TokenizerConfig
from workbench.data.store import prepare
from workbench.study.layout import Layout
from pathlib import Path

def stop(what, done, total):
    if done > 20_000:
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))
        time.sleep(5)

if __name__ == "__main__":
    # A shell starts what is in the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data = DataConfig("x", {"a": SourceConfig("jsonl", path=sys.argv[1], heldout_bytes=4000)}, heldout_percent=5.0)
    prepare(data, TokenizerConfig(vocab_size=300, train_bytes=40_000), Layout(Path(sys.argv[2])), 2, stop)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_stopping_prepare_leaves_no_store_and_no_process(name, tmp_path, write_jsonl, make_documents):
    path = write_jsonl(tmp_path / "a.jsonl", make_documents(2000, seed=1))
    script = tmp_path / f"stop_{tmp_path.name}.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(path), str(tmp_path / "outputs"), name]
    environment = {**os.environ, "STOP": str(script)}  # inherited by workers, so that they can be found
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ended.returncode == -getattr(signal, name), ended.stderr
    assert not list((tmp_path / "outputs" / "data").glob("*/manifest.json"))
    if name == "SIGINT":
        assert not list((tmp_path / "outputs" / "data").glob("*.partial"))
    for _ in range(50):
        left = [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("STOP") == str(script)]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"{left} still run")


@pytest.mark.slow
def test_this_environments_own_texts_make_a_store_without_leak(small_tokenizer, tmp_path):
    sources = {
        "prose": SourceConfig("python_prose", 7, max_bytes=700_000, heldout_bytes=30_000),
        "code": SourceConfig("python_code", 3, max_bytes=300_000, heldout_bytes=30_000),
    }
    tokenizer = dataclasses.replace(small_tokenizer, vocab_size=512, train_bytes=300_000)
    prepared = prepare(DataConfig("python", sources), tokenizer, Layout(tmp_path), workers=1)
    for name in sources:
        training = training_texts(prepared, "prose") + training_texts(prepared, "code")
        held = heldout_texts(prepared, name)
        assert len(held) >= 20
        assert share_inside(held, training) == 0
        assert max(len(text.encode()) for text in held) <= 1500
    facts = prepared.manifest["sources"]
    assert facts["prose"]["bytes"] > 690_000
    assert facts["code"]["bytes"] > 250_000
