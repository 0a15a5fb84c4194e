"""Stages, which the planner makes of points: pieces of training trajectories."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.schema.machine import CheckpointConfig, NumericsConfig, ResourcesConfig
from workbench.config.schema.model import ModelConfig
from workbench.config.schema.recipe import OptimizerConfig


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the tokens since the start of the chain."""

    peak: float
    """Learning rate between warm-up and decay."""
    warmup_tokens: int
    """Linear warm-up from zero."""
    decay: str = "constant"
    """Shape of the decay."""
    decay_start_tokens: int = 0
    """Tokens at which the decay begins."""
    decay_tokens: int = 0
    """Length of the decay; 0 for `constant`."""
    final_ratio: float = 1.0
    """Ratio of the learning rate at the end of the decay to the peak."""


@dataclass(frozen=True)
class MixtureSegment:
    """Source weights starting at one sequence of the chain."""

    start_sequence: int
    """First sequence of the chain with these weights."""
    weights: dict[str, float]
    """Weights at the end of the ramp."""
    ramp_sequences: int = 0
    """Sequences over which the weights change linearly from the previous segment's."""


@dataclass(frozen=True)
class StreamSource:
    """One source of a stream."""

    unique_tokens: int | None = None
    """Most distinct tokens; None takes all in the store."""
    max_epochs: float | None = 1.0
    """Most times a token may be seen; None allows any repetition."""


@dataclass(frozen=True)
class StreamConfig:
    """Everything that sequence `i` of a chain is computed from."""

    data_fingerprint: str
    """Name of the prepared store, `<outputs>/data/<fingerprint>`."""
    context_tokens: int
    """Predicted tokens per sequence; a sequence has one token more."""
    seed: int
    """Seed of the order."""
    sources: dict[str, StreamSource]
    """Sources by name."""
    mixture: list[MixtureSegment]
    """Weights along the chain; the first segment starts at 0."""
    document_mask: bool = False
    """Whether attention is confined to documents."""


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a stage begins from."""

    stage: str
    """Id of the parent's trajectory."""
    tokens: int
    """Tokens since the start of the chain at which it branches off."""


@dataclass(frozen=True)
class Stage:
    """One piece of a training trajectory: identity first, targets and circumstances after.

    The id (`workbench.study.identity.stage_id`) hashes the fields from `parent` to `seed_init`.
    """

    parent: Parent | None
    """Checkpoint to begin from; None for initial weights."""
    model: ModelConfig
    """Its `name` is a label and outside the id."""
    stream: StreamConfig
    """Training data."""
    batch_sequences: int
    """Sequences per optimizer step."""
    schedule: Schedule
    """Learning rate."""
    optimizer: OptimizerConfig
    """Only the fields that the arithmetic uses are in the id, not the rule that set the peak."""
    precision: str
    """`fp32` or `bf16`."""
    seed_init: int
    """Seed of the initial weights; 0 where there is a parent."""
    name: str = ""
    """Name of the phase: a label."""
    end_tokens: int = 0
    """Target: tokens since the start of the chain at which this stage may stop."""
    milestones: list[int] = field(default_factory=list[int])
    """Targets: tokens whose checkpoints are kept and evaluated, including `end_tokens`."""
    branch_points: list[int] = field(default_factory=list[int])
    """Targets: tokens whose checkpoints are kept because another stage begins there."""
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    """How the arithmetic is carried out (threads, micro-batch, ...)."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When state is written to disk."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What its job requests from a cluster."""

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.batch_sequences * self.stream.context_tokens

    @property
    def start_tokens(self) -> int:
        """Tokens since the start of the chain at which the stage begins."""
        return self.parent.tokens if self.parent else 0
