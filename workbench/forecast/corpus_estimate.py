"""What a corpus that is not made yet will take: input, tasks, time, CPU hours and disk, by measured speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.config.kind_registry import find_kind
from workbench.config.schema import ClusterConfig
from workbench.data.corpus.corpus_plan import Corpus
from workbench.data.corpus.corpus_progress import name_time
from workbench.data.corpus.corpus_speeds import Speed, recall
from workbench.data.corpus.corpus_trial import try_corpus
from workbench.data.corpus.phases import PHASES
from workbench.data.corpus.pipeline import building_folder
from workbench.data.corpus.shards import Shard, plan_shards
from workbench.data.corpus.task_folder import TaskFolder
from workbench.data.inputs import PACKED_SUFFIXES
from workbench.data.object_store import without_query
from workbench.forecast.packing_estimate import PackingWork, describe_packing, estimate_packing
from workbench.forecast.study_facts import Facts, packed_contexts, unmade_corpora
from workbench.study.cores import usable_cores
from workbench.study.corpus_node import CorpusNode, CorpusSpec
from workbench.study.stage_states import Scheduled, StageState


@dataclass(frozen=True)
class CorpusWork:
    """What is known of a corpus before it is made."""

    name: str
    """Of the data."""
    input_bytes: int | None
    """Input as it lies on disk; None where a source is not here and states no size."""
    unknown_sources: tuple[str, ...]
    """Those whose size is not known."""
    stated_bytes: int
    """Part of `input_bytes` that is not here, and that sources state."""
    is_packed: bool
    """Whether (some of) the input is packed, or may be, so that its text is more than its bytes."""
    shards: int
    """Its shards; a data set of the hub whose files are not known is one."""
    tasks: int
    """Tasks of all phases."""
    cores: int
    """Worker processes, one a core."""
    bytes_per_second: float | None
    """Input a second of one core; None: not measured."""
    measured: str
    """Where and on what the speed was measured."""
    cpu_seconds: float | None
    """Seconds of all cores together."""
    seconds: float | None
    """Seconds until it is made: the work divided by the cores, but not less than its largest shard takes alone."""
    disk_while_bytes: int | None
    """Disk that it takes while it is made."""
    disk_after_bytes: int | None
    """Disk of its tokens."""
    download_bytes: int = 0
    """Input that is fetched into the hub's cache, unless it is there."""
    id: str = ""
    """Fingerprint of the data."""
    packing: tuple[PackingWork, ...] = ()
    """What packing its documents takes beside all this, by context; none where no stage packs them."""


def estimate_corpora(facts: Facts, cluster: ClusterConfig | None, *, measure: bool) -> list[CorpusWork]:
    """Estimate what each corpus of a study will take that is not made yet.

    Parameters
    ----------
    facts
        The study.
    cluster
        Where it is made; None is this machine.
    measure
        Whether to try what was never measured, for at most some two seconds a corpus.
    """
    return [_estimate(facts, node, cluster, measure) for node in unmade_corpora(facts).values()]


def _estimate(facts: Facts, node: CorpusNode, cluster: ClusterConfig | None, measure: bool) -> CorpusWork:
    fingerprint, config = node.id, node.spec
    data = config.data
    shards = plan_shards(data, ask_hub=not facts.data_notes)
    folder = TaskFolder(building_folder(facts.layout.data(fingerprint)))
    corpus = Corpus(folder, fingerprint, data, config.tokenizer, tuple(shards))
    found = recall(facts.layout.root, data, config.tokenizer)
    if found is not None:
        speed, measured = found[0], f"as {found[1]} made such data last"
    else:
        tried = try_corpus(data, config.tokenizer, shards) if measure else None
        speed, measured = (None, "") if tried is None else (tried[0], f"tried here on {tried[1]}")
    sizes = [_size(shard, config) for shard in shards]
    unknown = tuple(dict.fromkeys(s.source for s, size in zip(shards, sizes, strict=True) if size is None))
    known = [size for size in sizes if size is not None]
    cores = (
        usable_cores() if cluster is None else cluster.prepare_jobs * (cluster.prepare_cpus or cluster.cpus_per_node)
    )
    total = None if unknown else sum(known)
    work = None if total is None or speed is None else corpus_time(total, max(known, default=0), speed, cores)
    tasks = sum(len(phase.tasks(corpus)) for phase in PHASES)
    if work is not None and (done := sum(len(folder.done_in(phase.name)) for phase in PHASES)):
        # By tasks, which do not take the same time.
        work = work[0] * max(0.0, 1 - done / tasks), work[1] * max(0.0, 1 - done / tasks)
    return CorpusWork(
        name=data.name,
        input_bytes=total,
        unknown_sources=unknown,
        stated_bytes=sum(known) - sum(shard.bytes for shard in shards),
        is_packed=any(_is_packed(shard, data.sources[shard.source].kind) for shard in shards),
        shards=len(shards),
        tasks=tasks,
        cores=cores,
        bytes_per_second=None if speed is None else speed.bytes_per_second,
        measured=measured,
        cpu_seconds=None if work is None else work[0],
        seconds=None if work is None else work[1],
        disk_while_bytes=None if total is None or speed is None else corpus_disk(total, speed)[0],
        disk_after_bytes=None if total is None or speed is None else corpus_disk(total, speed)[1],
        download_bytes=sum(shard.bytes for shard in shards if data.sources[shard.source].files is not None),
        id=fingerprint,
        packing=tuple(
            _estimate_packing(context, sources, shards, sizes, speed)
            for (packed, context), sources in packed_contexts(facts.plan).items()
            if packed == fingerprint
        ),
    )


def _estimate_packing(
    context: int, sources: Sequence[str], shards: Sequence[Shard], sizes: Sequence[int | None], speed: Speed | None
) -> PackingWork:
    """Estimate packing some sources of a corpus, whose input is as much as their shards have."""
    drawn = [size for shard, size in zip(shards, sizes, strict=True) if shard.source in sources]
    known = [size for size in drawn if size is not None]
    if speed is None or speed.documents is None or speed.tokens is None or len(known) < len(drawn):
        return estimate_packing(context, sources, None, None)
    part = sum(known) / speed.bytes
    return estimate_packing(context, sources, part * speed.documents, part * speed.tokens)


def _size(shard: Shard, config: CorpusSpec) -> int | None:
    """Input of a shard; what its source states where it is not here, and None where it does not."""
    source = config.data.sources[shard.source]
    return shard.bytes if source.kind != "huggingface" or shard.bytes else source.size_bytes


def _is_packed(shard: Shard, kind: str) -> bool:
    return kind == "parquet" or any(_may_be_packed(kind, without_query(part.path).lower()) for part in shard.parts)


def _may_be_packed(kind: str, name: str) -> bool:
    return name.endswith((*PACKED_SUFFIXES, ".parquet")) or (kind == "huggingface" and not name)


def corpus_time(total: int, largest: int, speed: Speed, cores: int) -> tuple[float, float]:
    """Seconds of all cores together, and seconds until a corpus is made.

    Parameters
    ----------
    total, largest
        Input in bytes: all of it, and that of the largest shard, which one core does alone.
    speed
        Of one core.
    cores
        That work at a time; more of them than shards have nothing to do.
    """
    seconds = total / speed.bytes_per_second
    return seconds, max(seconds / cores, largest / speed.bytes_per_second)


def corpus_disk(total: int, speed: Speed) -> tuple[int, int]:
    """Bytes of disk while a corpus of `total` bytes is made, and those of its tokens after."""
    after = total * speed.store_bytes / speed.bytes
    return round(after + total * speed.work_bytes / speed.bytes), round(after)


def corpora_json(facts: Facts, works: Sequence[CorpusWork]) -> list[dict[str, Any]]:
    """Machine-readable corpora of a study, with the estimates of those that are not made; see `workbench plan --json`."""
    estimates, found = {work.id: work for work in works}, list[dict[str, Any]]()
    for node in facts.plan.corpora.values():
        state = _state(facts, node)
        sources = node.spec.data.sources.items()
        values: dict[str, Any] = {
            "id": node.id,
            "kind": node.spec.kind,
            "name": node.spec.name,
            "inputs": {name: {"kind": s.kind, "path": s.path, "revision": s.revision} for name, s in sources},
            "points": list(node.points),
            "stages": list(node.stages),
            "state": state.state,
            "tokens": state.tokens,
            "tasks_done": state.tasks_done,
        }
        found.append(values | (asdict(estimates[node.id]) if node.id in estimates else {}))
    return found


def _state(facts: Facts, node: CorpusNode) -> StageState:
    """How far a corpus is by its files; `workbench status` asks the scheduler, too."""
    return find_kind(node.spec.kind).plan.state(node, facts.layout, Scheduled())


def describe_corpus(work: CorpusWork) -> str:
    """Say in one line what a corpus will take."""
    if work.input_bytes is None:
        size = f"input: not known of {', '.join(work.unknown_sources)} (data.sources.*.size_bytes states it)"
    else:
        size = f"input: {name_bytes(work.input_bytes)}" + (", as its sources state" if work.stated_bytes else "")
    if work.download_bytes:
        size += f" ({name_bytes(work.download_bytes)} of it from the hub, kept in its cache)"
    text = f"data {work.name} is not made yet: {size}, {work.shards:,} shards, {work.tasks:,} tasks"
    if work.bytes_per_second is None:
        return f"{text}; time and disk: not measured"
    text += f"; {work.bytes_per_second / 1e6:.3g} MB/s a core ({work.measured})"
    if work.seconds is None or work.cpu_seconds is None:
        return text
    text += f"; about {work.cpu_seconds / 3600:,.3g} CPU hours, {name_time(work.seconds)} on {work.cores} cores"
    if work.seconds > 1.01 * work.cpu_seconds / work.cores:
        text += " (as long as the largest shard takes one core alone)"
    text += f"; disk: {name_bytes(work.disk_while_bytes or 0)} while it is made, {name_bytes(work.disk_after_bytes or 0)} after"
    if work.is_packed and work.measured.startswith("tried"):
        text += " (measured on plain text: as many times more as the packed input's text is larger than its files)"
    return "; ".join([text, *map(describe_packing, work.packing)])


def name_bytes(size: int) -> str:
    """Name a size in the unit that fits it."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e6:.3g} MB"
