"""Where and how the arithmetic runs: outside a stage's id."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_above, check_at_least, check_choice

ATTENTIONS = ("sdpa", "flash_attn")
DEVICES = ("auto", "cpu", "cuda")
PARALLELS = ("replicate", "shard")


@dataclass(frozen=True)
class NumericsConfig:
    """How the arithmetic is carried out; outside a stage's id, recorded with it."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto` (cuda where there is one)."""
    threads: int = 1
    """CPU threads a stage; one and two give different last bits."""
    micro_batch_sequences: int | None = None
    """Sequences a forward pass; None takes the whole global batch."""
    attention: str = "sdpa"
    """`sdpa`, or `flash_attn` (package and GPU needed)."""
    compile: bool = False
    """Use `torch.compile`; where the machine lacks what it needs, training is eager and says so."""
    parallel: str = "replicate"
    """Among several processes: `replicate` (plain data parallelism), or `shard` (FSDP2, `fully_shard`)."""
    activation_checkpointing: bool = False
    """Keep only each block's input and compute the rest again in the backward pass."""

    def __post_init__(self) -> None:
        """Refuse what no machine could do."""
        check_choice("numerics.device", self.device, DEVICES)
        check_choice("numerics.attention", self.attention, ATTENTIONS)
        check_choice("numerics.parallel", self.parallel, PARALLELS)
        check_at_least("numerics.threads", self.threads, 1)
        check_at_least("numerics.micro_batch_sequences", self.micro_batch_sequences, 1)


@dataclass(frozen=True)
class ResourcesConfig:
    """What a stage's job asks a cluster for, where it is not left to the cluster's rule; outside a stage's id."""

    processes: int | None = None
    """Processes a stage, one a GPU (or, without GPUs, one a share of the cores); None leaves it to the rule."""
    nodes: int | None = None
    """Nodes they are spread over, evenly; None leaves it to the rule."""
    cpus_per_process: int | None = None
    """CPU cores of each process; None leaves it to the rule."""
    memory_bytes: int | None = None
    """Memory of each node; None leaves it to the rule."""
    minutes: int | None = None
    """Time limit of one job; a stage that takes longer is requeued. None leaves it to the rule."""

    def __post_init__(self) -> None:
        """Refuse requests that no cluster could grant."""
        for name in ("processes", "nodes", "cpus_per_process", "memory_bytes", "minutes"):
            check_at_least(f"resources.{name}", getattr(self, name), 1)
        if self.processes is not None and self.nodes is not None and self.processes % self.nodes:
            raise ValueError(f"resources.processes={self.processes} is not divisible by resources.nodes={self.nodes}")


@dataclass(frozen=True)
class CheckpointConfig:
    """When resumable state goes to disk; outside a stage's id."""

    interval_seconds: float | None = None
    """Wall time between checkpoints that are not milestones: the work lost at worst when killed. None chooses it from
    what the last write took, so that writing takes less than 1% of the time; a minute for small models."""
    keep_last: int = 2
    """Checkpoints kept that are neither milestones nor branch points."""

    def __post_init__(self) -> None:
        """Refuse a policy that could not resume."""
        check_above("checkpoint.interval_seconds", self.interval_seconds, 0)
        check_at_least("checkpoint.keep_last", self.keep_last, 1)


@dataclass(frozen=True)
class BudgetConfig:
    """What a launch may cost; `run` refuses a plan above it."""

    max_flops: float | None = None
    """Training FLOPs still to be done; None sets no bound."""
    max_hours: float | None = None
    """Estimated hours of this machine still to be spent; None sets no bound."""
    max_gpu_hours: float | None = None
    """Estimated GPU hours of the cluster still to be spent; None sets no bound."""
    max_cost: float | None = None
    """Estimated cost in the cluster's currency; None sets no bound."""

    def __post_init__(self) -> None:
        """Refuse negative budgets."""
        for name in ("max_flops", "max_hours", "max_gpu_hours", "max_cost"):
            check_at_least(f"budget.{name}", getattr(self, name), 0)
