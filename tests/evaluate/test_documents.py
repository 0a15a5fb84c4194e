"""Questions made of held-out text."""

import json
from pathlib import Path

import pytest

from tests.evaluate.conftest import DATA
from workbench.config.schema import SuiteConfig
from workbench.evaluate.suite import EvaluationError, resolve_suite
from workbench.evaluate.suites.documents import (
    load_continuations,
    load_last_words,
    load_texts,
    perplexity,
    read_heldout,
)
from workbench.evaluate.tasks import load_task
from workbench.study.layout import Layout

CHOICES = {"items": 160, "choices": 4, "context_characters": 200, "choice_characters": 48}


@pytest.fixture
def heldout(layout: Layout) -> str:
    return str(layout.data(DATA) / "heldout")


def test_texts_are_whole(heldout: str) -> None:
    rows = load_texts(heldout, "prose")["test"]
    lines = [json.loads(line) for line in (Path(heldout) / "prose.jsonl").read_text().splitlines()]
    assert {row["id"]: row["text"] for row in rows} == {line["id"]: line["text"] for line in lines}


@pytest.mark.parametrize("source", ["code", "prose"])
def test_last_words_follow_their_context(heldout: str, source: str) -> None:
    texts = {row["id"]: row["text"] for row in read_heldout(heldout, source)}
    rows = list(load_last_words(heldout, source, 160, 320)["test"])
    assert len(rows) > 20
    for row in rows:
        document, _, start = row["id"].partition("#")
        assert texts[document][: int(start)].endswith(row["context"])
        assert texts[document][int(start) :].startswith(row["target"])
        assert row["target"][0] == " "
        assert row["target"][1:].isalpha()
        assert not row["context"][-1].isspace()
        assert 0 < len(row["context"]) <= 320


@pytest.mark.parametrize("source", ["code", "prose"])
def test_one_of_four_endings_is_true(heldout: str, source: str) -> None:
    texts = {row["id"]: row["text"] for row in read_heldout(heldout, source)}
    rows = list(load_continuations(heldout, source, **CHOICES)["test"])
    assert len(rows) > 20
    for row in rows:
        document, _, start = row["id"].partition("#")
        assert texts[document][int(start) : int(start) + 48] == row["choices"][row["answer"]]
        assert texts[document][: int(start)].endswith(row["context"])
        assert len(set(row["choices"])) == 4
        assert {len(choice) for choice in row["choices"]} == {48}
        assert {choice[0] for choice in row["choices"]} == {" "}
        for i, choice in enumerate(row["choices"]):
            assert i == row["answer"] or any(choice in text for name, text in texts.items() if name != document)
    assert {row["answer"] for row in rows} == {0, 1, 2, 3}


def test_questions_do_not_depend_on_the_files_order(heldout: str, tmp_path: Path) -> None:
    lines = (Path(heldout) / "code.jsonl").read_text().splitlines()
    (tmp_path / "code.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    for load, options in ((load_texts, {}), (load_last_words, {"items": 9, "context_characters": 99})):
        assert list(load(heldout, "code", **options)["test"]) == list(load(str(tmp_path), "code", **options)["test"])
    there, here = (list(load_continuations(d, "code", **CHOICES)["test"]) for d in (heldout, str(tmp_path)))
    assert there == here


def test_fewer_items_are_the_first_of_more(heldout: str) -> None:
    few, many = (list(load_continuations(heldout, "code", **(CHOICES | {"items": n}))["test"]) for n in (5, 20))
    assert few == many[:5]
    assert len(many) == 20


def test_text_too_short_for_a_question_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prose.jsonl").write_text(json.dumps({"id": "a", "text": "too short"}) + "\n")
    with pytest.raises(ValueError, match="source 'prose' is too short"):
        load_last_words(str(tmp_path), "prose", 10, 320)


def test_perplexity_is_lm_evals() -> None:
    from lm_eval.api.metrics import perplexity as theirs

    assert perplexity([-1.0, -2.5, -0.25]) == pytest.approx(theirs([-1.0, -2.5, -0.25]))


def test_text_too_short_for_a_question_names_the_settings_that_help(tmp_path: Path) -> None:
    (tmp_path / "prose.jsonl").write_text(json.dumps({"id": "a", "text": "Too short."}) + "\n")
    suite = SuiteConfig(name="s", tasks=["heldout_{source}_continuation"], include_path="embedded")
    [spec] = resolve_suite(suite, ["prose"])
    with pytest.raises(
        EvaluationError, match=r"too short to ask .*evaluation=heldout.*data\.heldout_percent.*heldout_bytes"
    ):
        load_task(spec, suite, {"heldout_dir": str(tmp_path)})
