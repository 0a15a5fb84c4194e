"""Benchmark texts are read by task and document, and what is none is refused in one line."""

import json
from pathlib import Path

import pytest

from workbench.data.corpus.benchmark_files import benchmark_hashes, read_benchmark_texts


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_texts_of_one_document_belong_together(tmp_path: Path):
    write(
        tmp_path / "a" / "quiz.jsonl",
        {"task": "quiz", "document": 4, "text": "where is it? here"},
        {"task": "quiz", "document": 1, "text": "who?"},
        {"task": "quiz", "document": 4, "text": "here"},
    )
    write(tmp_path / "plain.jsonl", {"task": "plain", "text": "one"}, {"task": "plain", "text": "two"})
    read = read_benchmark_texts(tmp_path)
    assert read.tasks == ("plain", "quiz")
    assert read.documents == (("plain", 0), ("plain", 1), ("quiz", 1), ("quiz", 4))
    assert read.texts == ("one", "two", "who?", "where is it? here", "here")
    assert read.owners == (0, 1, 2, 3, 3)


def test_the_fingerprint_has_contents_and_not_places(tmp_path: Path):
    line = {"task": "quiz", "text": "where is it?"}
    one, two = write(tmp_path / "one" / "a.jsonl", line), write(tmp_path / "two" / "b" / "c.jsonl", line)
    assert benchmark_hashes(one) == benchmark_hashes(one.parent) == benchmark_hashes(two.parents[1])
    write(two, line, line)
    assert benchmark_hashes(two.parents[1]) != benchmark_hashes(one)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON: '{'"),
        ([1], r"line 1: not an object with `task` and `text`: '\[1\]'"),
        ({"text": "a"}, "line 1: `task` and `text` must be text, not None and 'a'"),
        ({"task": "a", "text": 3}, "line 1: `task` and `text` must be text, not 'a' and 3"),
        ({"task": "a", "text": "b", "document": "3"}, "line 1: `document` must be a whole number, not '3'"),
        ({"task": "a + b", "text": "b"}, "line 1: 'a \\+ b' cannot be a task's name"),
    ],
)
def test_a_line_that_is_none_is_quoted(line: object, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        read_benchmark_texts(write(tmp_path / "a.jsonl", line))


def test_what_would_give_numbers_two_meanings_is_refused(tmp_path: Path):
    write(tmp_path / "a.jsonl", {"task": "quiz", "text": "b"}, {"task": "quiz", "document": 0, "text": "b"})
    with pytest.raises(ValueError, match="line 2: task 'quiz' has lines with and without `document`"):
        read_benchmark_texts(tmp_path)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", {"task": "quiz", "text": "b"})
    with pytest.raises(ValueError, match=r"task 'quiz' are in .*a\.jsonl and in .*b\.jsonl: keep one"):
        read_benchmark_texts(tmp_path)


def test_no_text_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no \.jsonl file of benchmark texts at .*: write them with"):
        read_benchmark_texts(tmp_path)
    write(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=r"no benchmark text in .*: its files are empty"):
        read_benchmark_texts(tmp_path)
