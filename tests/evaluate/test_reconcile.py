"""What should exist beside a checkpoint does, once, whole, and equal however it came about."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from tests.evaluate.conftest import DATA, HELDOUT, embedded
from tests.evaluate.test_lm import add_bos
from workbench.config.schema import EvaluationConfig, SuiteConfig
from workbench.evaluate import checked_ahead
from workbench.evaluate import tasks as tasks_module
from workbench.evaluate.document_values import ratio_stderr
from workbench.evaluate.reconcile import (
    EvaluationError,
    Evaluator,
    checkpoint_evaluation_id,
    evaluation_id,
    next_checkpoint,
    pending,
)
from workbench.study.evaluation_files import documents_path
from workbench.study.layout import Layout

TASKS = {f"heldout_{s}{kind}" for s in ("code", "prose") for kind in ("", "_last_word", "_continuation")}
CLOCK = {"date", "total_evaluation_time_seconds", "sha256"}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_pending_is_what_has_no_result(layout: Layout, checkpoints: list[Path]) -> None:
    config = embedded()
    assert pending(checkpoints, config, layout) == [(c, "embedded") for c in checkpoints]
    evaluator = Evaluator(layout, config, threads=1)
    path = evaluator.evaluate(checkpoints[0], "embedded")
    assert pending(checkpoints, config, layout) == [(checkpoints[1], "embedded")]
    evaluator.evaluate(checkpoints[1], "embedded")
    assert pending(checkpoints, config, layout) == []
    assert pending(checkpoints, EvaluationConfig(), layout) == []
    assert pending(checkpoints, replace(config, precision="bf16"), layout) == [(c, "embedded") for c in checkpoints]
    assert path.parent == checkpoints[0] / "evals"


def test_a_tokenizer_that_adds_bos_has_new_ids_where_whole_texts_are_scored(
    layout: Layout, checkpoints: list[Path]
) -> None:
    """Their scores once had the probability of a second BOS in them."""
    suite = embedded().suites["embedded"]
    words = replace(suite, tasks=["heldout_{source}_last_word", "heldout_{source}_continuation"])

    def ids() -> list[str]:
        return [checkpoint_evaluation_id(checkpoints[0], asked, "fp32", layout) for asked in (suite, words)]

    before = ids()
    assert before[0] == evaluation_id(suite, "fp32", HELDOUT, ["code", "prose"])
    add_bos(layout.data(DATA) / "tokenizer")
    after = ids()
    assert after[0] != before[0]
    assert after[1] == before[1]
    (layout.data(DATA) / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(EvaluationError, match=r"run `workbench prepare`"):
        ids()


def test_a_damaged_result_is_pending_and_done_again(layout: Layout, checkpoints: list[Path]) -> None:
    config, evaluator = embedded(), Evaluator(layout, embedded())
    for damage in (lambda p: p.write_text(p.read_text()[:-99]), Path.unlink):
        for which in (lambda p: p, documents_path):
            path = evaluator.evaluate(checkpoints[0], "embedded")
            assert pending(checkpoints[:1], config, layout) == []
            damage(which(path))
            assert pending(checkpoints[:1], config, layout) == [(checkpoints[0], "embedded")]
    evaluator.evaluate(checkpoints[0], "embedded")
    assert pending(checkpoints[:1], config, layout) == []


def test_the_result_is_lm_evals_and_ours(layout: Layout, checkpoints: list[Path]) -> None:
    path = Evaluator(layout, embedded()).evaluate(checkpoints[0], "embedded")
    result, documents = read(path), read(documents_path(path))
    suite = embedded().suites["embedded"]
    assert result["eval_id"] == evaluation_id(suite, "fp32", HELDOUT, ["code", "prose"])
    assert path.name == f"embedded-{result['eval_id']}.json"
    for part in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert result[part].keys() == TASKS
    assert (result["checkpoint"], result["step"]) == ("stages/57a6e00000000001/checkpoints/step_00000001", 1)
    for source in ("code", "prose"):
        metrics, columns = result["results"][f"heldout_{source}"], documents[f"heldout_{source}"]
        bits = -sum(columns["loglikelihood"]) / sum(columns["bytes"]) / torch.log(torch.tensor(2.0)).item()
        assert metrics["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
        stderr = ratio_stderr(columns["loglikelihood"], columns["bytes"]) / torch.log(torch.tensor(2.0)).item()
        assert metrics["bits_per_byte_stderr,none"] == pytest.approx(stderr, rel=1e-6)
        for task in (f"heldout_{source}_last_word", f"heldout_{source}_continuation"):
            correct = documents[task]["correct"]
            assert result["results"][task]["acc,none"] == pytest.approx(sum(correct) / len(correct))
            assert result["results"][task]["acc_stderr,none"] >= 0
            assert len(correct) == 12
        assert result["results"][f"heldout_{source}_last_word"]["perplexity_stderr,none"] > 0
    assert str(layout.root) not in path.read_text()


def test_scores_depend_on_the_checkpoint_alone(layout: Layout, checkpoints: list[Path]) -> None:
    """Equal from a fresh evaluator and from one that has scored another checkpoint before."""
    kept = Evaluator(layout, embedded())
    first, second = (kept.evaluate(checkpoint, "embedded") for checkpoint in checkpoints)
    before = [read(second), read(documents_path(second))]
    assert read(first)["results"] != before[0]["results"]
    second.unlink()
    assert Evaluator(layout, embedded()).evaluate(checkpoints[1], "embedded") == second
    after = [read(second), read(documents_path(second))]
    assert [{k: v for k, v in part.items() if k not in CLOCK} for part in before] == [
        {k: v for k, v in part.items() if k not in CLOCK} for part in after
    ]


def test_ids_do_not_depend_on_where_outputs_are(layout: Layout, checkpoints: list[Path], tmp_path: Path) -> None:
    suite = embedded().suites["embedded"]
    before = checkpoint_evaluation_id(checkpoints[0], suite, "fp32", layout)
    moved = Layout(layout.root.rename(tmp_path / "moved"))
    checkpoint = moved.root / checkpoints[0].relative_to(layout.root)
    assert checkpoint_evaluation_id(checkpoint, suite, "fp32", moved) == before


def test_a_valid_result_is_left_alone(layout: Layout, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = Evaluator(layout, embedded()).evaluate(checkpoints[0], "embedded")
    before = path.read_bytes()
    monkeypatch.setattr(tasks_module, "score_task", lambda *_: pytest.fail("scored again"))
    assert Evaluator(layout, embedded()).evaluate(checkpoints[0], "embedded") == path
    assert path.read_bytes() == before


def test_a_failing_task_is_named_and_nothing_written(
    layout: Layout, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.evaluate.lm import WorkbenchLM

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("\n  out of memory\nand much more\n")

    monkeypatch.setattr(WorkbenchLM, "loglikelihood_rolling", fail)
    threads = torch.get_num_threads()
    with pytest.raises(EvaluationError) as caught:
        Evaluator(layout, embedded(), threads=threads + 1).evaluate(checkpoints[0], "embedded")
    assert str(caught.value) == "evaluation of heldout_code failed: RuntimeError: out of memory"
    assert not (checkpoints[0] / "evals").exists()
    assert torch.get_num_threads() == threads


def test_an_unreachable_hub_is_one_line(
    layout: Layout, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def unreachable(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise ConnectionError("Couldn't reach 'super_glue' on the Hub (ConnectionError)\nTraceback ...")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    hub = EvaluationConfig(suites={"hub": SuiteConfig(name="hub", tasks=["boolq"], num_fewshot=0)})
    assert pending(checkpoints[:1], hub, layout) == [(checkpoints[0], "hub")]
    reason = "evaluation of boolq failed: ConnectionError: Couldn't reach 'super_glue' on the Hub (ConnectionError)"
    evaluator = Evaluator(layout, hub)
    for checkpoint in checkpoints:
        with pytest.raises(EvaluationError) as caught:
            evaluator.evaluate(checkpoint, "hub")
        assert str(caught.value) == reason
    assert len(tries) == 1


def test_a_hub_task_is_scored(layout: Layout, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's own task files over a data set in the hub's form, with examples before each question."""
    rows = [{"question": f"is {i} even", "passage": f"The number {i}.", "idx": i, "label": i % 2} for i in range(10)]
    data = datasets.DatasetDict({s: datasets.Dataset.from_list(rows) for s in ("train", "validation")})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    suite = SuiteConfig(name="hub", tasks=["boolq"], num_fewshot=1, limit=6)
    path = Evaluator(layout, EvaluationConfig(suites={"hub": suite})).evaluate(checkpoints[0], "hub")
    result = read(path)
    assert result["n-shot"] == {"boolq": 1}
    assert result["n-samples"] == {"boolq": {"original": 10, "effective": 6}}
    correct = read(documents_path(path))["boolq"]["correct"]
    assert result["results"]["boolq"]["acc,none"] == pytest.approx(sum(correct) / 6)


def test_examples_before_held_out_text_are_refused(layout: Layout, checkpoints: list[Path]) -> None:
    with pytest.raises(EvaluationError, match="heldout_code failed: ValueError: num_fewshot=2"):
        Evaluator(layout, embedded(num_fewshot=2)).evaluate(checkpoints[0], "embedded")


@pytest.mark.parametrize("damage", ["manifest.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_named(layout: Layout, checkpoints: list[Path], damage: str) -> None:
    (checkpoints[0] / damage).write_text("{")
    with pytest.raises(EvaluationError, match=r"checkpoint .*step_00000001") as caught:
        Evaluator(layout, embedded()).evaluate(checkpoints[0], "embedded")
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_of_the_weights_is_found(layout: Layout, checkpoints: list[Path]) -> None:
    path = checkpoints[0] / "model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-5] ^= 1
    path.write_bytes(weights)
    with pytest.raises(EvaluationError, match=r"damaged: model\.safetensors does not match its checksum"):
        Evaluator(layout, embedded()).evaluate(checkpoints[0], "embedded")


@pytest.mark.parametrize("damage", [None, "manifest.json", "model.safetensors"])
def test_the_next_checkpoint_is_checked_while_another_is_scored(
    layout: Layout, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    monkeypatch.setattr(checked_ahead, "LEAST_BYTES", 1)
    first, second = checkpoints[:2]
    if damage:
        (second / damage).write_text("{")
    evaluator = Evaluator(layout, embedded())
    evaluator.evaluate(first, "embedded", second)
    assert [folder.name for folder in evaluator._checks._begun] == ([] if damage == "manifest.json" else [second.name])
    if damage:
        with pytest.raises(EvaluationError, match=second.name):
            evaluator.evaluate(second, "embedded")
    else:
        path = evaluator.evaluate(second, "embedded")
        ahead = read(path)["results"]
        path.unlink()
        assert read(Evaluator(layout, embedded()).evaluate(second, "embedded"))["results"] == ahead


def test_the_next_checkpoint_is_another_one() -> None:
    one, two, three = (Path(name) for name in ("one", "two", "three"))
    pairs = [(one, "a"), (one, "b"), (two, "a"), (two, "b"), (three, "a")]
    assert [next_checkpoint(pairs, place) for place in range(5)] == [two, two, three, three, None]


def test_missing_data_is_said(layout: Layout, checkpoints: list[Path]) -> None:
    layout.data(DATA).rename(layout.root / "elsewhere")
    with pytest.raises(EvaluationError, match="workbench prepare"):
        pending(checkpoints, embedded(), layout)


def test_an_unknown_suite_is_refused(layout: Layout, checkpoints: list[Path]) -> None:
    with pytest.raises(EvaluationError, match="'commonsense' is not an evaluation suite; the suites are embedded"):
        Evaluator(layout, embedded()).evaluate(checkpoints[0], "commonsense")


def test_planning_imports_neither_torch_nor_lm_eval() -> None:
    import subprocess
    import sys

    code = (
        "import sys, workbench.evaluate.reconcile; print(sorted({'torch', 'lm_eval', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def write_task(folder: Path, rows: list[dict[str, Any]]) -> EvaluationConfig:
    """Suite of one task over a local file, a row a document: context and target."""
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "odd.yaml").write_text(
        "task: odd  # named in the suite\ndataset_path: json\ndataset_kwargs:\n"
        f"  data_files: {{test: {folder / 'rows.jsonl'}}}\ntest_split: test\noutput_type: loglikelihood\n"
        'doc_to_text: context\ndoc_to_target: target\ntarget_delimiter: ""\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    return EvaluationConfig(suites={"odd": SuiteConfig(name="odd", tasks=["odd"], include_path=str(folder))})


def test_a_merging_continuation_is_scored_and_counted(layout: Layout, checkpoints: list[Path], tmp_path: Path) -> None:
    config = write_task(tmp_path / "tasks", [{"context": "retur", "target": "n"}, {"context": "a", "target": " b"}])
    result = read(Evaluator(layout, config).evaluate(checkpoints[0], "odd"))
    assert result["n-samples"]["odd"] == {"original": 2, "effective": 2}
    assert result["encoded_alone"] == {"odd": 1}


def test_a_changed_data_file_is_pending_and_read_again(layout: Layout, checkpoints: list[Path], tmp_path: Path) -> None:
    """Also by an evaluator that has kept the task's documents."""
    config = write_task(tmp_path / "tasks", [{"context": "a", "target": " b"}])
    evaluator = Evaluator(layout, config)
    evaluator.evaluate(checkpoints[0], "odd")
    assert pending(checkpoints[:1], config, layout) == []
    rows = tmp_path / "tasks" / "rows.jsonl"
    rows.write_text(rows.read_text() * 3)
    assert pending(checkpoints[:1], config, layout) == [(checkpoints[0], "odd")]
    assert read(evaluator.evaluate(checkpoints[0], "odd"))["n-samples"]["odd"]["original"] == 3
    assert pending(checkpoints[:1], config, layout) == []


def test_a_document_that_cannot_be_scored_is_named(layout: Layout, checkpoints: list[Path], tmp_path: Path) -> None:
    config = write_task(tmp_path / "tasks", [{"context": "a", "target": " b"}, {"context": "c", "target": ""}])
    with pytest.raises(
        EvaluationError, match=r"^evaluation of odd failed: ValueError: document 1 of task odd: .* 'c', ''"
    ):
        Evaluator(layout, config).evaluate(checkpoints[0], "odd")
