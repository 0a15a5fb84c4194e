"""An evaluation's id changes with the content of local data files, and with nothing else about them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from workbench.config.schema import SuiteConfig
from workbench.evaluate.suite import EvaluationError, evaluation_id, task_contents

ROW = json.dumps({"context": "a", "target": " b"}) + "\n"


def write(path: Path, text: str = ROW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def make_suite(folder: Path, **task: Any) -> SuiteConfig:
    write(folder / "one.yaml", yaml.safe_dump({"task": "one", **task}))
    return SuiteConfig(name="s", tasks=["one"], include_path=str(folder))


def id_of(suite: SuiteConfig, sources: list[str] | None = None) -> str:
    return evaluation_id(suite, "fp32", "h0", sources or [])


def places(tmp_path: Path) -> dict[str, tuple[dict[str, Any], Path, Path]]:
    """By kind: a task's fields, a file that counts, and one beside it that does not."""
    data = tmp_path / "data"
    one, two = write(data / "one.jsonl"), write(data / "deep" / "two.jsonl")
    odd, other = write(data / "odd[1].jsonl"), write(tmp_path / "other.jsonl")

    def files(value: Any, **more: Any) -> dict[str, Any]:
        return {"dataset_path": "json", "dataset_kwargs": {"data_files": value, **more}}

    return {
        "str": (files(str(one)), one, two),
        "list": (files([str(two), str(one)]), one, odd),
        "dict": (files({"test": str(one), "train": [str(two)]}), two, odd),
        "glob": (files(str(data / "*.jsonl")), odd, two),
        "deep glob": (files({"test": str(data / "**" / "*.jsonl")}), two, other),
        "name with brackets": (files(str(odd)), odd, one),
        "file URL": (files(f"file://{one}"), one, two),
        "beside a URL": (files(["https://example.org/x.jsonl", str(one)]), one, two),
        "in an archive": (files(f"zip://*.jsonl::{one}"), one, two),
        "data_dir": ({"dataset_path": "parquet", "dataset_kwargs": {"data_dir": str(data)}}, two, other),
        "relative to data_dir": (files("deep/*.jsonl", data_dir=str(data)), two, one),
        "local folder": ({"dataset_path": str(data)}, two, other),
        "files of a local folder": (
            {"dataset_path": str(data), "dataset_kwargs": {"data_files": "*.jsonl"}},
            *(one, two),
        ),
        "folder of a local folder": ({"dataset_path": str(data), "dataset_kwargs": {"data_dir": "deep"}}, two, one),
        "given to a function": (
            {"custom_dataset": "PLACEHOLDER", "dataset_kwargs": {"path": str(one), "name": "x"}},
            *(one, two),
        ),
    }


KINDS = [
    *("str", "list", "dict", "glob", "deep glob", "name with brackets", "file URL", "beside a URL", "in an archive"),
    *("data_dir", "relative to data_dir", "local folder", "files of a local folder", "folder of a local folder"),
    "given to a function",
]


@pytest.mark.parametrize("kind", KINDS)
def test_id_changes_with_the_files_that_are_read(tmp_path: Path, kind: str) -> None:
    task, counted, beside = places(tmp_path)[kind]
    suite = make_suite(tmp_path / "tasks", **task)
    before = id_of(suite)
    write(beside, ROW * 3)
    assert id_of(suite) == before
    write(counted, ROW * 2)
    assert id_of(suite) != before
    write(counted)
    assert id_of(suite) == before
    counted.touch()
    os.utime(counted, ns=(1, 1))
    assert id_of(suite) == before


def test_every_kind_is_tried(tmp_path: Path) -> None:
    assert list(places(tmp_path)) == KINDS


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "beside a URL"])
def test_id_ignores_where_the_files_are(tmp_path: Path, kind: str) -> None:
    ids = [id_of(make_suite(root / "tasks", **places(root)[kind][0])) for root in (tmp_path / "1", tmp_path / "2")]
    assert ids[0] == ids[1]


def test_a_signed_url_is_refused(tmp_path: Path) -> None:
    """Results have the task's fields."""
    url = "https://example.org/x.jsonl?sig=hunter2"
    suite = make_suite(tmp_path, dataset_path="json", dataset_kwargs={"data_files": {"test": url}})
    with pytest.raises(
        EvaluationError, match=r"task 'one': data_files=https://example\.org/x\.jsonl\?\.\.\. holds a signed"
    ):
        id_of(suite)


def test_relative_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = make_suite(tmp_path / "tasks", dataset_path="json", dataset_kwargs={"data_files": "rows.jsonl"})
    write(tmp_path / "tasks" / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        EvaluationError,
        match=rf"suite 's', task 'one': data file 'rows\.jsonl' is not there \(relative paths start at {tmp_path}\)$",
    ):
        id_of(suite)
    monkeypatch.chdir(tmp_path / "tasks")
    assert len(id_of(suite)) == 16


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"data_files": "none-*.jsonl"}, r"data file 'none-\*\.jsonl' is not there"),
        ({"data_dir": "/nowhere"}, "data folder '/nowhere' is not there"),
        ({"data_files": 3}, "data_files=3 is neither a path, a list nor a list of each split"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, task: dict[str, Any], reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason) as caught:
        id_of(make_suite(tmp_path, dataset_path="json", dataset_kwargs=task))
    assert "\n" not in str(caught.value)


def test_templates_read_the_files_of_their_source(tmp_path: Path) -> None:
    files = {"data_files": {"test": [str(tmp_path / "{source}.jsonl")]}}
    write(
        tmp_path / "tasks" / "t.yaml",
        yaml.safe_dump({"task": "t_{source}", "dataset_path": "json", "dataset_kwargs": files}),
    )
    suite = SuiteConfig(name="s", tasks=["t_{source}"], include_path=str(tmp_path / "tasks"))
    write(tmp_path / "code.jsonl"), write(tmp_path / "prose.jsonl")
    before = task_contents(suite, ["code", "prose"])
    write(tmp_path / "prose.jsonl", ROW * 2)
    after = task_contents(suite, ["code", "prose"])
    assert before["t_code"] == after["t_code"]
    assert before["t_prose"] != after["t_prose"]


def test_what_stands_beside_a_function_that_makes_the_data_counts(tmp_path: Path) -> None:
    write(tmp_path / "lib" / "load.py", "def rows(**_):\n    return {}\n")
    rows = write(tmp_path / "lib" / "rows.csv", "a\n")
    write(tmp_path / "lib" / "base.yaml", "custom_dataset: !function load.rows\n")
    suite = make_suite(tmp_path / "tasks", include="../lib/base.yaml")
    before = id_of(suite)
    write(tmp_path / "lib" / "README.md", "words")
    assert id_of(suite) == before
    write(rows, "b\n")
    assert id_of(suite) != before


def test_included_files_and_their_modules_count_wherever_they_are(tmp_path: Path) -> None:
    code = write(tmp_path / "lib" / "utils.py", "def text(doc):\n    return doc\n")
    base = write(tmp_path / "lib" / "base.yaml", "doc_to_text: !function utils.text\ndataset_path: org/name\n")
    suite = make_suite(tmp_path / "tasks", include="../lib/base.yaml")
    before = id_of(suite)
    write(code, code.read_text() + "# changed\n")
    changed = id_of(suite)
    write(base, base.read_text() + "num_fewshot: 1\n")
    assert len({before, changed, id_of(suite)}) == 3


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"one\.yaml includes itself"):
        id_of(make_suite(tmp_path, include="one.yaml"))


GOLDEN = {
    "embedded": "93cb8cb3d84f5dc8",
    "hub": "236cb6df72206506",
    "commonsense": "051ceba4162f7cca",
    "folder": "43a3a7e1bd995a1d",
}
"""Ids under lm-eval 0.4.13: results that stand beside checkpoints are found by them."""


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_without_local_files_are_as_they_were(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = ["heldout_{source}", "heldout_{source}_last_word", "heldout_{source}_continuation"]
    seven = ["hellaswag", "openbookqa", "winogrande", "arc_challenge", "arc_easy", "boolq", "piqa"]
    write(tmp_path / "base.yaml", "output_type: multiple_choice\nnum_fewshot: 2\ndoc_to_text: !function utils.text\n")
    write(tmp_path / "utils.py", "def text(d): return d\n")
    hub = "include: base.yaml\ntask: one\ndataset_path: org/hub_set\ndataset_kwargs: {trust: true}\n"
    write(tmp_path / "one.yaml", hub)
    suite, precision, sources = {
        "embedded": (SuiteConfig(name="e", tasks=embedded, include_path="embedded"), "fp32", ["code", "prose"]),
        "hub": (SuiteConfig(name="hub", tasks=["hellaswag", "boolq", "arc_easy"]), "fp32", ["code", "prose"]),
        "commonsense": (SuiteConfig(name="c", tasks=seven, num_fewshot=0), "bf16", ["code", "prose"]),
        "folder": (SuiteConfig(name="s", tasks=["one"], include_path=str(tmp_path)), "fp32", []),
    }[name]
    monkeypatch.chdir(tmp_path)
    assert evaluation_id(suite, precision, "h0", sources) == GOLDEN[name]
