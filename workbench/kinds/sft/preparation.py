"""The conversations of a fine-tuning: what names them, and how they are prepared with the tokenizer of the study's data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from workbench.config.schema import CHAT_TEMPLATES, Config, ModelConfig, TokenizerConfig
from workbench.kinds.sft.spec import Settings, Spec
from workbench.study.layout import Layout

_QUESTIONS_BYTES = 1_900_000
"""Of the conversations that this project makes itself, with Python 3.11."""


def setting_name(settings: Settings, config: Config) -> str:
    """Name that a study's settings give these: `then.<name>`."""
    return next((f"then.{name}" for name, one in config.then.items() if one is settings), "then")


def resolve(settings: Settings, config: Config) -> tuple[Settings, Config]:
    """Read what the conversations are, and have suites of conversations score the held-out ones.

    Raises
    ------
    ValueError
        A file is missing, or the tokenizer's own template is asked for and there is none, or it prints today's date.
    """
    from workbench.data.chat_store import files_fingerprint

    own = settings.chat.template == "tokenizer"
    template = _tokenizer_template(settings, config) if own else None
    settings = replace(settings, fingerprint=files_fingerprint(settings.chat), tokenizer_template=template)
    name = conversations_of(settings, context_of(settings, config.model))
    suites = {
        key: replace(suite, conversations=name) if suite.include_path == "conversations" else suite
        for key, suite in config.evaluation.suites.items()
    }
    return settings, replace(config, evaluation=replace(config.evaluation, suites=suites))


def _tokenizer_template(settings: Settings, config: Config) -> str:
    from workbench.data.chat_templates import prints_date
    from workbench.data.special_tokens import own_template

    found = own_template(config.tokenizer)
    if found is None:
        built_in = ", ".join(name for name in CHAT_TEMPLATES if name != "tokenizer")
        raise ValueError(
            f"then: {_describe(config.tokenizer)} has no chat_template: set chat.template to one of {built_in}, or "
            "tokenizer.path to a tokenizer with one"
        )
    if settings.chat.template_date is None and prints_date(found):
        raise ValueError(
            f"the chat_template of {_describe(config.tokenizer)} prints today's date, so that its conversations would be "
            f"others tomorrow: set {setting_name(settings, config)}.chat.template_date to what it shall print, such as "
            "'26 Jul 2024'"
        )
    return found


def _describe(tokenizer: TokenizerConfig) -> str:
    return "the tokenizer that is trained here" if tokenizer.kind == "bpe" else str(tokenizer.path)


def conversations_of(settings: Settings, context_tokens: int) -> str:
    """Name packed conversations, but for their tokenizer."""
    from workbench.data.chat_store import conversations_name

    assert settings.fingerprint is not None
    return conversations_name(settings.chat, settings.fingerprint, context_tokens, settings.tokenizer_template)


def context_of(settings: Settings, model: ModelConfig) -> int:
    """Predicted tokens of a packed sequence.

    Raises
    ------
    ValueError
        They are more than the model's context.
    """
    asked = settings.context_tokens or model.context_tokens
    if asked > model.context_tokens:
        raise ValueError(f"then: context_tokens={asked} is longer than model.context_tokens={model.context_tokens}")
    return asked


def prepare(stage: Spec, config: Config, layout: Layout, say: Callable[[str], None]) -> None:
    """Render, tokenize and pack the conversations, once for each tokenizer.

    Raises
    ------
    ValueError
        A file has changed since the study was planned, or no conversation fits.
    """
    from workbench.data.chat_store import prepare_named

    context = stage.stream.context_tokens
    settings = next(
        s
        for s in config.then.values()
        if isinstance(s, Settings)
        and s.fingerprint is not None
        and conversations_of(replace(s, chat=stage.chat), context) == stage.conversations
    )
    files, template = cast(str, settings.fingerprint), settings.tokenizer_template
    prepare_named(stage.chat, files, stage.data_fingerprint, context, layout, say, template)


def unprepared_bytes(stage: Spec, layout: Layout) -> dict[str, int]:
    """Bytes of the conversations' files; compressed ones hold some four times as much text."""
    from workbench.data.chat_store import find_named
    from workbench.data.conversations import find_files

    if find_named(stage.conversations, stage.data_fingerprint, layout) is not None:
        return {}
    name = f"{stage.data_fingerprint}-{stage.conversations}"
    if stage.chat.kind == "python_questions":
        return {name: _QUESTIONS_BYTES}
    sizes = [
        path.stat().st_size * (4 if path.suffix in (".gz", ".zst", ".parquet") else 1)
        for path in find_files(stage.chat)
    ]
    return {name: sum(sizes)}
