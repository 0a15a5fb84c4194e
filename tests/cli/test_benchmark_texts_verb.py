"""`workbench benchmark-texts` says of each task what became of it."""

from pathlib import Path

import pytest

from workbench.cli import main
from workbench.evaluate.benchmark_texts import Written


def run(*overrides: str) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main(["benchmark-texts", *overrides])
    return ended.value.code


def test_a_task_that_is_not_written_is_named_and_counts(monkeypatch, capsys, tmp_path):
    tasks = [
        Written("own", "quiz", tmp_path / "quiz.jsonl", 1200, 3000, ""),
        Written("own", "gone", Path("gone.jsonl"), 0, 0, "evaluation of gone failed: no connection"),
    ]
    monkeypatch.setattr("workbench.evaluate.benchmark_texts.write_benchmark_texts", lambda *_: iter(tasks))
    assert run("evaluation=commonsense") == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path}/quiz.jsonl  1,200 documents, 3,000 texts\n1 tasks written, 1 not written\n"
    assert printed.err == "not written: own/gone: evaluation of gone failed: no connection\n"
    tasks.pop()
    assert run("evaluation=commonsense") == 0


def test_no_suite_is_refused(capsys):
    assert run("evaluation=none") == 2
    assert "name one, such as evaluation=commonsense" in capsys.readouterr().err
