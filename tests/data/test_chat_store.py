"""Prepared conversations: what is in them, what names them, and the stream over them."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from workbench.config.schema import ChatDataConfig
from workbench.data.chat_store import chat_fingerprint, conversations_name, open_chat, prepare_chat
from workbench.data.chat_stream import ChatStream
from workbench.data.folders import verify_files
from workbench.study.layout import Layout

CONTEXT = 255
USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}


def write(path, conversations):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return path


@pytest.fixture
def config(tmp_path, make_conversations):
    path = write(tmp_path / "chat.jsonl", make_conversations(80))
    return ChatDataConfig("chat", [str(path)], template="zephyr", heldout_percent=10.0)


@pytest.fixture
def store(config, chat_tokenizer, tmp_path):
    return prepare_chat(config, chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))


def everything(store):
    return [store.conversation(i)[0].tolist() for i in range(store.manifest["conversations"])]


def test_the_manifest_counts_what_is_there(store):
    manifest = store.manifest
    rows = [json.loads(line) for line in store.heldout_path.read_text().splitlines()]
    assert manifest["read"] == 80 == manifest["conversations"] + len(rows) + sum(manifest["dropped"].values())
    assert manifest["heldout_conversations"] == len(rows) > 0
    assert manifest["tokens"] == sum(map(len, everything(store))) == store.sizes[:, 0].sum()
    assert manifest["assistant_tokens"] == store.sizes[:, 1].sum() > 0
    assert store.sequences == len(store.sizes) < manifest["conversations"]
    assert (store.context_tokens, store.vocab_size, store.bos_id, store.eos_id) == (CONTEXT, 340, 1, 2)
    verify_files(store.directory, manifest)
    assert open_chat(store.directory).manifest == manifest


def test_packing_neither_loses_nor_doubles_a_token(store):
    packed = Counter()
    for number in range(store.sequences):
        tokens, weights, _, documents = store.sequence(number)
        members = store.members(number)
        size = store.sizes[number, 0]
        assert tokens[:size].tolist() == [token for i in members for token in store.conversation(i)[0].tolist()]
        assert set(tokens[size:].tolist()) <= {store.bos_id}
        assert weights.sum() == store.sizes[number, 1]
        assert len(set(documents[:size].tolist())) == len(members)
        packed.update(members)
    assert packed == dict.fromkeys(range(store.manifest["conversations"]), 1)


def test_the_same_conversations_with_and_without_packing(store, config, chat_tokenizer, tmp_path):
    alone = prepare_chat(replace(config, packing="none"), chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))
    assert everything(alone) == everything(store)
    assert alone.sequences == alone.manifest["conversations"]
    assert alone.heldout_path.read_text() == store.heldout_path.read_text()
    assert [alone.members(i) for i in range(3)] == [[0], [1], [2]]


def test_held_out_rows_are_prompts_and_answers(store, config, make_conversations):
    tokenizer = AutoTokenizer.from_pretrained(store.tokenizer_dir)
    by_answer = {(c[-1]["content"], c[-2]["content"]): c for c in make_conversations(80)}
    trained = " ".join(tokenizer.decode(tokens) for tokens in everything(store))
    for line in store.heldout_path.read_text().splitlines():
        row = json.loads(line)
        assert tokenizer.decode(row["prompt_tokens"]) == "<s>" + row["prompt"]
        assert tokenizer.decode(row["response_tokens"]) == row["response"] + "</s>"
        assert row["prompt"].endswith("<|assistant|>\n")
        question = row["prompt"].removesuffix("</s>\n<|assistant|>\n").rpartition("<|user|>\n")[2]
        first = next(m["content"] for m in by_answer[row["response"], question] if m["role"] == "user")
        assert first not in trained


def test_the_tokenizer_holds_the_template(store, make_conversations):
    """What `transformers` makes of a conversation is what was trained on, behind the beginning of the sequence."""
    tokenizer = AutoTokenizer.from_pretrained(store.tokenizer_dir)
    trained = everything(store)
    made = [[1, *tokenizer.apply_chat_template(c, return_dict=False)] for c in make_conversations(80)]
    assert len([tokens for tokens in made if tokens in trained]) == len(trained)


def test_answers_to_one_question_are_on_one_side(chat_tokenizer, tmp_path):
    chats = [
        [{"role": "user", "content": f"Why {i}?"}, {"role": "assistant", "content": f"{j}"}]
        for i in range(60)
        for j in range(3)
    ]
    config = ChatDataConfig("chat", [str(write(tmp_path / "a.jsonl", chats))], heldout_percent=20.0)
    store = prepare_chat(config, chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))
    prompts = Counter(json.loads(line)["prompt"] for line in store.heldout_path.read_text().splitlines())
    assert set(prompts.values()) == {3}
    assert 4 < len(prompts) < 24


def test_drops_are_counted_by_cause(chat_tokenizer, tmp_path):
    long = {"role": "assistant", "content": "word " * 300}
    chats = [
        [USER, ASSISTANT],
        [USER, ASSISTANT],
        [USER],
        [{"role": "user", "content": "<|im_end|>"}, ASSISTANT],
        [USER, ASSISTANT, USER, long],
        [USER, long],
    ]
    config = ChatDataConfig("chat", [str(write(tmp_path / "a.jsonl", chats))], heldout_percent=0)
    store = prepare_chat(config, chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))
    assert store.manifest["dropped"] == {"duplicate": 1, "marks": 1, "no_assistant": 1, "too_long": 2}
    assert (store.manifest["read"], store.manifest["conversations"], store.manifest["truncated"]) == (6, 1, 0)
    cut = prepare_chat(replace(config, too_long="truncate"), chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))
    assert cut.manifest["dropped"] == {"duplicate": 1, "marks": 1, "no_assistant": 1, "too_long": 1}
    assert (cut.manifest["conversations"], cut.manifest["truncated"]) == (2, 1)
    whole, shortened = everything(cut)
    assert shortened == whole[: len(shortened)]
    assert len(shortened) == len(whole) - 1  # without the line end behind the turn
    assert store.heldout_path.read_text() == ""


def test_what_ends_a_turn_is_in_the_manifest(config, store, chat_tokenizer, tmp_path):
    assert store.manifest["turn_end_id"] is store.turn_end_id is None
    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(tmp_path / "marked")
    own = replace(config, template="chatml")
    marked = prepare_chat(own, tmp_path / "marked", CONTEXT, Layout(tmp_path / "outputs"))
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert marked.manifest["turn_end_id"] == marked.turn_end_id == im_end
    older = {name: value for name, value in marked.manifest.items() if name != "turn_end_id"}
    assert replace(marked, manifest=older).turn_end_id == im_end


def test_nothing_left_is_an_error(chat_tokenizer, tmp_path):
    config = ChatDataConfig("chat", [str(write(tmp_path / "a.jsonl", [[USER], [USER, ASSISTANT]]))])
    with pytest.raises(
        ValueError,
        match=r"no conversation of 'chat' is left to train on: 0 held out; dropped are 1 no turn "
        r"of the assistant, 1 too long",
    ):
        prepare_chat(config, chat_tokenizer, 10, Layout(tmp_path / "outputs"))
    assert not list((tmp_path / "outputs" / "data").iterdir())


def test_a_malformed_line_leaves_nothing_behind(config, chat_tokenizer, tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text(path.read_text() + '{"messages": 3}\n')
    with pytest.raises(ValueError, match=r"chat.jsonl, line 81: field 'messages' is a number, not a list of messages"):
        prepare_chat(config, chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))
    assert not list((tmp_path / "outputs" / "data").iterdir())


def test_prepare_again_does_nothing(store, config, chat_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.data.chat_store.build_chat", lambda *_: pytest.fail("built again"))
    again = prepare_chat(config, chat_tokenizer, CONTEXT, Layout(tmp_path / "outputs"))
    assert again.manifest == store.manifest


def test_prepared_elsewhere_it_is_the_same(store, config, chat_tokenizer, tmp_path):
    other = prepare_chat(config, chat_tokenizer, CONTEXT, Layout(tmp_path / "elsewhere"))
    assert other.manifest["files"] == store.manifest["files"]


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "llama2"},
        {"packing": "none"},
        {"too_long": "truncate"},
        {"heldout_percent": 5.0},
        {"system_prompt": "Be brief."},
        {"begin": "template"},
        {"template": "tokenizer", "template_date": "1 May 2025"},
        {"fields": {"messages": "conversations"}},
    ],
    ids=str,
)
def test_every_setting_changes_the_fingerprint(config, chat_tokenizer, changes):
    assert chat_fingerprint(replace(config, **changes), chat_tokenizer, CONTEXT) != chat_fingerprint(
        config, chat_tokenizer, CONTEXT
    )


def test_settings_younger_than_names_change_none(config, chat_tokenizer):
    """Names of the release before, of files and a tokenizer that do not change."""
    assert (config.begin, config.template_date) == ("bos", None)
    assert conversations_name(ChatDataConfig("a", ["b"]), "f" * 16, 128) == "15f25d52d7e6d5ca"
    tuned = replace(ChatDataConfig("a", ["b"]), template="tokenizer")
    assert conversations_name(tuned, "f" * 16, 128, "text") == "e1137fec40f04d27"
    dated = replace(tuned, template_date="1 May 2025")
    names = {conversations_name(one, "f" * 16, 128, "text") for one in (tuned, dated, replace(tuned, begin="template"))}
    assert len(names) == 3


def test_files_tokenizer_and_context_change_the_fingerprint_and_labels_do_not(config, chat_tokenizer, tmp_path):
    before = chat_fingerprint(config, chat_tokenizer, CONTEXT)
    shutil.copytree(chat_tokenizer, tmp_path / "tokenizer")
    moved = shutil.copy(tmp_path / "chat.jsonl", tmp_path / "moved.jsonl")
    assert before == chat_fingerprint(replace(config, name="b", max_epochs=2.0), chat_tokenizer, CONTEXT)
    assert before == chat_fingerprint(replace(config, files=[str(moved)]), tmp_path / "tokenizer", CONTEXT)
    assert before != chat_fingerprint(config, chat_tokenizer, CONTEXT + 1)
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text("x")
    assert before != chat_fingerprint(config, tmp_path / "tokenizer", CONTEXT)
    write(tmp_path / "chat.jsonl", [[USER, ASSISTANT]])
    assert before != chat_fingerprint(config, chat_tokenizer, CONTEXT)


def test_other_folders_are_refused(prepared, tmp_path):
    with pytest.raises(ValueError, match="holds prepared documents, not conversations"):
        open_chat(prepared.directory)
    with pytest.raises(ValueError, match="holds no prepared data"):
        open_chat(tmp_path)
    with pytest.raises(ValueError, match=r"has no tokenizer.json"):
        chat_fingerprint(ChatDataConfig("a", ["a"]), tmp_path, 10)


def test_a_sequence_is_a_function_of_its_index(store):
    stream, count = ChatStream(store, seed=1), store.sequences
    whole = stream.batch(0, 3 * count)
    for start, rows in ((0, 1), (count - 1, 3), (2 * count + 1, 2)):
        part = ChatStream(store, seed=1).batch(start, rows)
        assert all(np.array_equal(a, b[start : start + rows]) for a, b in zip(part, whole, strict=True))
    epochs = [stream.locate(np.arange(e * count, (e + 1) * count)).tolist() for e in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ChatStream(store, seed=2).locate(np.arange(count)).tolist() != epochs[0]
    assert whole.tokens.shape == (3 * count, CONTEXT + 1)
    assert whole.weights.shape == whole.positions.shape == whole.documents.shape == (3 * count, CONTEXT)
    assert whole.weights.dtype == np.float32
    assert [part.shape for part in stream.batch(5, 0)] == [(0, CONTEXT + 1), *[(0, CONTEXT)] * 3]


def test_counts_are_those_of_the_batches(store):
    stream, count = ChatStream(store, seed=3), store.sequences
    for sequences in (0, 1, count - 1, count, 2 * count + 3):
        counts = stream.counts(sequences)
        drawn = stream.locate(np.arange(sequences)).tolist()
        assert counts.drawn_tokens == sum(store.sizes[i, 0] for i in drawn)
        assert counts.distinct_tokens == sum(store.sizes[i, 0] for i in set(drawn))
        assert counts.drawn_assistant_tokens == sum(store.sizes[i, 1] for i in drawn)
        assert counts.distinct_assistant_tokens == sum(store.sizes[i, 1] for i in set(drawn))
        assert counts.epochs == sequences / count
        assert counts.max_repeats == max(Counter(drawn).values(), default=0)
    assert counts.drawn_assistant_tokens == stream.batch(0, sequences).weights.sum()


def test_repetition_beyond_what_is_allowed_is_refused(store):
    count = store.sequences
    ChatStream(store, 0).check(100 * count)
    ChatStream(store, 0, max_epochs=2.0).check(2 * count)
    with pytest.raises(ValueError, match=rf"{2 * count + 1} sequences, but {count} are packed and max_epochs=2.0, so"):
        ChatStream(store, 0, max_epochs=2.0).check(2 * count + 1)
