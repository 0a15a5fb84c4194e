"""What counts as a result."""

import json
from pathlib import Path

import pytest

from workbench.study.evaluation_files import check_result, documents_path, read_result, write_result

RESULT = {"eval_id": "e0", "results": {"t": {"acc,none": 0.5}}}
DOCUMENTS = {"t": {"doc_id": ["a", "b"], "correct": [0, 1]}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "evals" / "s-e0.json"
    write_result(path, RESULT, DOCUMENTS)
    result = read_result(path, "e0")
    assert result is not None
    assert RESULT.items() <= result.items()
    assert json.loads(documents_path(path).read_text()) == DOCUMENTS
    assert sorted(p.name for p in path.parent.iterdir()) == ["s-e0.documents.json", "s-e0.json"]


def test_damaged_results_are_none(tmp_path: Path) -> None:
    path = tmp_path / "s-e0.json"
    write_result(path, RESULT, DOCUMENTS)
    whole, columns = path.read_text(), documents_path(path).read_text()
    assert read_result(path, "e1") is None
    for damaged in (whole[:-20], "", "[]", whole.replace("0.5", "0.6"), "null"):
        path.write_text(damaged)
        assert read_result(path, "e0") is None, damaged
    path.write_text(whole)
    assert read_result(path, "e0") is not None
    documents_path(path).write_text(columns[:-3])
    assert read_result(path, "e0") is None
    documents_path(path).unlink()
    assert read_result(path, "e0") is None


def test_the_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s-e0.json"
    write_result(path, RESULT, DOCUMENTS)
    whole = path.read_text()
    path.write_text(whole.replace("0.5", "0.6"))
    with pytest.raises(ValueError, match=r"s-e0\.json is damaged: it does not match its checksum"):
        check_result(path)
    path.write_text(whole)
    documents_path(path).write_text("{}")
    with pytest.raises(ValueError, match=r"s-e0\.documents\.json is damaged"):
        check_result(path)
