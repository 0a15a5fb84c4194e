"""Conversations of files: what is read, what is dropped and why, and what is an error that says where."""

import gzip
import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from workbench.config.schema import ChatDataConfig, from_dict, to_dict
from workbench.data.conversations import find_files, read_conversations

USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
ALPACA = {"instruction": "instruction", "input": "input", "response": "output"}


def chat(*messages, name="messages"):
    return {name: list(messages)}


def write(folder, *records):
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def read(path, kind="jsonl", **settings):
    dropped = Counter()
    config = ChatDataConfig("chat", [str(path)], kind=kind, **settings)
    found = list(read_conversations(config, lambda _, cause: dropped.update([cause])))
    return [[(m.role, m.content) for m in c.messages] for c in found], dropped, found


def test_messages_of_either_form(tmp_path):
    sharegpt = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": " Because.\n"}
    path = write(tmp_path, chat({"role": "system", "content": "Be brief."}, USER, ASSISTANT), chat(*sharegpt))
    conversations, dropped, found = read(path)
    assert conversations == [
        [("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")],
        [("user", "Why?"), ("assistant", "Because.")],
    ]
    assert not dropped
    assert [c.where for c in found] == [f"{path}, line 1", f"{path}, line 2"]
    assert found[0].key == found[1].key
    assert found[0].digest != found[1].digest


def test_columns(tmp_path):
    path = write(
        tmp_path,
        {"instruction": "Sum.", "input": "1 2", "output": "3"},
        {"instruction": "Sing.", "input": "", "output": "La"},
        {"instruction": "Sing.", "input": None, "output": "La", "sys": "x"},
    )
    conversations, _, _ = read(path, fields={**ALPACA, "system": "sys"})
    assert conversations == [
        [("user", "Sum.\n\n1 2"), ("assistant", "3")],
        [("user", "Sing."), ("assistant", "La")],
        [("system", "x"), ("user", "Sing."), ("assistant", "La")],
    ]


def test_a_system_prompt_is_given_to_those_without(tmp_path):
    path = write(tmp_path, chat(USER, ASSISTANT), chat({"role": "system", "content": "Own."}, USER, ASSISTANT))
    conversations, _, _ = read(path, system_prompt="Given. ")
    assert [c[0] for c in conversations] == [("system", "Given."), ("system", "Own.")]


def test_an_unanswered_turn_is_left_out(tmp_path):
    assert read(write(tmp_path, chat(USER, ASSISTANT, USER)))[0] == [[("user", "Why?"), ("assistant", "Because.")]]


@pytest.mark.parametrize(
    ("messages", "cause"),
    [
        ([USER], "no_assistant"),
        ([], "no_assistant"),
        ([USER, {"role": "assistant", "content": " \n"}], "empty_turn"),
        ([USER, {"role": "assistant", "content": None}], "empty_turn"),
        ([USER, {"role": "tool", "content": "x"}, ASSISTANT], "unknown_role"),
        ([ASSISTANT, USER, ASSISTANT], "role_order"),
        ([USER, USER, ASSISTANT], "role_order"),
        ([USER, {"role": "system", "content": "x"}, ASSISTANT], "role_order"),
    ],
)
def test_dropped_and_counted(tmp_path, messages, cause):
    conversations, dropped, _ = read(write(tmp_path, chat(*messages), chat(USER, ASSISTANT)))
    assert len(conversations) == 1
    assert dropped == {cause: 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [', r"line 2 is not JSON"),
        ("[1]", r"line 2: a list, not an object with the field 'messages'"),
        ('{"text": "x"}', r"line 2: no field 'messages' \(there: text\); set chat.fields"),
        ('{"messages": "x"}', r"line 2: field 'messages' is a string, not a list of messages"),
        ('{"messages": ["x"]}', r"line 2: messages\[0\] is a string, not an object with role and content"),
        ('{"messages": [{"role": "user"}]}', r"line 2: messages\[0\]: no field 'content' \(there: role\)"),
        ('{"messages": [{"role": 1, "content": "x"}]}', r"line 2: messages\[0\].role is a number, not a role"),
        ('{"messages": [{"role": "user", "content": [1]}]}', r"line 2: field 'messages\[0\].content' is a list"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"line 2: field .* lone surrogate .ud800"),
    ],
)
def test_malformed_lines_are_errors_with_file_and_line(tmp_path, line, message):
    path = write(tmp_path, chat(USER, ASSISTANT))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"chat\.jsonl, " + message) as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_packed_files_and_parquet_are_the_same(tmp_path):
    records = [chat({"role": "system", "content": "s"}, USER, ASSISTANT), chat(USER, ASSISTANT)]
    plain = write(tmp_path, *records)
    expected = read(plain)[0]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(plain.read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    assert read(tmp_path / "a.jsonl.gz")[0] == read(tmp_path / "a.jsonl.zst")[0] == expected
    conversations, _, found = read(tmp_path / "a.parquet", kind="parquet")
    assert conversations == expected
    assert found[1].where == f"{tmp_path / 'a.parquet'}, row 2"
    mixed = [chat({"from": "human", "value": "Why?", "role": None}, {"from": "gpt", "value": "So."}, name="c.d")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(mixed), tmp_path / "b.parquet")
    assert len(read(tmp_path / "b.parquet", kind="parquet", fields={"messages": "c.d"})[0]) == 1


def test_a_missing_column_of_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet, row 1: no field 'messages' \(there: a\)"):
        read(tmp_path / "a.parquet", kind="parquet")


def test_files(tmp_path):
    path = write(tmp_path, chat(USER, ASSISTANT))
    with pytest.raises(ValueError, match=r"nothing\.jsonl is not there"):
        read(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match=r"chat.files=.* twice"):
        find_files(ChatDataConfig("chat", [str(path), str(tmp_path)]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": []}, r"chat.files=\[\]: name at least one"),
        ({"kind": "csv"}, r"chat.kind='csv' is not one of jsonl, parquet"),
        ({"fields": {"messages": "m", "response": "r"}}, r"chat.fields=.* must name messages alone, or"),
        ({"fields": {"instruction": "i"}}, r"chat.fields=.* must name messages alone, or"),
        ({"fields": {"messages": ""}}, r"a field of the records has no name"),
        ({"system_prompt": " "}, r"chat.system_prompt=' ' is blank"),
        ({"template": "alpaca"}, r"chat.template='alpaca' is not one of llama2"),
        ({"template_date": "1 May"}, r"chat.template_date='1 May' is what a tokenizer's own template prints"),
        ({"template": "tokenizer", "template_date": " "}, r"chat.template_date=' ' .* set it to a date"),
        ({"begin": "eos"}, r"chat.begin='eos' is not one of bos, template"),
        ({"packing": "yes"}, r"chat.packing='yes'"),
        ({"too_long": "keep"}, r"chat.too_long='keep'"),
        ({"heldout_percent": 100}, r"chat.heldout_percent=100 must be"),
        ({"max_epochs": 0.0}, r"chat.max_epochs=0.0 must be"),
    ],
)
def test_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ChatDataConfig(**{"name": "chat", "files": ["a"], **settings})


def test_settings_go_through_plain_values():
    config = ChatDataConfig("chat", ["a", "b"], fields=ALPACA)
    assert from_dict(ChatDataConfig, to_dict(config)) == config
