"""Stage of kept logits: whose, over which sequences, and how many of each token."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.schema import OptimizerConfig, Schedule, TrainingStage, circumstance, identity
from workbench.kinds.distill.spec import TeacherSettings as Settings

__all__ = ["Settings", "Spec"]


@dataclass(frozen=True, kw_only=True)
class Spec(TrainingStage):
    """A forward pass of `inputs["teacher"]`, whose model is `model`, over the sequences of a stream.

    It draws batches as a training does and is launched like one, but takes no optimizer steps: what says how those are
    taken is outside its id. Its tokens count from the stream's beginning.
    """

    kind: str = identity(default="logits")
    """Name of its kind."""
    top_k: int = identity()
    """Most probable ids that are kept of each token."""
    vocab_size: int = identity()
    """Ids that count: the students'. Rows of the teacher's head beyond them are padding."""
    first_tokens: int = identity(younger=True, default=0)
    """Where in the stream it begins."""
    vocabulary: str | None = circumstance(default=None)
    """Names the ids of the tokenizer of a teacher from outside; they must be those of the data."""
    batch_sequences: int = circumstance(default=8)
    """Sequences that are asked about at a time: a student's batch."""
    schedule: Schedule = circumstance(default=Schedule(0.0, 0))
    """Of no meaning here."""
    optimizer: OptimizerConfig = circumstance(default_factory=OptimizerConfig)
    """Of no meaning here."""
    seed_init: int = circumstance(default=0)
    """Of no meaning here."""

    @property
    def start_tokens(self) -> int:
        """Tokens since the stream's beginning at which it begins."""
        return self.first_tokens

    @property
    def variety(self) -> str:
        """How many ids are kept."""
        return f"top {self.top_k}"
