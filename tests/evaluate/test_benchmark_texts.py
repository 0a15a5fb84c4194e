"""Texts of tasks as files: what is asked, the right answers, and tasks that cannot be reached named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.evaluate.conftest import DATA, embedded, heldout_texts, write_data
from workbench.config.schema import DataConfig, EvaluationConfig, SourceConfig, SuiteConfig, TokenizerConfig
from workbench.config.schema.contamination_config import Contamination
from workbench.data.corpus.contamination import BenchmarkIndex
from workbench.evaluate.benchmark_texts import document_texts, write_benchmark_texts
from workbench.study.layout import Layout

LINES = [
    {"question": "Which river runs through the town?", "passage": "A town by a river.", "options": ["the Don", "none"]},
    {"question": "Who painted it?", "passage": "A portrait of nobody known.", "options": ["nobody", "all"]},
]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write an evaluation's texts, and read the files again."""
    layout = Layout(tmp_path)
    monkeypatch.setattr("workbench.evaluate.benchmark_texts.data_fingerprint", lambda *_: DATA)

    def write(evaluation: EvaluationConfig):
        data = DataConfig(name="none", sources={"prose": SourceConfig(kind="python_prose")})
        written = list(write_benchmark_texts(evaluation, data, TokenizerConfig(), layout))
        return written, {
            task.task: [json.loads(line) for line in task.path.read_text().splitlines()]
            for task in written
            if not task.problem
        }

    return write


def own_suite(folder: Path, **suite: object) -> EvaluationConfig:
    folder.mkdir()
    (folder / "lines.jsonl").write_text("".join(json.dumps({**line, "right": 0}) + "\n" for line in LINES))
    (folder / "quiz.yaml").write_text(
        f"""task: quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "lines.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{passage}}}}\\nQuestion: {{{{question}}}}\\nAnswer:"
doc_to_choice: options
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    suite = {"name": "own", "tasks": ["quiz"], "include_path": str(folder)} | suite
    return EvaluationConfig(suites={"own": SuiteConfig(**suite)})  # type: ignore[arg-type]


def test_questions_come_with_their_right_answers_and_without_labels(tmp_path: Path, write):
    write_data(Layout(tmp_path), heldout_texts())
    ((task,), files) = write(own_suite(tmp_path / "tasks", limit=1))
    assert (task.documents, task.texts) == (2, 14)
    assert task.path == tmp_path / "benchmark_texts" / "own" / "quiz.jsonl"
    first = {line["text"]: line["part"] for line in files["quiz"] if line["document"] == 0}
    asked = "A town by a river.\nQuestion: Which river runs through the town?\nAnswer:"
    assert first == {
        f"{asked} the Don": "question and answer",
        asked: "question",
        "the Don": "answer",
        "Which river runs through the town?": "field",
        "A town by a river.": "field",
        "Which river runs through the town? the Don": "field and answer",
        "A town by a river. the Don": "field and answer",
    }


def test_the_embedded_suites_are_written_and_found(tmp_path: Path, write):
    texts = heldout_texts()
    write_data(Layout(tmp_path), texts)
    written, files = write(embedded())
    assert [task.problem for task in written] == [""] * 6
    assert {line["text"] for line in files["heldout_prose"]} == {text.strip() for text in texts["prose"]}
    assert files["heldout_code_last_word"]
    index = BenchmarkIndex.read(Contamination(texts=str(tmp_path / "benchmark_texts"), action="remove"))
    pieces, tally, _ = index.treat([texts["prose"][0], texts["code"][3][500:2000], "nothing of the kind"])
    assert pieces == [[], [], ["nothing of the kind"]]
    assert {"heldout_prose", "heldout_code"} <= set(tally.by_task())


def test_what_cannot_be_reached_is_named_and_the_rest_is_written(tmp_path: Path, write):
    write_data(Layout(tmp_path), heldout_texts())
    evaluation = own_suite(tmp_path / "tasks", tasks=["gone", "quiz"])
    (tmp_path / "tasks" / "gone.yaml").write_text(
        (tmp_path / "tasks" / "quiz.yaml").read_text().replace("quiz", "gone").replace("lines.jsonl", "gone.jsonl")
    )
    written, files = write(evaluation)
    assert [(task.task, task.documents) for task in written] == [("gone", 0), ("quiz", 2)]
    assert written[0].problem.startswith("evaluation of gone failed: ")
    assert "\n" not in written[0].problem
    assert list(files) == ["quiz"]
    assert not written[0].path.exists()


def test_held_out_text_that_is_not_prepared_is_named(tmp_path: Path, write):
    written, files = write(embedded())
    assert {task.task for task in written} == {
        "heldout_{source}", "heldout_{source}_last_word", "heldout_{source}_continuation",
    }  # fmt: skip
    assert all("run `workbench prepare`" in task.problem for task in written)
    assert not files
    chat = SuiteConfig(name="chat", tasks=["chat_response"], include_path="conversations")
    (task,), _ = write(EvaluationConfig(suites={"chat": chat}))
    assert "no benchmark of a corpus" in task.problem


def fake_task(text: object, target: object, choices: list[str] | None = None) -> SimpleNamespace:
    config = {"target_delimiter": " ", "doc_to_choice": choices}
    return SimpleNamespace(
        doc_to_text=lambda _: text,
        doc_to_target=lambda _: target,
        doc_to_choice=lambda _: choices,
        get_config=config.get,
    )


def test_tasks_of_other_forms():
    """Whole texts, several right answers, and questions to choose among as Winogrande's are."""
    assert document_texts(fake_task("", "whole text"), {"text": "whole text"}) == {"whole text": "answer"}  # type: ignore[arg-type]
    several = document_texts(fake_task("who?", ["a", "b"]), {"question": "who?"})  # type: ignore[arg-type]
    assert list(several) == ["who? a", "who? b", "who?", "a", "b"]
    numbers = document_texts(fake_task("who?", [0, 2], ["x", "y", "z"]), {})  # type: ignore[arg-type]
    assert list(numbers) == ["who? x", "who? z", "who?", "x", "z"]
    sentences = document_texts(fake_task(1, "was late.", ["Ann", "Bob"]), {"sentence": "_ was late."})  # type: ignore[arg-type]
    assert list(sentences) == ["Bob was late.", "Bob", "was late."]
    assert document_texts(fake_task(" ", ""), {}) == {"": "question"}  # type: ignore[arg-type]
