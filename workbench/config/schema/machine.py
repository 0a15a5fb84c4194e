"""Configuration of the machine: where and how the arithmetic runs, which is not part of a stage's id."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.config.plain import check_above, check_at_least, check_choice

ATTENTIONS = ("sdpa", "flash_attn", "flash_attn_3", "cudnn", "blocks", "auto")
DEVICES = ("auto", "cpu", "cuda")
CROSS_ENTROPIES = ("own", "liger", "auto")
PRODUCTS = ("onednn", "openblas", "auto")
COMPILE_UNITS = ("model", "block")
PARALLELS = ("replicate", "shard", "hybrid")
WRITES = ("auto", "background", "inline")


@dataclass(frozen=True)
class NumericsConfig:
    """How the arithmetic is carried out; not part of a stage's id, but recorded with it."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto` (cuda if available)."""
    threads: int = 1
    """CPU threads per stage; one and two give different last bits."""
    micro_batch_sequences: int | None = None
    """Sequences of a forward pass; None takes the most whose estimated memory the device has."""
    attention: str = "sdpa"
    """`sdpa` (PyTorch's choice), on a CPU in fp32 `blocks` (products over blocks of queries, scores kept), on a GPU in bf16 also
    `flash_attn`, `flash_attn_3` (their packages needed) or `cudnn`; `auto` takes there the one that is fastest on the stage's
    shapes, by itself or, with `compile`, in a compiled block; it is recorded with the first checkpoint and kept. Fine-tuning
    takes `sdpa`."""
    cross_entropy: str = "own"
    """What makes the loss of pretraining and fine-tuning from its logits: `own` (PyTorch's operators), `liger` (on a GPU; the
    extra `kernels`), or `auto`: liger where it is installed. Distillation has its own."""
    products: str = "onednn"
    """What multiplies fp32 matrices on a CPU in training: `onednn` (where PyTorch has it), `openblas` (NumPy's), which is faster
    on some processors with AVX2 alone, and gives other last bits, or `auto`: the faster on the stage's shapes, which is
    measured once, recorded with the first checkpoint and kept."""
    compile: bool = False
    """Whether to use `torch.compile`; if the machine lacks what it needs, training is eager, with a message."""
    compile_unit: str = "model"
    """What is compiled: the whole `model` at once, or one `block`, whose code all blocks share: sooner ready, and less is fused."""
    parallel: str = "replicate"
    """With several processes: `replicate` (plain data parallelism), `shard` (FSDP2, `fully_shard`), or `hybrid`: groups of
    processes hold a copy of the model each and shard it within (HSDP), so that only gradients cross between nodes."""
    shard_processes: int | None = None
    """With `hybrid`: processes of a group; None takes those of a node."""
    activation_checkpointing: bool = False
    """Whether to keep only each block's input and recompute the rest in the backward pass."""
    deterministic: bool | None = None
    """Compute the same bits every time, at some cost in speed; None does so on the CPU, and not on a GPU."""
    pad_vocabulary: bool | None = None
    """Multiply by an output head whose rows are filled up with zeros to a multiple of 64, where the vocabulary is none;
    the ids beyond it have no probability, and weights and checkpoints stay as they are. None does so on a GPU alone."""

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        check_choice("numerics.device", self.device, DEVICES)
        check_choice("numerics.attention", self.attention, ATTENTIONS)
        check_choice("numerics.cross_entropy", self.cross_entropy, CROSS_ENTROPIES)
        check_choice("numerics.products", self.products, PRODUCTS)
        check_choice("numerics.compile_unit", self.compile_unit, COMPILE_UNITS)
        check_choice("numerics.parallel", self.parallel, PARALLELS)
        check_at_least("numerics.threads", self.threads, 1)
        check_at_least("numerics.micro_batch_sequences", self.micro_batch_sequences, 1)
        check_at_least("numerics.shard_processes", self.shard_processes, 1)
        if self.shard_processes is not None and self.parallel != "hybrid":
            raise ValueError(
                f"numerics.shard_processes={self.shard_processes} is for numerics.parallel=hybrid, not "
                f"{self.parallel!r}: set that, or leave it null"
            )

    def sharers(self, processes: int) -> int:
        """Count the processes, of so many, that share out one copy of the model; 1 where each has its own.

        Raises
        ------
        ValueError
            They make no whole number of groups.
        """
        if self.parallel == "replicate" or processes == 1:
            return 1
        sharers = self.shard_processes or processes
        if processes % sharers:
            raise ValueError(
                f"numerics.shard_processes={sharers} does not divide the {processes} processes: set one that does, or null"
            )
        return sharers


@dataclass(frozen=True)
class ResourcesConfig:
    """Resources that a stage's job requests, where not left to the cluster's rule; not part of a stage's id."""

    processes: int | None = None
    """Processes per stage, one per GPU (or, without GPUs, one per share of the cores); None leaves it to the rule, and
    is one process where `hydra/launcher=local` trains."""
    nodes: int | None = None
    """Nodes that the processes are spread over evenly; None leaves it to the rule."""
    cpus_per_process: int | None = None
    """CPU cores of each process; None leaves it to the rule."""
    memory_bytes: int | None = None
    """Memory of each node; None leaves it to the rule."""
    minutes: int | None = None
    """Time limit of one job; a stage that takes longer is requeued. None leaves it to the rule."""

    def __post_init__(self) -> None:
        """Refuse requests that no cluster could satisfy."""
        for name in ("processes", "nodes", "cpus_per_process", "memory_bytes", "minutes"):
            check_at_least(f"resources.{name}", getattr(self, name), 1)
        if self.processes is not None and self.nodes is not None and self.processes % self.nodes:
            raise ValueError(f"resources.processes={self.processes} is not divisible by resources.nodes={self.nodes}")


@dataclass(frozen=True)
class CheckpointConfig:
    """When resumable state is written to disk; not part of a stage's id."""

    interval_seconds: float | None = None
    """Wall time between checkpoints that are not milestones: the most work that can be lost. None chooses it from
    what the last write took, so that writing takes less than 1% of the time; a minute for small models."""
    keep_last: int = 2
    """Number of checkpoints to keep that are neither milestones nor branch points."""
    writes: str = "auto"
    """`background` copies the state and writes it while training goes on, `inline` has training wait; `auto` writes in
    the background on a GPU alone. The files are the same byte for byte."""

    def __post_init__(self) -> None:
        """Refuse a policy that could not resume."""
        check_above("checkpoint.interval_seconds", self.interval_seconds, 0)
        check_at_least("checkpoint.keep_last", self.keep_last, 1)
        check_choice("checkpoint.writes", self.writes, WRITES)


@dataclass(frozen=True)
class BudgetConfig:
    """Limits on what a launch may cost; `run` refuses a plan above them."""

    max_flops: float | None = None
    """Training FLOPs still to be done; None for no limit."""
    max_hours: float | None = None
    """Estimated hours on this machine; None for no limit."""
    max_gpu_hours: float | None = None
    """Estimated GPU hours on the cluster; None for no limit."""
    max_cost: float | None = None
    """Estimated cost in the cluster's currency; None for no limit."""

    def __post_init__(self) -> None:
        """Refuse negative budgets."""
        for name in ("max_flops", "max_hours", "max_gpu_hours", "max_cost"):
            check_at_least(f"budget.{name}", getattr(self, name), 0)
