"""The stage of a checkpoint from outside: one checkpoint, copied into this project's format."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.schema import InitConfig, Stage, circumstance, identity
from workbench.study.flops import training_flops_per_token

Settings = InitConfig


@dataclass(frozen=True, kw_only=True)
class Spec(Stage):
    """A checkpoint that was trained elsewhere; it has no parent and costs no training here."""

    kind: str = identity(default="imported")
    """Name of its kind."""
    fingerprint: str = identity()
    """Config, weights, tokenizer and adapters by their content: 16 hexadecimal digits."""
    tokens: int = identity()
    """Tokens that it was trained on, as the study says."""
    annealed: bool = identity()
    """Whether its learning rate had been decayed, as the study says."""
    data: str = identity()
    """Name of the prepared data whose held-out text scores it; its tokenizer is the checkpoint's."""
    path: str = circumstance()
    """Directory of its files, or its name on the hub, when it was planned."""
    revision: str | None = circumstance(default=None)
    """Commit on the hub."""
    adapter: str | None = circumstance(default=None)
    """Directory of the adapters that are merged into it, when it was planned; they are part of the fingerprint."""
    native_context_tokens: int | None = circumstance(default=None)
    """Positions that the checkpoint itself was made for: more than its model's context where that was cut. None where the
    study was planned before this was recorded."""
    licence: str = circumstance(default="unknown")
    """Licence of its weights."""

    @property
    def data_fingerprint(self) -> str:
        """Name of the prepared data."""
        return self.data

    @property
    def start_tokens(self) -> int:
        """Its end: no token is trained here."""
        return self.end_tokens

    @property
    def inherited_flops(self) -> float:
        """FLOPs of its training elsewhere, if it was trained on one pass of its tokens at this context."""
        return float(training_flops_per_token(self.model) * self.tokens)
