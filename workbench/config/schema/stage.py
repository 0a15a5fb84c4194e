"""What the planner makes of points: pieces of training trajectories."""

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
    """Learning rate at the decay's end over the peak."""


@dataclass(frozen=True)
class MixtureSegment:
    """Source weights from one sequence of the chain on."""

    start_sequence: int
    """First sequence of the chain this segment governs."""
    weights: dict[str, float]
    """Weights once the ramp is over."""
    ramp_sequences: int = 0
    """Sequences over which the weights move linearly from the segment's before."""


@dataclass(frozen=True)
class StreamSource:
    """One source of a stream."""

    unique_tokens: int | None = None
    """Distinct tokens at the most; None takes all in the store."""
    max_epochs: float | None = 1.0
    """Repetition allowed; None allows any."""


@dataclass(frozen=True)
class StreamConfig:
    """All that sequence `i` of a chain is computed from."""

    data_fingerprint: str
    """Names the prepared store, `<outputs>/data/<fingerprint>`."""
    context_tokens: int
    """Predicted tokens a sequence; a sequence has one token more."""
    seed: int
    """Seed of the order."""
    sources: dict[str, StreamSource]
    """Sources by name."""
    mixture: list[MixtureSegment]
    """Weights along the chain; the first segment starts at 0."""


@dataclass(frozen=True)
class Parent:
    """The checkpoint a stage begins from."""

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
    """Checkpoint to begin from; None begins from initial weights."""
    model: ModelConfig
    """Its `name` is a label and outside the id."""
    stream: StreamConfig
    """Training data."""
    batch_sequences: int
    """Sequences an optimizer step."""
    schedule: Schedule
    """Learning rate."""
    optimizer: OptimizerConfig
    """Only the fields the arithmetic uses are in the id, not the rule that gave the peak."""
    precision: str
    """`fp32` or `bf16`."""
    seed_init: int
    """Seed of the initial weights; 0 where there is a parent."""
    name: str = ""
    """Phase's name: a label."""
    end_tokens: int = 0
    """Target: tokens since the start of the chain at which this stage may stop."""
    milestones: list[int] = field(default_factory=list[int])
    """Targets: tokens whose checkpoints are kept and evaluated, `end_tokens` among them."""
    branch_points: list[int] = field(default_factory=list[int])
    """Targets: tokens whose checkpoints are kept because another stage begins there."""
    numerics: NumericsConfig = field(default_factory=NumericsConfig)
    """How the arithmetic is carried out."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When state goes to disk."""
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    """What its job asks a cluster for."""

    @property
    def batch_tokens(self) -> int:
        """Tokens an optimizer step."""
        return self.batch_sequences * self.stream.context_tokens

    @property
    def start_tokens(self) -> int:
        """Tokens since the start of the chain at which the stage begins."""
        return self.parent.tokens if self.parent else 0
