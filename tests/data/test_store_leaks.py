"""No held-out text, and no text twice, among what a store is trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.data.store_texts import heldout_texts, training_texts
from workbench.config.schema import (
    DataConfig,
    SourceConfig,
)
from workbench.data import python_texts
from workbench.data.store import prepare
from workbench.study.layout import Layout


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
