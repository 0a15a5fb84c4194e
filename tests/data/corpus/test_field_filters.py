"""Filters by fields: record by record, and the same by whole columns."""

import datetime
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workbench.data.corpus.field_filters import columns_read, compile_filter
from workbench.data.corpus.filter_columns import Unsupported, judge_columns

RECORD = {
    "text": "Grüße",
    "stars": 2,
    "share": 0.5,
    "ok": True,
    "tags": ["a", "b", 3],
    "empty": None,
    "meta": {"set": "Books", "deep": {"er": 1}, "content-type": "html"},
}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("meta.set == 'Books'", True),
        ("meta.set != 'Books'", False),
        ("meta.deep.er >= 1 and stars > 1.5", True),
        ("'Books' == meta.set", True),
        ("3 > stars", True),
        ("stars < share", False),
        ("len(text) == 5", True),
        ("len(tags) in [3]", True),
        ("ok", True),
        ("not ok or ok == false", False),
        ("tags contains 'b'", True),
        ("tags contains 3", True),
        ("tags contains true", False),
        ("text contains 'üß'", True),
        ("text matches '^G.*e$'", True),
        ("text matches '^r'", False),
        ("meta.`content-type` in ['html', 'text']", True),
        ("stars in [1, 2]", True),
        ("stars not in [1, 2]", False),
        ("gone == 1", False),
        ("gone != 1", False),
        ("not gone == 1", True),
        ("meta.deep.gone.further == 1", False),
        ("has(meta.deep.er)", True),
        ("has(empty) or has(gone) or has(meta.gone)", False),
        ("empty == null and gone == null and stars != null", True),
        ("ok or ok and gone", True),
    ],
)
def test_record(text, kept):
    assert compile_filter(text)(RECORD) is kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stars == '2'", "a.jsonl:7: field stars is number 2 and cannot be compared with text '2' (filter"),
        ("'2' == stars", "field stars is number 2 and cannot be compared with text '2'"),
        ("stars == true", "field stars is number 2 and cannot be compared with boolean True"),
        ("stars < text", "field stars is number 2 and cannot be compared with text 'Grüße'"),
        ("meta == 'x'", "field meta is object {'set': 'Books', 'deep': {'er': 1}, '..., which == does not compare"),
        ("ok < ok", "field ok is boolean True, which < does not compare"),
        ("stars", "field stars is number 2, and the condition is for a boolean"),
        ("stars in ['2']", "field stars is number 2, and the condition is for a text"),
        ("stars matches 'x'", "field stars is number 2, and the condition is for a text"),
        ("stars contains 'x'", "field stars is number 2, and the condition needs a text or a list"),
        ("text contains 3", "field text is text 'Grüße', and the condition needs a list"),
        ("len(stars) > 3", "len(stars) needs a text or a list, and stars is number 2"),
        ("text.length > 3", "field text is text 'Grüße', so it has no 'length'"),
        ("ok or stars == '2'", "field stars is number 2"),
    ],
)
def test_wrong_types_name_field_and_record(text, message):
    with pytest.raises(ValueError, match="filter") as error:
        compile_filter(text)(RECORD, "a.jsonl:7")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_field_is_counted_unless_asked_for():
    assert compile_filter("meta.x > 3").cause({"meta": {}}) == "missing_field"
    assert compile_filter("meta.x > 3").cause({"meta": {"x": 1}}) == "field_filter"
    assert compile_filter("meta.x > 3").cause({"meta": {"x": 4}}) is None
    assert compile_filter("has(x) and x > 3").cause({}) == "field_filter"
    assert compile_filter("x != null and x > 3").cause({}) == "field_filter"
    assert compile_filter("x > 3 or y").cause({"y": True}) is None


def test_fields_and_columns(tmp_path):
    text = "meta.set != 'x' and len(text) > 3 and not has(meta.`a b`) and (1 < stars or ok) and tags contains 'x'"
    assert compile_filter(text).fields == ("meta.a b", "meta.set", "ok", "stars", "tags", "text")
    assert columns_read(text) == {"meta", "text", "stars", "ok", "tags"}
    pq.write_table(pa.Table.from_pylist([{**RECORD, "tags": ["x"]}]), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet", columns=sorted(columns_read(text)))
    assert compile_filter(text).keeps(table).tolist() == [True]


FIELDS = {
    "n": lambda r: r.choice([-1, 0, 2, 2**53 + 1, -(2**63)]),
    "u": lambda r: r.choice([0, 2, 2**64 - 1]),
    "f": lambda r: r.choice([0.0, -0.0, 0.1, 2.0, float("nan"), float("inf"), 2.0**53]),
    "s": lambda r: r.choice(["", "a", "ab", "ä", "\U0001f600", "\uffff", "A\n"]),
    "b": lambda r: r.choice([True, False]),
    "t": lambda r: r.sample(["a", "b", "c"], r.randrange(4)),
    "m.n": lambda r: r.randrange(3),
    "m.d.s": lambda r: r.choice(["x", "y"]),
}
TYPES = pa.schema(
    {
        "n": pa.int64(), "u": pa.uint64(), "f": pa.float64(), "s": pa.string(), "b": pa.bool_(), "t": pa.list_(pa.string()),
        "m": pa.struct({"n": pa.int8(), "d": pa.struct({"s": pa.large_string()})}), "z": pa.null(),
    }
)  # fmt: skip
NUMBERS = ["0", "2", "2.0", "0.1", "-1", "1e300", str(2**53 + 1), str(2**64), "1e308"]
TEXTS = ["''", "'a'", "'ä'", "'\uffff'", "'x'"]


def random_record(r):
    record = {"m": {"d": {}}}
    for name, value in FIELDS.items():
        *way, last = name.split(".")
        place = record
        for key in way:
            place = place[key]
        place[last] = None if r.random() < 0.2 else value(r)
    if r.random() < 0.1:
        record["m"]["d"] = None
    if r.random() < 0.1:
        record["m"] = None
    return record


def random_condition(r):
    sign = r.choice(["==", "!=", "<", "<=", ">", ">="])
    number = r.choice(["n", "u", "f", "m.n", "len(s)", "len(t)", "gone", "m.gone", "z", "z.a"])
    text = r.choice(["s", "m.d.s", "gone.x"])
    wrong = r.random() < 0.03
    value, other = r.choice(NUMBERS), r.choice(TEXTS)
    return r.choice(
        [
            f"{number} {sign} {other if wrong and 'len' not in number else value}",
            f"{value} {sign} {number}",
            f"{number} {sign} {r.choice(['n', 'u', 'f'])}",
            f"{number} in [{', '.join(r.sample(NUMBERS, 2))}]",
            f"{text} {sign} {other}",
            f"{text} in [{', '.join(r.sample(TEXTS, 2))}]",
            f"{text} contains {other}",
            f"{text} matches '^.$'",
            f"t contains {other}",
            f"has({r.choice([*FIELDS, 'z', 'gone.x', 'm', 'm.d'])})",
            f"{r.choice([*FIELDS, 'z', 'gone.x'])} {r.choice(['==', '!='])} null",
            "b",
            f"b {r.choice(['==', '!='])} {r.choice(['true', 'false'])}",
            *(["n", "m < 3", "s.x == 1"] if wrong else []),
        ]
    )


def random_expression(r, depth=3):
    if depth == 0 or r.random() < 0.3:
        return random_condition(r)
    if r.random() < 0.2:
        return f"not ({random_expression(r, depth - 1)})"
    return f"({random_expression(r, depth - 1)}) {r.choice(['and', 'or'])} ({random_expression(r, depth - 1)})"


def outcome(function):
    try:
        return function()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(400))
def test_columns_agree_with_records(seed):
    """400 random expressions, each over 30 random records in one to three chunks; errors are the same too."""
    r = random.Random(seed)
    records = [random_record(r) for _ in range(30)]
    cuts = sorted(r.sample(range(31), 2))
    chunks = [records[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
    table = pa.concat_tables([pa.Table.from_pylist(chunk, TYPES) for chunk in chunks])
    found = compile_filter(random_expression(r))
    rows = table.to_pylist()
    expected = outcome(lambda: [found.cause(row, f"t, row {i}") for i, row in enumerate(rows)])
    assert outcome(lambda: found.causes(table, "t")) == expected
    if isinstance(expected, list):
        assert found.keeps(table.combine_chunks().to_batches()[0]).tolist() == [cause is None for cause in expected]


def test_common_conditions_are_tested_by_columns():
    """So that the agreement above is not that of one function with itself."""
    table = pa.Table.from_pylist([RECORD | {"tags": ["a"]}])
    for text in (
        "stars > 1",
        "2.0 >= stars",
        "share < 1",
        "len(text) > 1",
        "meta.set in ['a']",
        "stars in [1, 2]",
        "ok",
    ):
        judge_columns(compile_filter(text).node, table)
    for text in (
        "text contains 'x'",
        "meta.set == 'x'",
        "has(meta.gone)",
        "empty == null",
        "gone == null",
        "ok != true",
    ):
        judge_columns(compile_filter(text).node, table)
    for text in ("text matches 'x'", "stars < 1.5", "tags contains 'a'", "stars == 'x'", "stars < share"):
        with pytest.raises(Unsupported):
            judge_columns(compile_filter(text).node, table)


def test_dictionaries_and_dates():
    dates = pa.array([datetime.date(2024, 1, 1)])
    table = pa.table({"lang": pa.array(["en"]).dictionary_encode(), "day": dates})
    assert compile_filter("lang == 'en' and has(day)").keeps(table).tolist() == [True]
    with pytest.raises(ValueError, match=r"t, row 0: field day is date datetime.date\(2024, 1, 1\), which > does"):
        compile_filter("day > '2023'").keeps(table, "t")


def test_an_empty_table():
    assert compile_filter("n == 1 and s matches 'x' and gone").causes(TYPES.empty_table()) == []
