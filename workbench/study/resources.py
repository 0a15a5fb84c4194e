"""Resources that a stage's job requests from a cluster: named rules over what fits, pure arithmetic.

A cluster with GPUs gives each process one of them; one without gives a stage one process with the threads
of its numerics. Whatever `Stage.resources` sets is taken as it is, and the rule decides the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from workbench.config.schema import ClusterConfig, Stage, TrainingStage
from workbench.study.checkpoint_copies import copied_bytes
from workbench.study.flops import training_flops_per_token
from workbench.study.kind_plan import checkpoint_bytes, flops_per_token, held_bytes, process_memory
from workbench.study.memory import Adapters, Memory, head_padded_to, peak_memory

USABLE_MEMORY = 0.9
"""Share of a GPU's memory a plan may fill; the rest is the allocator's fragments and the libraries' own."""
PROCESS_BYTES = 300_000_000
"""Memory of a training process before its first tensor, without CUDA's libraries: measured 282 MB."""
TIME_MARGIN = 1.5
"""Time limit over the estimate: a job that ends early costs nothing, one that is cut short must queue again."""
CHECKPOINT_BYTES_PER_SECOND = 100e6
"""At which a job that trains nothing reads and writes checkpoints: a slow disk's, chosen and not measured."""
STARTUP_SECONDS = 300
"""Seconds for imports from a shared file system, compilation and the last checkpoint; chosen, not measured."""


@dataclass(frozen=True)
class Resources:
    """What one job of a stage requests, and what it is expected to use."""

    nodes: int
    """Nodes."""
    processes_per_node: int
    """Processes (Slurm's tasks) on each node, one per GPU."""
    gpus_per_node: int
    """GPUs on each node; 0 trains on the CPU."""
    cpus_per_process: int
    """CPU cores of each process."""
    memory_bytes_per_node: int | None
    """Memory of each node; None takes the cluster's default."""
    minutes: int
    """Time limit of the job."""
    micro_batch_sequences: int | None
    """Sequences of a process's forward pass; None leaves the stage's numerics as they are."""
    peak_memory_bytes: int
    """Estimated peak of one process: on its GPU, or in the node's memory."""
    seconds: float | None
    """Estimated training time; None where the speed is unknown."""

    @property
    def processes(self) -> int:
        """Processes of the job."""
        return self.nodes * self.processes_per_node


@dataclass(frozen=True)
class Option:
    """One way to train a stage that fits the cluster, for a rule to choose from."""

    nodes: int
    """Nodes that the processes are spread over evenly."""
    processes: int
    """Processes, one per GPU if there are any."""
    micro_batch_sequences: int | None
    """Sequences of a process's forward pass; None leaves it to the numerics."""
    memory: Memory
    """Estimated peak of one process."""
    seconds: float | None
    """Estimated training time."""


Rule = Callable[[Sequence[Option], ClusterConfig], Option]
"""Chooses among options that fit, sorted with the fewest processes first."""


def fewest_gpus(options: Sequence[Option], cluster: ClusterConfig) -> Option:
    """Take the fewest GPUs: each further one loses time to communication, and small jobs start earlier."""
    return options[0]


def within_time_limit(options: Sequence[Option], cluster: ClusterConfig) -> Option:
    """Take the fewest GPUs that finish in one job, so that a stage is not requeued; the most where none do."""
    for option in options:
        if option.seconds is None or _minutes(option.seconds, cluster) <= cluster.time_limit_minutes:
            return option
    return options[-1]


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (fewest_gpus, within_time_limit)}
"""What `cluster.rule` may name."""


def stage_resources(
    stage: Stage, cluster: ClusterConfig, tokens: int, tokens_per_second: float | None = None
) -> Resources:
    """Derive what one job of a stage requests from its size, tokens and speed.

    Parameters
    ----------
    stage
        What is trained; whatever its `resources` set is not left to the rule.
    cluster
        Where.
    tokens
        Tokens that the job trains.
    tokens_per_second
        Measured speed of one process; None takes the cluster's value. Speed is assumed to scale linearly with
        processes.

    Raises
    ------
    ValueError
        The rule is unknown, or the stage does not fit the cluster.
    """
    if cluster.rule not in RULES:
        raise ValueError(f"cluster.rule={cluster.rule!r} is not one of {', '.join(RULES)}")
    if not isinstance(stage, TrainingStage):
        return _small_job(stage, cluster)
    speed = tokens_per_second or cluster_speed(stage, cluster)
    option = RULES[cluster.rule](_options(stage, cluster, tokens, speed), cluster)
    per_node = option.processes // option.nodes
    cpus = _cpus_per_process(stage, cluster)
    if per_node * cpus > cluster.cpus_per_node:
        raise ValueError(
            f"stage {stage.name!r}: {per_node} processes of {cpus} cores a node exceed "
            f"cluster.cpus_per_node={cluster.cpus_per_node}"
        )
    return Resources(
        nodes=option.nodes,
        processes_per_node=per_node,
        gpus_per_node=per_node if uses_gpus(stage, cluster) else 0,
        cpus_per_process=cpus,
        memory_bytes_per_node=_node_memory(stage, cluster, option, cpus),
        minutes=_time_limit(stage, cluster, option.seconds),
        micro_batch_sequences=option.micro_batch_sequences,
        peak_memory_bytes=option.memory.total,
        seconds=option.seconds,
    )


def _small_job(stage: Stage, cluster: ClusterConfig) -> Resources:
    """Give a stage that reads and writes checkpoints, and trains nothing, one process on one node."""
    one = checkpoint_bytes(stage, whole=False)
    # Weights as they are read, what is made of them, and both in the order in which they are written.
    held, reads = 4 * one, max(1, len(stage.references))
    seconds = (2 * reads + 1) * one / CHECKPOINT_BYTES_PER_SECOND
    needed = None if cluster.memory_bytes_per_node is None else math.ceil(held / USABLE_MEMORY) + PROCESS_BYTES
    return Resources(
        nodes=1,
        processes_per_node=1,
        gpus_per_node=0,
        cpus_per_process=stage.resources.cpus_per_process or stage.numerics.threads,
        memory_bytes_per_node=stage.resources.memory_bytes or needed,
        minutes=_time_limit(stage, cluster, seconds),
        micro_batch_sequences=None,
        peak_memory_bytes=held,
        seconds=seconds,
    )


def uses_gpus(stage: Stage, cluster: ClusterConfig) -> bool:
    """Whether a stage trains on the cluster's GPUs."""
    if not isinstance(stage, TrainingStage):
        return False
    if stage.numerics.device == "cuda" and not cluster.gpus_per_node:
        raise ValueError(f"numerics.device='cuda', but cluster {cluster.name!r} has cluster.gpus_per_node=0")
    return cluster.gpus_per_node > 0 and stage.numerics.device != "cpu"


def cluster_speed(stage: Stage, cluster: ClusterConfig) -> float | None:
    """Tokens per second of one process: as measured for the model's name, or from the cluster's FLOPs per second."""
    if stage.model.name in cluster.tokens_per_second:
        own = training_flops_per_token(stage.model)
        return cluster.tokens_per_second[stage.model.name] * own / flops_per_token(stage)
    if cluster.flops_per_second is not None:
        return cluster.flops_per_second / flops_per_token(stage)
    return None


def shared_within_nodes(stage: TrainingStage, processes_per_node: int) -> TrainingStage:
    """Have a copy of the model shared out within each node, where it is to be shared out in groups that are left open."""
    numerics = stage.numerics
    if numerics.parallel != "hybrid" or numerics.shard_processes is not None:
        return stage
    return replace(stage, numerics=replace(numerics, shard_processes=processes_per_node))


def _options(asked: TrainingStage, cluster: ClusterConfig, tokens: int, speed: float | None) -> list[Option]:
    """Ways to train the stage that fit, fewest processes first."""
    found: list[Option] = []
    least: int | None = None
    for nodes, processes in _spreads(asked, cluster):
        stage = shared_within_nodes(asked, processes // nodes)
        for micro_batch in _micro_batches(stage, cluster, processes):
            memory = stage_memory(stage, processes, micro_batch, "cuda" if uses_gpus(stage, cluster) else "cpu")
            least = memory.total if least is None else min(least, memory.total)
            if _fits(stage, cluster, memory):
                seconds = None if speed is None else tokens / (speed * processes)
                found.append(Option(nodes, processes, micro_batch, memory, seconds))
                break
    if not found:
        assert least is not None
        assert cluster.gpu_memory_bytes is not None
        raise ValueError(
            f"stage {asked.name!r} of model {asked.model.name!r} needs at least {least / 1e9:.3g} GB per GPU, more "
            f"than {USABLE_MEMORY:.0%} of cluster.gpu_memory_bytes={cluster.gpu_memory_bytes}: set numerics.parallel="
            "shard, numerics.activation_checkpointing=true or a smaller numerics.micro_batch_sequences"
        )
    return found


def _spreads(stage: TrainingStage, cluster: ClusterConfig) -> list[tuple[int, int]]:
    """Nodes and processes that may be requested, fewest processes first.

    Within a node, any number that divides the batch; beyond one node, only whole nodes.
    """
    wanted, room = stage.resources, _room(stage, cluster)
    if wanted.processes is not None:
        return [(_even_nodes(wanted.processes, stage, cluster), wanted.processes)]
    if not uses_gpus(stage, cluster):
        counts = [(wanted.nodes or 1, wanted.nodes or 1)]
    elif cluster.gpu_memory_bytes is None:
        counts = [(wanted.nodes or 1, (wanted.nodes or 1) * (room if wanted.nodes else 1))]
    else:
        inside = [(1, count) for count in range(1, room)]
        counts = [*inside, *((nodes, nodes * room) for nodes in range(1, cluster.max_nodes + 1))]
    found = [
        (nodes, processes)
        for nodes, processes in counts
        if wanted.nodes in (None, nodes)
        and nodes <= cluster.max_nodes
        and stage.batch_sequences % processes == 0
        and (processes == 1 or processes % (stage.numerics.shard_processes or 1) == 0)
    ]
    if not found:
        group = stage.numerics.shard_processes
        groups = "" if group is None else f" these by numerics.shard_processes={group},"
        raise ValueError(
            f"resources.nodes={wanted.nodes} does not suit stage {stage.name!r}: its batch of {stage.batch_sequences} "
            f"sequences must divide by the processes,{groups} and cluster.max_nodes={cluster.max_nodes}"
        )
    return found


def _room(stage: Stage, cluster: ClusterConfig) -> int:
    """Count the processes that fit a node."""
    if uses_gpus(stage, cluster):
        return cluster.gpus_per_node
    return max(1, cluster.cpus_per_node // _cpus_per_process(stage, cluster))


def _even_nodes(processes: int, stage: TrainingStage, cluster: ClusterConfig) -> int:
    """Fewest nodes over which the requested processes can be spread evenly."""
    if stage.batch_sequences % processes:
        raise ValueError(
            f"resources.processes={processes} does not divide the batch of {stage.batch_sequences} sequences "
            f"of stage {stage.name!r}"
        )
    room = _room(stage, cluster)
    for nodes in [stage.resources.nodes] if stage.resources.nodes else range(1, cluster.max_nodes + 1):
        if nodes <= cluster.max_nodes and processes % nodes == 0 and processes // nodes <= room:
            return nodes
    raise ValueError(
        f"resources.processes={processes} on resources.nodes={stage.resources.nodes} does not fit cluster "
        f"{cluster.name!r}: {room} processes on each of up to {cluster.max_nodes} nodes"
    )


def _micro_batches(stage: TrainingStage, cluster: ClusterConfig, processes: int) -> list[int | None]:
    """Possible micro-batches, largest first: powers of two that divide a process's share."""
    leave = stage.numerics.micro_batch_sequences is not None or cluster.gpu_memory_bytes is None
    if leave or not uses_gpus(stage, cluster):
        return [None]
    share = stage.batch_sequences // processes
    largest = share & -share
    return [2**power for power in reversed(range(largest.bit_length()))]


def stage_memory(stage: TrainingStage, processes: int, micro_batch_sequences: int | None, device: str) -> Memory:
    """Estimate the peak of one process of a stage; a micro-batch of None is the numerics' own."""
    share = stage.batch_sequences // processes
    micro_batch = min(share, micro_batch_sequences or stage.numerics.micro_batch_sequences or share)
    copy = copied_bytes(stage, processes, device) if device == "cpu" else 0  # a GPU's lies in the host's memory
    own = process_memory(stage, processes, micro_batch, device)
    if own is not None:
        return replace(own, total=own.total + copy)
    memory = training_memory(stage, processes, micro_batch, device)
    return replace(memory, total=memory.total + held_bytes(stage, micro_batch, device) + copy)


def training_memory(
    stage: TrainingStage, processes: int, micro_batch: int, device: str, adapters: Adapters | None = None
) -> Memory:
    """Estimate the peak of one process that trains a stage, at the stream's context, without what its kind holds beside."""
    share = stage.batch_sequences // processes
    model = stage.model
    if model.position != "learned":  # whose table is as long as the model's own context
        model = replace(model, context_tokens=stage.stream.context_tokens)
    return peak_memory(
        model,
        micro_batch_sequences=micro_batch,
        micro_batches=math.ceil(share / micro_batch),
        precision=stage.precision,
        activation_checkpointing=stage.numerics.activation_checkpointing,
        attention=stage.numerics.attention,
        parallel=stage.numerics.parallel,
        processes=stage.numerics.sharers(processes),
        device=device,
        document_mask=stage.stream.document_mask,
        optimizer=stage.optimizer.kind,
        adapters=adapters,
        pads_head=head_padded_to(stage.numerics, model.vocab_size, device) > 1,
    )


def _fits(stage: TrainingStage, cluster: ClusterConfig, memory: Memory) -> bool:
    if not uses_gpus(stage, cluster) or cluster.gpu_memory_bytes is None:
        return True
    return memory.total <= USABLE_MEMORY * cluster.gpu_memory_bytes


def _cpus_per_process(stage: Stage, cluster: ClusterConfig) -> int:
    """Cores as requested; else a GPU's share of its node, or the threads of the numerics."""
    if stage.resources.cpus_per_process is not None:
        return stage.resources.cpus_per_process
    if uses_gpus(stage, cluster):
        return max(1, cluster.cpus_per_node // cluster.gpus_per_node)
    return stage.numerics.threads


def _node_memory(stage: Stage, cluster: ClusterConfig, option: Option, cpus: int) -> int | None:
    """Memory as requested; else the node's memory in proportion to the job's GPUs or cores, if that is enough."""
    if stage.resources.memory_bytes is not None:
        return stage.resources.memory_bytes
    node, per_node = cluster.memory_bytes_per_node, option.processes // option.nodes
    if node is None:
        return None
    if uses_gpus(stage, cluster):
        return max(node * per_node // cluster.gpus_per_node, _copies(stage, option, node))
    needed = math.ceil(per_node * (option.memory.total / USABLE_MEMORY + PROCESS_BYTES))
    if needed > node:
        raise ValueError(
            f"stage {stage.name!r} of model {stage.model.name!r} needs {needed / 1e9:.3g} GB per node, more than "
            f"cluster.memory_bytes_per_node={node}: set a smaller numerics.micro_batch_sequences or more nodes"
        )
    return max(needed, node * per_node * cpus // cluster.cpus_per_node)


def _copies(stage: Stage, option: Option, node: int) -> int:
    """Memory of the node that takes most, for its processes and their copies of a checkpoint on the GPUs."""
    copied = copied_bytes(stage, option.processes, "cuda")
    if not copied:
        return 0
    others = option.processes // option.nodes - 1
    share = checkpoint_bytes(stage, whole=True) // option.processes if stage.numerics.parallel == "shard" else 0
    needed = (1 + others) * PROCESS_BYTES + copied + others * share
    if needed > node:
        raise ValueError(
            f"stage {stage.name!r} of model {stage.model.name!r} needs {needed / 1e9:.3g} GB per node for copies of its "
            f"checkpoints, more than cluster.memory_bytes_per_node={node}: set checkpoint.writes=inline"
        )
    return needed


def _time_limit(stage: Stage, cluster: ClusterConfig, seconds: float | None) -> int:
    wanted = stage.resources.minutes
    if wanted is not None and wanted > cluster.time_limit_minutes:
        raise ValueError(f"resources.minutes={wanted} is above cluster.time_limit_minutes={cluster.time_limit_minutes}")
    if wanted is not None and 60 * wanted <= cluster.signal_seconds:
        raise ValueError(
            f"resources.minutes={wanted} is not above cluster.signal_seconds={cluster.signal_seconds}: "
            "a job would be warned before it starts"
        )
    if wanted is not None or seconds is None:
        return wanted or cluster.time_limit_minutes
    return min(_minutes(seconds, cluster), cluster.time_limit_minutes)


def _minutes(seconds: float, cluster: ClusterConfig) -> int:
    """Minutes to request for a job of so many seconds; it is warned `signal_seconds` before the limit."""
    return math.ceil((seconds * TIME_MARGIN + STARTUP_SECONDS + cluster.signal_seconds) / 60)
