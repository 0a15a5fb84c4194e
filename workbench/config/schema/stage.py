"""Stages, which the planner makes of points: the nodes of a study's graph.

`Stage` is what every kind of stage has, `TrainingStage` what every kind that trains has. A kind's own stage extends one
of them (`workbench.kinds`). Each field has a role: `identity` (it changes the weights at a given step, and the stage's id
hashes it), `target` (where to stop, what to keep) or `circumstance` (how it is carried out, and labels).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from workbench.config.kind_registry import find_kind
from workbench.config.schema.machine import CheckpointConfig, NumericsConfig, ResourcesConfig
from workbench.config.schema.model import ModelConfig
from workbench.config.schema.recipe import OptimizerConfig

ROLES = ("identity", "target", "circumstance")


def identity(*, younger: bool = False, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Declare a field that a stage's id hashes; one that is `younger` than ids is left out where it has its default."""
    return _field("identity", default, default_factory, younger=younger)


def target(*, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Declare a field that says where to stop, or what to keep."""
    return _field("target", default, default_factory)


def circumstance(*, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Declare a field that changes no weight but for rounding: how a stage is carried out, and what it is called."""
    return _field("circumstance", default, default_factory)


def _field(role: str, default: Any, default_factory: Any, **facts: Any) -> Any:
    given = {} if default is MISSING else {"default": default}
    made = {} if default_factory is MISSING else {"default_factory": default_factory}
    return field(**given, **made, metadata={"role": role, **facts})


def fields_of_role(stage: Any, role: str) -> list[str]:
    """Names of the fields of a stage, or of its class, that have a role."""
    return [f.name for f in fields(stage) if f.metadata.get("role") == role]


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the tokens since its origin."""

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
    """Source weights starting at one sequence of the stream."""

    start_sequence: int
    """First sequence of the stream with these weights."""
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
    """Everything that sequence `i` of a stream is computed from."""

    data_fingerprint: str
    """Name of the prepared store, `<outputs>/data/<fingerprint>`."""
    context_tokens: int
    """Predicted tokens per sequence; a sequence has one token more."""
    seed: int
    """Seed of the order."""
    sources: dict[str, StreamSource]
    """Sources by name."""
    mixture: list[MixtureSegment]
    """Weights along the stream; the first segment starts at 0."""
    document_mask: bool = False
    """Whether attention is confined to documents."""
    packing: str = "concatenate"
    """How documents become sequences: `concatenate` or `best_fit`."""


@dataclass(frozen=True)
class Parent:
    """A checkpoint of another stage: the one that a stage begins from, or one that it reads besides."""

    stage: str
    """Id of its trajectory."""
    tokens: int
    """Tokens since the start of the chain at which it lies."""


@dataclass(frozen=True)
class Origin:
    """Where a schedule and a stream begin: at 0, unless the chain goes on from another training."""

    tokens: int = 0
    """Tokens since the start of the chain."""
    flops: float = 0.0
    """FLOPs of training that were spent before."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One node of a study's graph, of any kind: the checkpoints that it reads, and those that it leaves."""

    kind: str = identity(default="pretrain")
    """Name of its kind."""
    parent: Parent | None = identity()
    """Checkpoint to begin from; None where the stage makes its own beginning."""
    inputs: dict[str, Parent] = identity(younger=True, default_factory=dict)
    """Further checkpoints that it reads, by what they are to it, such as `teacher`."""
    model: ModelConfig = identity()
    """Model of its checkpoints; its `name` is a label and outside the id."""
    name: str = circumstance(default="")
    """Name of the stage within its chain, such as trunk or cooldown: a label."""
    end_tokens: int = target(default=0)
    """Tokens since the start of the chain at which this stage may stop."""
    milestones: list[int] = target(default_factory=list)
    """Tokens whose checkpoints are kept and evaluated, including `end_tokens`."""
    branch_points: list[int] = target(default_factory=list)
    """Tokens whose checkpoints are kept whole because another stage resumes there."""
    read_points: list[int] = target(default_factory=list)
    """Tokens whose weights are kept because another stage reads them."""
    numerics: NumericsConfig = circumstance(default_factory=NumericsConfig)
    """How the arithmetic is carried out (threads, micro-batch, ...)."""
    checkpoint: CheckpointConfig = circumstance(default_factory=CheckpointConfig)
    """When state is written to disk."""
    resources: ResourcesConfig = circumstance(default_factory=ResourcesConfig)
    """What its job requests from a cluster."""

    @staticmethod
    def class_of(values: dict[str, Any]) -> type[Stage]:
        """Class of a stage by its plain values: its kind's own."""
        return find_kind(values.get("kind", "pretrain")).spec.Spec

    @property
    def targets(self) -> list[int]:
        """Tokens at which it must have checkpoints, in order."""
        return sorted({self.end_tokens, *self.milestones, *self.branch_points, *self.read_points})

    @property
    def data_fingerprint(self) -> str:
        """Name of the prepared data whose tokenizer it has, and whose held-out text scores it."""
        raise NotImplementedError

    @property
    def start_tokens(self) -> int:
        """Tokens since the start of the chain at which the stage begins."""
        return self.parent.tokens if self.parent else 0

    @property
    def inherited_flops(self) -> float:
        """FLOPs of training that were spent elsewhere on what it brings into the chain."""
        return 0.0

    @property
    def label(self) -> str:
        """Model and name, for a reader."""
        return f"{self.model.name} {self.name}"

    @property
    def variety(self) -> str:
        """What figures call its checkpoints beside their model, to keep them apart from plainly trained ones."""
        return self.name

    @property
    def processes(self) -> int:
        """Processes that do it together on one machine."""
        return 1

    @property
    def resumed(self) -> list[Parent]:
        """Inputs of which the optimizer's state is read besides the weights."""
        return []

    @property
    def references(self) -> list[Parent]:
        """All checkpoints that it reads."""
        return [*([self.parent] if self.parent else []), *self.inputs.values()]


@dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage):
    """A stage that takes optimizer steps: a piece of a training trajectory."""

    stream: StreamConfig = identity()
    """Training data."""
    batch_sequences: int = identity()
    """Sequences per optimizer step."""
    schedule: Schedule = identity()
    """Learning rate."""
    optimizer: OptimizerConfig = identity()
    """Only the fields that the arithmetic uses are in the id, not the rule that set the peak."""
    precision: str = identity()
    """`fp32` or `bf16`."""
    seed_init: int = identity(default=0)
    """Seed of the initial weights; 0, and outside the id, where there is a parent."""
    origin: Origin = identity(younger=True, default_factory=Origin)
    """Where its schedule and its stream begin; its FLOPs are outside the id."""

    @property
    def data_fingerprint(self) -> str:
        """Name of its training data."""
        return self.stream.data_fingerprint

    @property
    def follows_recipe(self) -> bool:
        """Whether it is a phase of the point's recipe, on the study's prepared text."""
        return self.kind == "pretrain"

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.batch_sequences * self.stream.context_tokens

    @property
    def processes(self) -> int:
        """Processes that train it together on one machine."""
        return self.resources.processes or 1

    @property
    def resumes(self) -> bool:
        """Whether it goes on with its parent's optimizer, stream and schedule; otherwise all three begin with it."""
        return self.parent is not None and self.parent.tokens != self.origin.tokens

    @property
    def resumed(self) -> list[Parent]:
        """Its parent, where it goes on with its optimizer."""
        return [self.parent] if self.parent and self.resumes else []

    def sequences(self, tokens: int) -> int:
        """Sequences of the stream that were drawn by so many tokens since the start of the chain."""
        return (tokens - self.origin.tokens) // self.stream.context_tokens
