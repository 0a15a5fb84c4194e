"""Ids change with what is asked and with nothing else."""

import importlib.metadata
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.evaluate.conftest import EMBEDDED_TASKS
from workbench.config.schema import EvaluationConfig, SuiteConfig, from_dict
from workbench.evaluate import suite as suite_module
from workbench.evaluate.suite import EMBEDDED, EvaluationError, evaluation_id, resolve_suite
from workbench.evaluate.task_files import lm_eval_files

CONF = Path(__file__).parents[2] / "conf" / "evaluation"
HUB = SuiteConfig(name="hub", tasks=["hellaswag", "boolq", "arc_easy"])
SOURCES = ["code", "prose"]


@pytest.fixture
def suite(tmp_path: Path) -> SuiteConfig:
    """The embedded suite, in a folder that may be changed."""
    shutil.copytree(EMBEDDED, tmp_path / "suites", ignore=shutil.ignore_patterns("__pycache__"))
    return SuiteConfig(name="mine", tasks=EMBEDDED_TASKS, include_path=str(tmp_path / "suites"))


def id_of(suite: SuiteConfig, precision: str = "fp32", heldout: str = "h0", sources: list[str] = SOURCES) -> str:
    return evaluation_id(suite, precision, heldout, sources)


def test_id_is_sixteen_hexadecimal_digits(suite: SuiteConfig) -> None:
    assert len(id_of(suite)) == 16
    assert int(id_of(suite), 16) >= 0


def test_id_changes_with_the_question(suite: SuiteConfig) -> None:
    ids = [
        id_of(suite),
        id_of(replace(suite, limit=8)),
        id_of(replace(suite, num_fewshot=0)),
        id_of(replace(suite, num_fewshot=5)),
        id_of(replace(suite, tasks=EMBEDDED_TASKS[:2])),
        id_of(suite, precision="bf16"),
        id_of(suite, heldout="h1"),
        id_of(suite, sources=["code"]),
    ]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("file", ["heldout_last_word.yaml", "documents.py"])
def test_id_changes_with_task_files_and_their_code(suite: SuiteConfig, file: str) -> None:
    before = id_of(suite)
    path = Path(str(suite.include_path)) / file
    path.write_text(path.read_text().replace("320", "321") + "# changed\n")
    assert id_of(suite) != before


def test_id_changes_with_a_task_version(suite: SuiteConfig) -> None:
    before = id_of(suite)
    path = Path(str(suite.include_path)) / "heldout.yaml"
    path.write_text(path.read_text().replace("version: 1.0", "version: 2.0"))
    assert id_of(suite) != before


def test_id_changes_with_lm_evals_version(suite: SuiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = id_of(suite), id_of(HUB)
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.4.14")
    assert id_of(suite) != before[0]
    assert id_of(HUB) != before[1]


def test_id_changes_with_the_adapter(suite: SuiteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = id_of(suite)
    monkeypatch.setattr(suite_module, "ADAPTER_VERSION", suite_module.ADAPTER_VERSION + 1)
    assert id_of(suite) != before


def test_id_ignores_place_name_and_batch_size(suite: SuiteConfig, tmp_path: Path) -> None:
    moved = shutil.copytree(str(suite.include_path), tmp_path / "elsewhere")
    (moved / "__pycache__").mkdir()
    same = [
        replace(suite, include_path=str(moved)),
        replace(suite, include_path="embedded"),
        replace(suite, name="other"),
        replace(suite, batch_tokens=64),
    ]
    assert {id_of(s) for s in same} == {id_of(suite)}


def test_hub_ids_need_neither_data_nor_held_out_text() -> None:
    assert id_of(HUB, heldout="h0", sources=[]) == id_of(HUB, heldout="h1", sources=SOURCES)
    assert id_of(HUB) != id_of(replace(HUB, num_fewshot=3))


def test_nothing_hashed_is_an_absolute_path(suite: SuiteConfig) -> None:
    for asked in (suite, HUB):
        for spec in resolve_suite(asked, SOURCES):
            assert str(spec.path.parent) not in str(spec.config)
            assert "/home/" not in str(spec.config)


def test_templates_stand_for_each_source() -> None:
    embedded = SuiteConfig(name="e", tasks=["heldout_{source}", "heldout_code_last_word"], include_path="embedded")
    specs = resolve_suite(embedded, SOURCES)
    assert [(s.name, s.source) for s in specs] == [
        ("heldout_code", "code"),
        ("heldout_prose", "prose"),
        ("heldout_code_last_word", "code"),
    ]
    assert [s.config["dataset_kwargs"]["source"] for s in specs] == ["code", "prose", "code"]


def test_includes_are_merged(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("output_type: multiple_choice\nnum_fewshot: 2\n")
    (tmp_path / "one.yaml").write_text("include: base.yaml\ntask: one\nnum_fewshot: 3\n")
    (spec,) = resolve_suite(SuiteConfig(name="s", tasks=["one"], include_path=str(tmp_path)), [])
    assert spec.config == {"task": "one", "output_type": "multiple_choice", "num_fewshot": 3}


@pytest.mark.parametrize(
    "line",
    [
        "task: one  # a comment",
        "task : one",
        "'task': \"one\"",
        "{task: one, num_fewshot: 0}",
        "task: >-\n  one",
        "? task\n: one",
        "doc_to_text: !function utils.text\ntask: one",
    ],
)
def test_tasks_are_found_as_yaml_says(tmp_path: Path, line: str) -> None:
    (tmp_path / "one.yaml").write_text(line + "\n")
    (tmp_path / "group.yaml").write_text("group: both\ntask:\n  - one\n  - task: two\n    num_fewshot: 0\n")
    (tmp_path / "doc.yaml").write_text("description: |\n  says\n\n  task: three\n")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "one-checkpoint.yaml").write_text("task: one\n")
    (spec,) = resolve_suite(SuiteConfig(name="s", tasks=["one"], include_path=str(tmp_path)), [])
    assert (spec.name, spec.path) == ("one", tmp_path / "one.yaml")
    for name, reason in {
        "both": r"'both' is a group: name its tasks one by one \(one, two\)$",
        "two": "'two' is not a task of",
        "three": "'three' is not a task of",
    }.items():
        with pytest.raises(EvaluationError, match=reason):
            resolve_suite(SuiteConfig(name="s", tasks=[name], include_path=str(tmp_path)), [])


def test_a_task_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("task: one\n")
    with pytest.raises(EvaluationError, match=r"'one' is in .*a\.yaml and in .*b\.yaml$"):
        resolve_suite(SuiteConfig(name="s", tasks=["one"], include_path=str(tmp_path)), [])


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("task: one\n\tbroken: [\n")
    with pytest.raises(EvaluationError, match=r"one\.yaml is not valid YAML: .*line 2") as caught:
        resolve_suite(SuiteConfig(name="s", tasks=["one"], include_path=str(tmp_path)), [])
    assert "\n" not in str(caught.value)


def test_lm_evals_tasks_are_found_behind_quotes_and_comments() -> None:
    files = lm_eval_files()
    assert len(files) > 13_000
    for name in ("hellaswag", "aclue_poetry_appreciate", "mmlusr_answer_only_global_facts", "mmlu_anatomy"):
        assert name in files, name
    assert not [name for name in files if "#" in name or '"' in name]


@pytest.mark.parametrize(
    ("suite", "reason"),
    [
        (SuiteConfig(name="s", tasks=["hellaswagg"]), "'hellaswagg' is not a task of lm-eval"),
        (SuiteConfig(name="s", tasks=["heldout_latin"], include_path="embedded"), "'heldout_latin' is not a task"),
        (SuiteConfig(name="s", tasks=["x"], include_path="/nowhere"), "include_path='/nowhere' is not a folder"),
    ],
)
def test_unknown_tasks_and_folders_are_refused(suite: SuiteConfig, reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason) as caught:
        id_of(suite)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_in_conf_has_tasks(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    assert values.pop("defaults") == ["base_evaluation", "_self_"]
    evaluation = from_dict(EvaluationConfig, values)
    for suite in evaluation.suites.values():
        assert len(resolve_suite(suite, SOURCES)) >= len(suite.tasks)
