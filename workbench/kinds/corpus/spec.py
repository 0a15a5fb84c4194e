"""What a corpus is as a node of a study's graph: the configs it is made of, and the hash that names what comes of them."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.schema import CorpusConfig, DataConfig, TokenizerConfig, circumstance, identity

Settings = CorpusConfig
"""`data.corpus`: data are a corpus where it is set."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A corpus. It has no model and no checkpoints: what it leaves is the store `data/<fingerprint>`, once and for all.

    Its inputs are files from outside, by their content, so that it reads no other node.
    """

    kind: str = identity(default="corpus")
    """Name of its kind."""
    fingerprint: str = identity()
    """Hash of inputs and settings, which names the node and its store."""
    data: DataConfig = circumstance()
    """Sources and settings; what counts of them is in the fingerprint."""
    tokenizer: TokenizerConfig = circumstance()
    """Likewise."""

    @property
    def name(self) -> str:
        """Of the data."""
        return self.data.name

    @property
    def label(self) -> str:
        """Name and kind, for a reader."""
        return f"{self.data.name} {self.kind}"
