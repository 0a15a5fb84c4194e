"""Configuration of conversations: which files, how they are rendered, and how they fill sequences."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_choice, check_name

CHAT_KINDS = ("jsonl", "parquet", "python_questions")
CHAT_TEMPLATES = ("llama2", "zephyr", "chatml", "tokenizer")
CHAT_BEGINNINGS = ("bos", "template")
PACKINGS = ("best_fit", "none")
TOO_LONG = ("drop", "truncate")
_COLUMNS = ("instruction", "input", "system", "response")


@dataclass(frozen=True)
class ChatDataConfig:
    """Conversations for supervised fine-tuning."""

    name: str
    """Short name, used in figures and run names."""
    files: list[str] = field(default_factory=list[str])
    """Files, folders (with everything in them) or globs, as a data source's `path`; read in this order.
    Unused by `python_questions`."""
    kind: str = "jsonl"
    """`jsonl` (also .json, .ndjson; .gz, .zst), `parquet`, or `python_questions`: questions about the functions of
    Python's standard library, answered by the first sentences of their docstrings."""
    fields: dict[str, str] = field(default_factory=lambda: {"messages": "messages"})
    """Where a record holds the conversation: `messages`, a list of {role, content} or {from, value}; or `instruction`
    and `response`, with `input` (appended to the instruction) and `system` where there are such columns."""
    system_prompt: str | None = None
    """System prompt of conversations that have none of their own; None leaves them without."""
    template: str = "chatml"
    """`llama2`, `zephyr`, `chatml`, or `tokenizer`, the tokenizer's own chat template."""
    template_date: str | None = None
    """What a tokenizer's own template prints for today's date (`strftime_now`), such as `26 Jul 2024`; None refuses a
    template that prints it, whose conversations would be others tomorrow."""
    begin: str = "bos"
    """How a conversation begins: `bos` with the tokenizer's beginning of sequence, as documents do, or `template` as the
    template has it, for a model that was tuned so elsewhere."""
    packing: str = "best_fit"
    """`best_fit` puts several conversations into a sequence, `none` puts each into its own."""
    too_long: str = "drop"
    """A conversation of more tokens than a sequence: `drop` it, or `truncate` it after the last turn of the assistant
    that fits."""
    heldout_percent: float = 2.0
    """Held-out conversations, in percent of all, chosen by a hash of the first turn of the user; 0 holds none out."""
    max_epochs: float | None = None
    """Most times a conversation may be seen; None allows any repetition."""

    def __post_init__(self) -> None:
        """Refuse conversations that no reader could find and settings that do not exist."""
        check_name("chat.name", self.name)
        if self.kind == "python_questions" and self.files:
            raise ValueError(f"chat.files={self.files!r}: kind='python_questions' reads none")
        if self.kind != "python_questions" and (not self.files or not all(self.files)):
            raise ValueError(f"chat.files={self.files!r}: name at least one file, folder or glob")
        check_choice("chat.kind", self.kind, CHAT_KINDS)
        self._check_fields()
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise ValueError(f"chat.system_prompt={self.system_prompt!r} is blank: set it to null for none")
        check_choice("chat.template", self.template, CHAT_TEMPLATES)
        if self.template_date is not None and (self.template != "tokenizer" or not self.template_date.strip()):
            raise ValueError(
                f"chat.template_date={self.template_date!r} is what a tokenizer's own template prints: set it to a date with "
                "chat.template=tokenizer, else to null"
            )
        check_choice("chat.begin", self.begin, CHAT_BEGINNINGS)
        check_choice("chat.packing", self.packing, PACKINGS)
        check_choice("chat.too_long", self.too_long, TOO_LONG)
        if not 0 <= self.heldout_percent < 100:
            raise ValueError(f"chat.heldout_percent={self.heldout_percent!r} must be at least 0 and below 100")
        check_above("chat.max_epochs", self.max_epochs, 0)

    def _check_fields(self) -> None:
        names = set(self.fields)
        if names != {"messages"} and not ({"instruction", "response"} <= names <= set(_COLUMNS)):
            raise ValueError(
                f"chat.fields={self.fields!r} must name messages alone, or instruction and response, and input and "
                "system where there are such columns"
            )
        if not all(self.fields.values()):
            raise ValueError(f"chat.fields={self.fields!r}: a field of the records has no name")
