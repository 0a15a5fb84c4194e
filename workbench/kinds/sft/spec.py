"""Settings and stage of supervised fine-tuning: conversations, length, rate, and adapters."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_above, check_at_least, check_choice
from workbench.config.schema import (
    DECAYS,
    ChatDataConfig,
    KindSettings,
    LoraConfig,
    TrainingStage,
    circumstance,
    identity,
)


@dataclass(frozen=True, kw_only=True)
class Settings(KindSettings):
    """Fine-tune what comes before on the assistant's turns of conversations."""

    kind: str = "sft"
    """Name of the kind."""
    chat: ChatDataConfig
    """The conversations."""
    tokens: int
    """Length of the training: tokens of packed sequences, rounded to whole optimizer steps."""
    learning_rate: float
    """Peak learning rate."""
    warmup_tokens: int = 0
    """Linear warm-up from zero."""
    decay: str = "cosine"
    """Shape of the decay after it: `constant`, `cosine`, `linear` or `sqrt`."""
    final_ratio: float = 0.0
    """Ratio of the learning rate at the end of the decay to the peak."""
    batch_sequences: int = 16
    """Packed sequences per optimizer step."""
    context_tokens: int | None = None
    """Predicted tokens per packed sequence; None takes the model's context."""
    lora: LoraConfig | None = None
    """Adapters; None trains all weights."""
    at_tokens: int | None = None
    """Where in the recipe to begin from: tokens since its beginning, rounded to whole steps; None takes its end."""
    fingerprint: str | None = None
    """Set by the planner: names the content of the conversations' files."""
    tokenizer_template: str | None = None
    """Set by the planner: the tokenizer's own template, where `chat.template` asks for it."""

    def __post_init__(self) -> None:
        """Refuse impossible lengths and rates."""
        check_at_least("tokens", self.tokens, 1)
        check_above("learning_rate", self.learning_rate, 0)
        check_at_least("warmup_tokens", self.warmup_tokens, 0)
        check_choice("decay", self.decay, DECAYS)
        check_at_least("final_ratio", self.final_ratio, 0)
        check_at_least("batch_sequences", self.batch_sequences, 1)
        check_at_least("context_tokens", self.context_tokens, 1)
        check_at_least("at_tokens", self.at_tokens, 1)
        if self.warmup_tokens >= self.tokens:
            raise ValueError(f"warmup_tokens={self.warmup_tokens} is not below tokens={self.tokens}")


@dataclass(frozen=True, kw_only=True)
class Spec(TrainingStage):
    """A training on packed conversations; `stream` holds context and seed, and names the data with the tokenizer."""

    kind: str = identity(default="sft")
    """Name of its kind."""
    conversations: str = identity()
    """Names files, rules and template that make the packed conversations, but for the tokenizer."""
    lora: LoraConfig | None = identity(default=None)
    """Adapters that are trained in place of the weights."""
    chat: ChatDataConfig = circumstance()
    """Where the conversations are, and the rules that `conversations` names."""
