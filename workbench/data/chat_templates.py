"""Conversations as text, and as token ids that say which of them are the assistant's.

Every template, built in or a tokenizer's own, is Jinja and goes through `transformers`. Where a template marks the
assistant's text (`{% generation %}`), the marks say what has loss; where it does not, each answer is what the rendering
with it has beyond the prompt's (`add_generation_prompt`). Either way the tokens of the text before an answer, and of
that up to its end, must begin the tokens of the whole: no token then belongs to both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.conversations import Conversation, Message
from workbench.data.known_templates import MARKS, TEMPLATES

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MADE_DATE = "{%- macro strftime_now(format) -%}"


class ChatTemplateError(ValueError):
    """A template cannot render a conversation, or its text and the assistant's cannot be told apart."""


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as a model is trained on it."""

    tokens: NDArray[np.int64]
    """Token ids, (tokens,)."""
    loss: NDArray[np.bool_]
    """Whether each is the assistant's, the token that ends its turn included, (tokens,)."""
    ends: tuple[int, ...]
    """Tokens up to the end of each of the assistant's turns."""


def prints_date(source: str) -> bool:
    """Whether a template asks `transformers` for today's date."""
    return "strftime_now" in source and _MADE_DATE not in source


def with_date(source: str, date: str | None) -> str:
    """Have a template print the same date whenever it is rendered.

    Raises
    ------
    ChatTemplateError
        It prints a date, and none is given.
    """
    if not prints_date(source):
        return source
    if date is None:
        raise ChatTemplateError(
            "the tokenizer's chat_template prints today's date, so that its conversations would be others tomorrow: set "
            "chat.template_date to what it shall print, such as '26 Jul 2024'"
        )
    # The line's end goes with the tag before it: what begins a line in the source still does.
    return _MADE_DATE + "{{ " + json.dumps(date) + " }}{%- endmacro %}\n" + source


class ChatTemplate:
    """Renders conversations and tokenizes them.

    A conversation begins with the tokenizer's beginning-of-sequence token, as every document does; where the template
    begins with it, there is no second.

    Parameters
    ----------
    name
        `llama2`, `zephyr`, `chatml`, or `tokenizer`.
    tokenizer_dir
        A Hugging Face tokenizer directory.
    date
        What the template prints for today's date.
    begin
        `bos`, or `template`: nothing is put before what the template writes.

    Raises
    ------
    ValueError
        The tokenizer has no beginning of sequence, no end of sequence where the template needs one, or no template, or
        that prints a date and none is given.
    """

    def __init__(self, name: str, tokenizer_dir: Path, date: str | None = None, begin: str = "bos") -> None:
        from transformers import AutoTokenizer  # takes seconds

        self.name, self._begin = name, begin
        self._tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
        if self._tokenizer.bos_token is None:
            raise ValueError(f"{tokenizer_dir} names no bos_token: a conversation has to begin with one")
        if name in ("llama2", "zephyr") and self._tokenizer.eos_token is None:
            raise ValueError(f"{tokenizer_dir} names no eos_token, with which chat.template={name!r} ends a turn")
        if name == "tokenizer" and not self._tokenizer.chat_template:
            raise ValueError(
                f"{tokenizer_dir} has no chat_template: set chat.template to one of {', '.join(TEMPLATES)}"
            )
        source: str = TEMPLATES[name] if name in TEMPLATES else self._tokenizer.get_chat_template()
        self.source = with_date(source, date)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return max(self._encoder.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a conversation."""
        return self._tokenizer.bos_token_id

    @property
    def eos_id(self) -> int | None:
        """End of sequence, where the tokenizer has one."""
        return self._tokenizer.eos_token_id

    def turn_end_id(self, last: set[int]) -> int | None:
        """Id of the token that ends the assistant's turn, where that is a single one, and another than the end of sequence.

        No text of a turn becomes it, so generating can stop there.

        Parameters
        ----------
        last
            Ids of the last tokens of turns of the assistant.
        """
        [end] = last if len(last) == 1 else [self.eos_id]
        added = self._encoder.get_added_tokens_decoder().get(end)
        return end if added is not None and added.content in self.marks and end != self.eos_id else None

    @cached_property
    def _encoder(self) -> Any:
        """Tokenizer in which a template's `</s>` is a token, whatever the directory says of `</s>` in texts."""
        from tokenizers import Tokenizer

        encoder = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        encoder.encode_special_tokens = False
        encoder.no_truncation()
        encoder.no_padding()
        return encoder

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """What a turn's text must not hold, since it would begin or end a turn.

        That is special tokens, and the marks of templates that are known; what else a tokenizer's own template puts
        around turns as ordinary text is not known.
        """
        added = self._encoder.get_added_tokens_decoder().values()
        special = {t.content for t in added if t.special or t.content in self.source} - {""}
        return tuple(sorted(special | set(MARKS.get(self.name, ()))))

    @cached_property
    def with_beginning(self) -> str:
        """Source that writes the beginning of every conversation, which training puts before those that lack it.

        With `begin=template` it puts none.

        Raises
        ------
        ChatTemplateError
            The template writes it before some conversations and not before others.
        """
        if self._begin == "template":
            return self.source
        turns = [Message("user", "a"), Message("assistant", "b")]
        writes: set[bool] = set()
        for messages in (turns, [Message("system", "c"), *turns], [*turns, *turns], turns[:1]):
            try:
                text = self.render(messages, prompt=len(messages) == 1)
            except ChatTemplateError:  # as those do that have no system prompt
                continue
            writes.add(text.startswith(self._tokenizer.bos_token))
        if len(writes) == 2:
            raise ChatTemplateError(
                f"chat.template={self.name!r} writes {self._tokenizer.bos_token} before some conversations alone: change it "
                "to write it before all of them, or before none"
            )
        return self.source if True in writes else "{{ bos_token }}" + self.source

    def has_marks(self, conversation: Conversation) -> bool:
        """Whether a turn's text would be taken for the template's."""
        return any(mark in message.content for message in conversation.messages for mark in self.marks)

    def render(self, messages: Sequence[Message], prompt: bool = False) -> str:
        """Text of turns; with `prompt`, also what the template puts before the assistant's next one.

        Raises
        ------
        ChatTemplateError
            The template refuses them.
        """
        return self._render(messages, prompt)[0]

    def encode(self, conversations: Sequence[Conversation]) -> list[ChatTokens]:
        """Token ids of conversations, and which are the assistant's.

        Raises
        ------
        ChatTemplateError
            The template refuses one, or a token lies across the border of one of the assistant's turns.
        """
        rendered = [self._spans(conversation) for conversation in conversations]
        texts = [part for text, spans in rendered for part in (text, *(text[:end] for span in spans for end in span))]
        encodings = iter(self._encoder.encode_batch_fast(texts, add_special_tokens=False))
        return [
            self._tokens(text, spans, [next(encodings).ids for _ in range(1 + 2 * len(spans))], conversation)
            for (text, spans), conversation in zip(rendered, conversations, strict=True)
        ]

    def prompt_and_response(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Text up to the assistant's last turn, without the first beginning-of-sequence token, and that turn's own."""
        *before, last = messages
        return self.render(before, prompt=True).removeprefix(self._tokenizer.bos_token), last.content

    def _render(self, messages: Sequence[Message], prompt: bool, spans: bool = False) -> tuple[str, list[Any]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, found = render_jinja_template(
                conversations=[[{"role": m.role, "content": m.content} for m in messages]],
                chat_template=self.source,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=spans,
                **self._tokenizer.special_tokens_map,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ChatTemplateError(
                f"chat.template={self.name!r} refuses it: {' '.join(str(error).split())}"
            ) from error
        return texts[0], list(found[0]) if found else []

    def _spans(self, conversation: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """Text of a conversation, and first and last place (exclusive) of each of the assistant's turns in it."""
        try:
            if _GENERATION.search(self.source):
                text, spans = self._render(conversation.messages, False, spans=True)
            else:
                text, spans = self._differences(conversation.messages)
        except ChatTemplateError as error:
            raise ChatTemplateError(f"{conversation.where}: {error}") from error
        turns = sum(message.role == "assistant" for message in conversation.messages)
        if len(spans) != turns:
            raise ChatTemplateError(
                f"{conversation.where}: chat.template={self.name!r} marks {len(spans)} of the assistant's {turns} turns"
            )
        return text, spans

    def _differences(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """Spans from what each rendering with an answer has beyond the prompt's."""
        text, spans = self.render(messages), []
        for i, message in enumerate(messages):
            if message.role == "assistant":
                before, after = self.render(messages[:i], prompt=True), self.render(messages[: i + 1])
                if not (after.startswith(before) and text.startswith(after)):
                    raise ChatTemplateError(
                        f"chat.template={self.name!r} renders a conversation otherwise than its beginning, so that the "
                        "assistant's text cannot be told from it: mark it by {% generation %} in the template"
                    )
                spans.append((len(before), self._end(after)))
        return text, spans

    def _end(self, text: str) -> int:
        """Length of a rendering without the white space behind its last special token."""
        bare = text.rstrip()
        return len(bare) if bare.endswith(tuple(self._closing)) else len(text)

    @cached_property
    def _closing(self) -> list[str]:
        return [token.content for token in self._encoder.get_added_tokens_decoder().values() if token.content]

    def _tokens(
        self, text: str, spans: list[tuple[int, int]], encoded: list[list[int]], conversation: Conversation
    ) -> ChatTokens:
        whole, *parts = encoded
        for part, border in zip(parts, (place for span in spans for place in span), strict=True):
            if whole[: len(part)] != part:
                around = text[max(0, border - 10) : border + 10]
                raise ChatTemplateError(
                    f"{conversation.where}: a token lies across the border of the assistant's turn in {around!r}, so "
                    f"that it would be read otherwise than written: chat.template={self.name!r} does not suit the "
                    "tokenizer"
                )
        borders = [len(part) for part in parts]
        bos = self._tokenizer.bos_token_id
        shift = 0 if whole[0] == bos or self._begin == "template" else 1
        tokens = np.array([bos] * shift + whole, np.int64)
        loss = np.zeros(len(tokens), np.bool_)
        for first, last in zip(borders[::2], borders[1::2], strict=True):
            loss[first + shift : last + shift] = True
        return ChatTokens(tokens, loss, tuple(last + shift for last in borders[1::2]))
