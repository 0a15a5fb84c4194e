from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from workbench.data.readers import read_texts, text_of


def test_missing_null_and_wrong_type_are_three_messages():
    def message(record, field="text"):
        with pytest.raises(ValueError, match=r"^x, row 7: ") as caught:
            text_of(record, field, "x, row 7")
        return str(caught.value).removeprefix("x, row 7: ")

    assert message({"body": "b"}) == "no field 'text' (there: body); set the source's text_field"
    assert message({}) == "no field 'text' (there: nothing); set the source's text_field"
    assert message({"text": None}) == "field 'text' is null: leave such records out of the file"
    assert message({"text": 3}) == "field 'text' is a number, not text; set the source's text_field"
    assert message({"text": True}).startswith("field 'text' is true or false, not text")
    assert message({"text": {"en": "x"}}).startswith("field 'text' is an object, not text")
    assert message(["text"]) == "a list, not an object with the field 'text'"
    assert message({"meta": {"url": "u", "by": {"x": 1}}}, "meta.text") == (
        "no field 'meta.text' (there: meta.url, meta.by.x); set the source's text_field"
    )


@pytest.mark.parametrize(
    ("record", "field", "expected"),
    [
        ({"meta": {"text": "inner"}}, "meta.text", "inner"),
        ({"meta": {"text": "inner"}, "meta.text": "outer"}, "meta.text", "outer"),
        ({"a.b": {"c": "x"}}, "a.b.c", "x"),
        ({"a": {"b.c": "x"}}, "a.b.c", "x"),
        ({"a": {"d": "no"}, "a.b": {"c": "x"}}, "a.b.c", "x"),
        ({".": "x"}, ".", "x"),
    ],
)
def test_names_with_dots_reach_into_objects_unless_a_field_has_the_name(record, field, expected, tmp_path: Path):
    assert text_of(record, field, "x") == expected
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    assert list(read_texts("jsonl", tmp_path / "a.jsonl", field)) == [expected]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record]), tmp_path / "a.parquet")
    assert list(read_texts("parquet", tmp_path / "a.parquet", field)) == [expected]


def test_rows_are_counted_over_batches_and_row_groups(tmp_path: Path):
    texts: list[str | None] = [f"text {i}" for i in range(2500)]
    texts[2345] = None
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", row_group_size=700)
    with pytest.raises(ValueError, match=r"a\.parquet, row 2346: field 'text' is null"):
        list(read_texts("parquet", tmp_path / "a.parquet", "text"))
