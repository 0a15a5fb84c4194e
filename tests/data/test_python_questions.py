"""Questions about the standard library: the same each time, well formed, and answered by its own words."""

import json
import statistics

import pytest

from workbench.config.schema import ChatDataConfig
from workbench.data import python_questions
from workbench.data.conversations import read_conversations
from workbench.data.python_questions import first_sentence, list_definitions, make_conversations, write_questions


@pytest.fixture(scope="module")
def conversations():
    return list(make_conversations())


def test_a_few_thousand_in_a_fixed_order(conversations, tmp_path):
    count = write_questions(tmp_path / "a.jsonl")
    assert 3000 < count == len(conversations) < 20_000
    assert [json.loads(line)["messages"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == conversations
    dropped = []
    config = ChatDataConfig("questions", [str(tmp_path / "a.jsonl")])
    read = list(read_conversations(config, lambda *cause: dropped.append(cause)))
    assert len(read) == count
    assert not dropped
    assert len({c.digest for c in read}) == count


def test_questions_and_answers(conversations):
    by_question = {c[0]["content"]: c for c in conversations}
    assert len(by_question) == len(conversations)
    median = by_question["What does `statistics.median` do?"]
    assert [m["role"] for m in median] == ["user", "assistant"] * 2
    assert (
        median[1]["content"]
        == first_sentence(statistics.median.__doc__ or "")
        == ("Return the median (middle value) of numeric data.")
    )
    assert [m["content"] for m in median[2:]] == [
        "Which arguments does `statistics.median` take?",
        "It takes the argument `data`.",
    ]
    where = by_question["Which module of Python's standard library defines `TemporaryDirectory`?"]
    assert where[1]["content"] == "The class `TemporaryDirectory` is defined in the module `tempfile`."
    assert by_question["What is `threading.Thread.name`?"][1]["content"].startswith("A string used for identification")


def test_nothing_private_or_of_tests(conversations):
    for definition in list_definitions():
        assert not any(part.startswith("_") for part in definition.full_name.split("."))
        assert "test" not in definition.module.split(".")


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the sum of a and b.\n\nMore.", "Return the sum of a and b."),
        ("Return the sum\n    of a and b", "Return the sum of a and b."),
        ("Use it, e.g. For example so. Then more.", "Use it, e.g. For example so."),
        ("Return a :class:`~list` or ``None`` always. More", "Return a `list` or `None` always."),
        ("f(a, b) -> c\n\nReturn it.", ""),
        ("Too short.", ""),
        (">>> f(1)\n1", ""),
        ("One of the following values:", ""),
        ("(Not) a sentence of prose.", ""),
        ("word " * 100, ""),
        ("", ""),
    ],
)
def test_first_sentences(docstring, expected):
    assert first_sentence(docstring) == expected


def test_files_that_are_no_modules_are_passed_over(tmp_path, monkeypatch):
    names = {
        "good.py": 'def f(a):\n    """Return a copy of it."""\n',
        "bad.py": "def f(:",
        "_p.py": 'def g():\n    """So it is."""',
    }
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(python_questions, "standard_library", lambda: [(name, tmp_path / name) for name in names])
    assert [d.full_name for d in list_definitions()] == ["good.f"]


def test_the_library_is_read_once_for_all_points_of_a_study(monkeypatch, conversations):
    """Each point names its conversations by their content: reading the library again for each took seconds a point."""
    monkeypatch.setattr(python_questions, "read_source", lambda path: pytest.fail(f"{path} is read again"))
    assert list(make_conversations()) == conversations
