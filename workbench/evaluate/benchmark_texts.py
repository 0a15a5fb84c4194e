"""The texts of a suite's tasks as files, so that training text can be searched for them.

What is written of each document that a task scores is what a model is asked and the right answers: the question with each of
them, and each by itself. Prompts put labels around questions ("Question: ... Answer:") that no web page has; so the fields
of the document that stand in the question as they are, are written too, alone and with each answer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.config.schema import DataConfig, EvaluationConfig, SuiteConfig, TokenizerConfig
from workbench.data.fingerprint import data_fingerprint
from workbench.evaluate.reconcile import heldout_sources
from workbench.evaluate.suite import EvaluationError, TaskSpec, resolve_suite, uses_heldout
from workbench.study.files import write_atomically
from workbench.study.layout import Layout

if TYPE_CHECKING:
    from lm_eval.api.task import Task


@dataclass(frozen=True)
class Written:
    """One task, written or not."""

    suite: str
    """The suite's name."""
    task: str
    """The task's name; that of the template where its held-out text is missing."""
    path: Path
    """`<suite>/<task>.jsonl` in the folder."""
    documents: int
    """Documents that it scores."""
    texts: int
    """Their texts."""
    problem: str
    """Why nothing was written; empty where it was."""


def write_benchmark_texts(
    evaluation: EvaluationConfig, data: DataConfig, tokenizer: TokenizerConfig, layout: Layout
) -> Iterator[Written]:
    """Write each task's texts to `benchmark_texts/<suite>/<task>.jsonl`, and say of each task what became of it.

    A file has a line for each text: `task`, `document` (lm-eval's `doc_id`), `part` and `text`. All documents are written,
    whatever a suite's `limit`. A task of which the data cannot be reached is named; its file from before stays, if there is one.

    Parameters
    ----------
    evaluation
        The suites.
    data, tokenizer
        Prepared data whose held-out text some suites ask about; read only if there are such suites.
    layout
        The outputs.

    Raises
    ------
    EvaluationError
        A name is not a task, or is one in two files.
    """
    for suite in evaluation.suites.values():
        folder = layout.root / "benchmark_texts" / suite.name
        metadata: dict[str, Any] = {}
        sources: list[str] = []
        try:
            if suite.include_path == "conversations":
                raise EvaluationError(
                    f"evaluation suite {suite.name!r} scores held-out conversations, which are no benchmark of a corpus"
                )
            if uses_heldout(suite):
                fingerprint = data_fingerprint(data, tokenizer)
                sources = heldout_sources(layout, fingerprint)
                metadata["heldout_dir"] = str(layout.data(fingerprint) / "heldout")
        except EvaluationError as error:
            for name in suite.tasks:
                yield Written(suite.name, name, folder / f"{name}.jsonl", 0, 0, str(error))
            continue
        for spec in resolve_suite(suite, sources):
            yield _write_task(spec, suite, metadata, folder)


def _write_task(spec: TaskSpec, suite: SuiteConfig, metadata: dict[str, Any], folder: Path) -> Written:
    from workbench.evaluate.tasks import load_task, naming

    path = folder / f"{spec.name}.jsonl"
    try:
        # Requests are of no use here, and few are made.
        task = load_task(spec, dataclasses.replace(suite, num_fewshot=0, limit=1), metadata)
        with naming(spec.name):
            scored: Any = task.eval_docs
            documents = [document_texts(task, document) for document in scored]
    except EvaluationError as error:
        return Written(suite.name, spec.name, path, 0, 0, str(error))
    lines = [
        json.dumps({"task": spec.name, "document": i, "part": part, "text": text}, ensure_ascii=False)
        for i, parts in enumerate(documents)
        for text, part in parts.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    return Written(suite.name, spec.name, path, len(documents), len(lines), "")


def document_texts(task: Task, document: Mapping[str, Any]) -> dict[str, str]:
    """Texts of one document of a task, each with the part that it is; one empty text where there is nothing else."""
    question, answers = _question_and_answers(task, document)
    delimiter = str(task.get_config("target_delimiter") or "")
    fields = [
        value
        for value in document.values()
        if isinstance(value, str) and value.strip() and value.strip() in question and value.strip() != question.strip()
    ]
    pairs = [
        *((question + delimiter + answer, "question and answer") for answer in answers if question.strip()),
        (question, "question"),
        *((answer, "answer") for answer in answers),
        *((field, "field") for field in fields),
        *((f"{field} {answer}", "field and answer") for field in fields for answer in answers),
    ]
    texts: dict[str, str] = {}
    for text, part in pairs:
        if text.strip():
            texts.setdefault(text.strip(), part)
    return texts or {"": "question"}


def _question_and_answers(task: Task, document: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Give what is asked, and every right answer.

    Of tasks that choose among questions (as Winogrande's sentences), lm-eval's `doc_to_text` is the right question's number.
    """
    asked: Any = task.doc_to_text(document)
    target: Any = task.doc_to_target(document)
    choices: Sequence[Any] = task.doc_to_choice(document) if task.get_config("doc_to_choice") is not None else ()  # type: ignore[attr-defined]
    targets = target if isinstance(target, list) else [target]
    if isinstance(asked, int):
        return str(choices[asked]), [str(target) for target in targets]
    return str(asked), [str(choices[t]) if isinstance(t, int) and choices else str(t) for t in targets]
