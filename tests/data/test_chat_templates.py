"""Templates: the published renderings, and that nothing but the assistant's text has loss."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.data.test_tokenizer import train_sentencepiece
from workbench.config.schema import TokenizerConfig
from workbench.data.chat_templates import ChatTemplate, ChatTemplateError
from workbench.data.conversations import Conversation, Message
from workbench.data.known_templates import TEMPLATES
from workbench.data.special_tokens import choose
from workbench.data.tokenizer import make_tokenizer, save, train_bpe

TURNS = (
    Message("system", "Be brief."),
    Message("user", "Why?"),
    Message("assistant", "Because."),
    Message("user", "So?"),
    Message("assistant", "Yes."),
)
# Written by hand from the formats' documentation; see the references of `known_templates`.
RENDERED = {
    "llama2": (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST] Because. </s><s>[INST] So? [/INST] Yes. </s>",
        [" Because. </s>", " Yes. </s>"],
    ),
    "zephyr": (
        "<|system|>\nBe brief.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\nBecause.</s>\n"
        "<|user|>\nSo?</s>\n<|assistant|>\nYes.</s>\n",
        ["Because.</s>", "Yes.</s>"],
    ),
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nBecause.<|im_end|>\n<|im_start|>user\nSo?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n",
        ["Because.<|im_end|>", "Yes.<|im_end|>"],
    ),
}
PROMPTS = {
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
}
# The template of TinyLlama/TinyLlama-1.1B-Chat-v1.0, which has no marks.
TINYLLAMA = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


def with_template(source, target, template):
    """Copy a tokenizer with a chat template of its own."""
    shutil.copytree(source, target)
    (target / "chat_template.jinja").write_text(template)
    return target


# The beginning of the template of meta-llama/Llama-3.2-1B-Instruct, around TinyLlama-Chat's turns.
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}\n"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}\n{{- 'Today Date: ' + date_string + '\\n' }}" + TEMPLATES["zephyr"]
)


@pytest.fixture(params=[*TEMPLATES, "own with marks", "own without"])
def template(request, chat_tokenizer, tmp_path):
    if request.param in TEMPLATES:
        return ChatTemplate(request.param, chat_tokenizer)
    own = TEMPLATES["zephyr"] if request.param == "own with marks" else TINYLLAMA
    return ChatTemplate("tokenizer", with_template(chat_tokenizer, tmp_path / "own", own))


def decode(folder, ids):
    return AutoTokenizer.from_pretrained(folder).decode(ids)


def runs(loss):
    """First and last place (exclusive) of each stretch that has loss."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loss, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_published_renderings(name, chat_tokenizer):
    template, (text, answers) = ChatTemplate(name, chat_tokenizer), RENDERED[name]
    assert template.render(TURNS) == text
    assert template.render(TURNS[:2], prompt=True) == PROMPTS[name]
    [chat] = template.encode([Conversation(TURNS)])
    assert decode(chat_tokenizer, chat.tokens) == "<s>" + text.removeprefix("<s>")
    assert [decode(chat_tokenizer, chat.tokens[a:b]) for a, b in runs(chat.loss)] == answers
    assert chat.ends == tuple(b for _, b in runs(chat.loss))
    assert (chat.tokens == template.bos_id).sum() == text.count("<s>") + (not text.startswith("<s>"))


def test_tinyllamas_own_template_renders_as_ours(chat_tokenizer, tmp_path):
    own = ChatTemplate("tokenizer", with_template(chat_tokenizer, tmp_path / "own", TINYLLAMA))
    ours = ChatTemplate("zephyr", chat_tokenizer)
    assert own.render(TURNS) == RENDERED["zephyr"][0]
    assert own.render(TURNS[:2], prompt=True) == PROMPTS["zephyr"]
    [a], [b] = own.encode([Conversation(TURNS)]), ours.encode([Conversation(TURNS)])
    assert a.tokens.tolist() == b.tokens.tolist()
    assert a.loss.tolist() == b.loss.tolist()


def test_only_the_assistants_tokens_have_loss(template, make_conversations):
    """Whatever the text: the tokens with loss decode to the answers, with what ends a turn, and to nothing else."""
    made = [Conversation(tuple(Message(**turn) for turn in turns)) for turns in make_conversations(60)]
    tokenizer = template._tokenizer
    closing = "<|im_end|>" if template.name == "chatml" else "</s>"
    around = " " if template.name == "llama2" else ""
    for conversation, chat in zip(made, template.encode(made), strict=True):
        answers = [m.content for m in conversation.messages if m.role == "assistant"]
        found = [tokenizer.decode(chat.tokens[a:b]) for a, b in runs(chat.loss)]
        assert found == [f"{around}{answer}{around}{closing}" for answer in answers]
        assert not chat.loss[0]
        assert chat.tokens[0] == template.bos_id
        text = template.render(conversation.messages)
        assert tokenizer.decode(chat.tokens).removeprefix("<s>") == text.removeprefix("<s>")
        # What is generated from is what was trained on.
        first = next(i for i, m in enumerate(conversation.messages) if m.role == "assistant")
        prompt = template._encoder.encode(
            template.render(conversation.messages[:first], True), add_special_tokens=False
        )
        begin = runs(chat.loss)[0][0]
        assert chat.tokens[:begin].tolist()[-len(prompt.ids) :] == prompt.ids


def test_chatml_marks_are_single_tokens_where_the_vocabulary_has_them(chat_tokenizer, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(tmp_path)
    template = ChatTemplate("chatml", tmp_path)
    [chat] = template.encode([Conversation(TURNS)])
    assert (chat.tokens == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 5
    assert {chat.tokens[end - 1] for end in chat.ends} == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert template.vocab_size == 342


def test_a_turn_ends_with_the_tokenizers_own_token_whatever_its_name(chat_tokenizer, tmp_path):
    text = (chat_tokenizer / "tokenizer.json").read_text().replace("</s>", "<|end|>")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).write_text((chat_tokenizer / name).read_text().replace("</s>", "<|end|>"))
    (tmp_path / "tokenizer.json").write_text(text)
    template = ChatTemplate("zephyr", tmp_path)
    assert template.render(TURNS[1:3]) == "<|user|>\nWhy?<|end|>\n<|assistant|>\nBecause.<|end|>\n"
    [chat] = template.encode([Conversation(TURNS)])
    assert {chat.tokens[end - 1] for end in chat.ends} == {template.eos_id}


def test_what_a_tokenizer_lacks_is_said(chat_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"has no chat_template: set chat.template to one of llama2, zephyr, chatml"):
        ChatTemplate("tokenizer", chat_tokenizer)
    for missing, name in (("eos_token", "zephyr"), ("bos_token", "chatml")):
        shutil.copytree(chat_tokenizer, tmp_path / missing)
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            values = json.loads((tmp_path / missing / file).read_text())
            values.pop(missing)
            (tmp_path / missing / file).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=f"names no {missing}"):
            ChatTemplate(name, tmp_path / missing)


def test_a_template_that_refuses_a_conversation(chat_tokenizer, tmp_path):
    own = "{{ raise_exception('no system\n prompts') }}"
    template = ChatTemplate("tokenizer", with_template(chat_tokenizer, tmp_path / "own", own))
    with pytest.raises(ChatTemplateError, match=r"^a.jsonl, line 3: chat.template='tokenizer' refuses it: no system p"):
        template.encode([Conversation(TURNS, "a.jsonl, line 3")])


def test_a_template_that_prints_todays_date_is_given_one(chat_tokenizer, tmp_path):
    own = with_template(chat_tokenizer, tmp_path / "own", DATED)
    with pytest.raises(ChatTemplateError, match=r"prints today's date.*set chat.template_date"):
        ChatTemplate("tokenizer", own)
    template = ChatTemplate("tokenizer", own, date='1 "May" 2025')
    assert template.render(TURNS) == 'Today Date: 1 "May" 2025\n' + RENDERED["zephyr"][0]
    # What a tuned checkpoint carries prints the same.
    again = ChatTemplate("tokenizer", with_template(chat_tokenizer, tmp_path / "again", template.with_beginning))
    assert again.render(TURNS) == "<s>" + template.render(TURNS)
    plain = with_template(chat_tokenizer, tmp_path / "plain", "\n  {% if true %}\n" + TINYLLAMA + "{% endif %}")
    undated, dated = (ChatTemplate("tokenizer", plain, date=date).render(TURNS) for date in (None, "1 May 2025"))
    assert undated == dated


def test_a_date_changes_nothing_else(chat_tokenizer, tmp_path):
    """White space at a template's beginning stays what it is."""
    for number, before in enumerate(("", "\n", "  ", "\n\n  ", "x")):
        source = before + "{% set now = strftime_now('%Y') %}" + TEMPLATES["zephyr"]
        still = before + "{% set now = 'never' %}" + TEMPLATES["zephyr"]
        dated, plain = (
            ChatTemplate(
                "tokenizer", with_template(chat_tokenizer, tmp_path / f"{number}{len(text)}", text), date="now"
            )
            for text in (source, still)
        )
        assert dated.render(TURNS) == plain.render(TURNS)


@pytest.mark.parametrize("name", ["llama2", "zephyr", "chatml"])
def test_a_conversation_may_begin_as_the_template_has_it(chat_tokenizer, name):
    """A model from outside that was tuned by its template alone is continued on what it knows."""
    ours, own = (ChatTemplate(name, chat_tokenizer, begin=begin) for begin in ("bos", "template"))
    [a], [b] = (template.encode([Conversation(TURNS)]) for template in (ours, own))
    added = 0 if name == "llama2" else 1
    assert a.tokens[added:].tolist() == b.tokens.tolist()
    assert a.loss[added:].tolist() == b.loss.tolist()
    assert a.ends == tuple(end + added for end in b.ends)
    loaded = AutoTokenizer.from_pretrained(chat_tokenizer)
    turns = [{"role": m.role, "content": m.content} for m in TURNS]
    for template, chat in ((ours, a), (own, b)):
        loaded.chat_template = template.with_beginning
        rendered = loaded.apply_chat_template(turns, tokenize=False)
        assert rendered.startswith("<s>") == (template is ours or name == "llama2")
        assert loaded.decode(chat.tokens) == rendered


def test_what_ends_a_turn_is_known_where_it_is_one_token(chat_tokenizer, tmp_path):
    """It ends what a tuned model writes, as the end of sequence does."""

    def end(name, folder):
        template = ChatTemplate(name, folder)
        [chat] = template.encode([Conversation(TURNS)])
        return template.turn_end_id({int(chat.tokens[place - 1]) for place in chat.ends})

    assert [end(name, chat_tokenizer) for name in TEMPLATES] == [None] * 3
    tokenizer = AutoTokenizer.from_pretrained(chat_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(tmp_path)
    im_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert [end(name, tmp_path) for name in ("chatml", "zephyr")] == [im_end, None]
    for number, source in enumerate((TINYLLAMA, TEMPLATES["zephyr"])):
        own = source.replace("eos_token", "'<|im_end|>'")
        assert end("tokenizer", with_template(tmp_path, tmp_path / f"own{number}", own)) == im_end
    assert ChatTemplate("chatml", tmp_path).turn_end_id({im_end, 5}) is None
    assert ChatTemplate("chatml", tmp_path).turn_end_id({5}) is None


def test_a_template_that_hides_earlier_turns_needs_marks(chat_tokenizer, tmp_path):
    """As those do that leave out earlier reasoning."""
    own = "{{ messages[-1].content }}{% if add_generation_prompt %}!{% endif %}"
    template = ChatTemplate("tokenizer", with_template(chat_tokenizer, tmp_path / "own", own))
    with pytest.raises(ChatTemplateError, match=r"line 3: .* renders a conversation otherwise than its beginning"):
        template.encode([Conversation(TURNS, "a.jsonl, line 3")])


def test_a_template_whose_marks_hold_nothing(chat_tokenizer, tmp_path):
    own = "{% if false %}{% generation %}{% endgeneration %}{% endif %}text"
    template = ChatTemplate("tokenizer", with_template(chat_tokenizer, tmp_path / "own", own))
    with pytest.raises(ChatTemplateError, match=r"line 3: .* marks 0 of the assistant's 2 turns"):
        template.encode([Conversation(TURNS, "a.jsonl, line 3")])


def test_a_token_across_the_border_is_an_error(tmp_path):
    """Otherwise the model would be asked to go on from tokens that it was not trained on."""
    save(train_bpe(["Q:answer " * 50], 264), tmp_path)
    own = "{% for m in messages %}{% if m.role == 'user' %}Q:an{% else %}{% generation %}{{ m.content }}{% endgeneration %}"
    (tmp_path / "chat_template.jinja").write_text(own + "{% endif %}{% endfor %}")
    template = ChatTemplate("tokenizer", tmp_path)
    with pytest.raises(
        ChatTemplateError, match=r"line 3: a token lies across the border of the assistant's turn in 'Q:an"
    ):
        template.encode([Conversation((Message("user", "x"), Message("assistant", "swer")), "a.jsonl, line 3")])


def test_marks_in_a_text_are_seen(template):
    assert not template.has_marks(Conversation(TURNS))
    assert template.has_marks(Conversation((*TURNS, Message("user", "I typed </s> here"))))
    mark = {"llama2": "[/INST]", "chatml": "<|im_end|>"}.get(template.name, "</s>")
    assert template.has_marks(Conversation((Message("user", f"a {mark} b"), Message("assistant", "x"))))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_sentencepiece_model_suits_them(name, make_conversations, tmp_path):
    """Such a model writes a space behind every special token, which is inside of no turn's border."""
    path = train_sentencepiece(tmp_path, Path(np.__file__).with_name("matlib.py").read_text().split("\n\n") * 3)
    config = TokenizerConfig(kind="file", path=str(path), vocab_size=700)
    save(make_tokenizer(config, []), tmp_path / "tokenizer", choose(config))
    template = ChatTemplate(name, tmp_path / "tokenizer")
    made = [Conversation(tuple(Message(**turn) for turn in turns)) for turns in make_conversations(20)]
    closing = "<|im_end|>" if name == "chatml" else "</s>"
    for conversation, chat in zip(made, template.encode(made), strict=True):
        answers = [m.content for m in conversation.messages if m.role == "assistant"]
        found = [template._tokenizer.decode(chat.tokens[a:b]) for a, b in runs(chat.loss)]
        assert [text.removesuffix(closing).strip() for text in found] == answers
        assert all(text.endswith(closing) for text in found)
