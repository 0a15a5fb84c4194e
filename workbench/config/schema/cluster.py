"""A cluster to run on."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.config.plain import check_above, check_at_least


@dataclass(frozen=True)
class ClusterConfig:
    """One partition of a Slurm cluster."""

    name: str
    """Short name, used in tables."""
    partition: str | None = None
    """Slurm's partition; None takes the cluster's default."""
    account: str | None = None
    """Account that the time is charged to; None takes the user's default."""
    qos: str | None = None
    """Quality of service; None takes the user's default."""
    constraint: str | None = None
    """Required node features, as in `sbatch --constraint`."""
    cpus_per_node: int = 2
    """CPU cores of a node."""
    memory_bytes_per_node: int | None = None
    """Memory of a node; None requests none, so that the cluster's default applies."""
    gpus_per_node: int = 0
    """GPUs of a node; 0 trains on the CPU."""
    gpu_kind: str | None = None
    """Kind of GPU as the cluster's `--gres` names it (`a100`); None requests any."""
    gpu_memory_bytes: int | None = None
    """Memory of one GPU; None leaves micro-batch and number of GPUs to the config."""
    max_nodes: int = 1
    """Most nodes per job."""
    time_limit_minutes: int = 60
    """Longest time limit of a job; a stage that takes longer is requeued under the same job id."""
    signal_seconds: int = 120
    """How long before its limit a job is warned; it has that long to write a checkpoint. A job whose checkpoints are measured to
    take longer stops earlier by itself."""
    max_array_tasks: int = 1000
    """Most elements per job array (Slurm's MaxArraySize)."""
    array_parallelism: int | None = None
    """Elements of one array that may run at once; None leaves it to the scheduler."""
    max_submit: int | None = None
    """Jobs a user may have queued (MaxSubmitJobs); None finds out by trying."""
    setup: list[str] = field(default_factory=list[str])
    """Shell lines run on the node before the job: modules, environment variables."""
    python: str | None = None
    """Python to run on the nodes; None takes the one that launches."""
    submit_from_node: bool = False
    """Whether the cluster allows `sbatch` on compute nodes: evaluations are then submitted early."""
    rule: str = "fewest_gpus"
    """Rule of `workbench.study.resources` that derives a job's resources from size, tokens and speed: `fewest_gpus`,
    or `within_time_limit` (as many more as needed to finish a stage within one job)."""
    tokens_per_second: dict[str, float] = field(default_factory=dict[str, float])
    """Measured training speed of one GPU (or process) by model name, assumed to scale linearly with their number.
    Models not named are estimated from FLOPs."""
    flops_per_second: float | None = None
    """Training FLOPs per second of one GPU (or process), for models not named above; None gives no estimate."""
    price_per_gpu_hour: float | None = None
    """Price of one GPU hour (of one node hour without GPUs); None gives no cost."""
    currency: str = "USD"
    """Currency of the price."""
    evaluation_gpus: int = 0
    """GPUs of an evaluation job."""
    evaluation_cpus: int = 1
    """CPU cores of an evaluation job."""
    evaluation_memory_bytes: int | None = None
    """Memory of an evaluation job; None takes the cluster's default."""
    evaluation_minutes: int = 60
    """Time limit of an evaluation job."""
    prepare_jobs: int = 4
    """Most jobs, each on one node, that make a corpus (`data.corpus`) together; fewer where it has fewer tasks."""
    prepare_cpus: int | None = None
    """CPU cores of such a job, and its worker processes; None takes those of a node."""
    prepare_memory_bytes: int | None = None
    """Memory of such a job; None takes the cluster's default."""
    prepare_minutes: int | None = None
    """Time limit of such a job, which is requeued under the same job id; None takes `time_limit_minutes`."""
    prepare_partition: str | None = None
    """Partition of such jobs, which need no GPU; None takes `partition`."""
    train_after_prepare: bool = False
    """Whether a launch submits the trainings together with the jobs that make their corpus, on which they then depend; false
    leaves them to the same command once the data is there, which checks first that it has enough tokens."""
    sbatch: dict[str, str] = field(default_factory=dict[str, str])
    """Further `sbatch` options by their long names, without dashes."""

    def __post_init__(self) -> None:
        """Refuse a cluster on which no job fits."""
        for name in ("cpus_per_node", "max_nodes", "time_limit_minutes", "max_array_tasks", "array_parallelism"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        for name in ("signal_seconds", "max_submit", "evaluation_cpus", "evaluation_minutes"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        for name in ("prepare_jobs", "prepare_cpus", "prepare_minutes", "prepare_memory_bytes"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        if self.prepare_cpus is not None and self.prepare_cpus > self.cpus_per_node:
            raise ValueError(
                f"cluster.prepare_cpus={self.prepare_cpus} is above cluster.cpus_per_node={self.cpus_per_node}: no node has as many"
            )
        check_at_least("cluster.gpus_per_node", self.gpus_per_node, 0)
        check_at_least("cluster.evaluation_gpus", self.evaluation_gpus, 0)
        for name in ("memory_bytes_per_node", "gpu_memory_bytes", "evaluation_memory_bytes"):
            check_at_least(f"cluster.{name}", getattr(self, name), 1)
        for model, speed in self.tokens_per_second.items():
            check_above(f"cluster.tokens_per_second.{model}", speed, 0)
        check_above("cluster.flops_per_second", self.flops_per_second, 0)
        check_at_least("cluster.price_per_gpu_hour", self.price_per_gpu_hour, 0)
        for name in ("time_limit_minutes", "evaluation_minutes", "prepare_minutes"):
            if getattr(self, name) is not None and self.signal_seconds >= 60 * getattr(self, name):
                raise ValueError(
                    f"cluster.signal_seconds={self.signal_seconds} is not below cluster.{name}={getattr(self, name)}: "
                    "a job would be warned before it starts"
                )
