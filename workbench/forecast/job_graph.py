"""From a plan to the jobs that are missing: stages cut at their branch points, alike jobs as arrays. Pure.

A *part* is what one job does: train one segment of a stage, evaluate a stage, or publish the study. Parts that
are alike and whose predecessors lie in one array become one array, element paired with element, so that the
number of submissions grows with the kinds of jobs and not with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass

from workbench.study.study_plan import Node, Plan


@dataclass(frozen=True)
class Part:
    """What one job does."""

    kind: str
    """`train`, `evaluate`, `publish`, or `prepare` (a job that makes a corpus, of which no plan has parts)."""
    name: str
    """What it is of its kind."""
    stage: str = ""
    """Id of the stage; empty for `publish`."""
    targets: tuple[int, ...] = ()
    """`train`: tokens at which it writes checkpoints."""
    after: Part | str | None = None
    """Part of this launch, or live job, that must end before it begins."""
    also: tuple[Part | str, ...] = ()
    """Further ones: of the stages that it reads besides its parent."""


@dataclass(frozen=True)
class Batch:
    """Parts that are submitted by one `sbatch`: a single job, or an array."""

    parts: tuple[Part, ...]
    """What its elements do."""
    indices: tuple[int, ...]
    """Array index of each part; children have their parent's."""
    after: int | str | None = None
    """Position of the batch it waits for, or a live job's id."""
    also: tuple[int | str, ...] = ()
    """Further ones that it waits for, whole."""
    paired: bool = False
    """Each element waits for the element of its index alone."""


def training_parts(
    plan: Plan, settled: Mapping[str, Set[int]], underway: Mapping[str, Mapping[int, str]]
) -> list[Part]:
    """Segments that nobody trains yet, each after the one it begins from.

    Parameters
    ----------
    plan
        The study's graph.
    settled
        Tokens of the checkpoints of each stage that need no more training.
    underway
        By stage: tokens of the checkpoints that a live job will write, and that job's id.
    """
    makers: dict[tuple[str, int], Part | str] = {}
    parts: list[Part] = []
    for node in plan.nodes.values():
        live = underway.get(node.id, {})
        makers |= {(node.id, tokens): job for tokens, job in live.items()}
        # One after the other within a stage: a second job would only wait for the stage's lock.
        awaited = [live[max(live)]] if live else _makers_of_inputs(node, makers)
        before, also = (awaited[0], tuple(awaited[1:])) if awaited else (None, ())
        for targets in _segments(node, set(settled[node.id]) | set(live)):
            part = Part("train", str(targets[-1]), node.id, targets, before, also)
            makers |= {(node.id, tokens): part for tokens in targets}
            parts.append(part)
            before, also = part, ()
    return parts


def _makers_of_inputs(node: Node, makers: Mapping[tuple[str, int], Part | str]) -> list[Part | str]:
    """Parts and live jobs that make what a stage reads, its parent's first; none for what is there."""
    found = [makers.get((reference.stage, reference.tokens)) for reference in node.stage.references]
    return list(dict.fromkeys(maker for maker in found if maker is not None))


def _segments(node: Node, settled: Set[int]) -> list[tuple[int, ...]]:
    """Missing targets, cut after each branch point."""
    segments: list[tuple[int, ...]] = []
    current: list[int] = []
    for tokens in node.targets:
        if tokens not in settled:
            current.append(tokens)
        if current and tokens in node.stage.branch_points:
            segments.append(tuple(current))
            current = []
    return [*segments, tuple(current)] if current else segments


def evaluation_parts(
    plan: Plan,
    digest: str,
    training: Sequence[Part],
    underway: Mapping[str, Mapping[int, str]],
    unscored: Set[str],
    claimed: Set[tuple[str, str]],
) -> list[Part]:
    """One evaluation a stage, after the last training of it.

    Parameters
    ----------
    plan
        The study's graph.
    digest
        Names what is scored, and how.
    training
        Parts of this launch.
    underway
        As for `training_parts`.
    unscored
        Stages with a checkpoint that lacks a result now.
    claimed
        (stage, name) of evaluations that a live job does already.
    """
    last = {part.stage: part for part in training}
    parts: list[Part] = []
    for node in plan.nodes.values():
        live = underway.get(node.id, {})
        after = last.get(node.id) or (live[max(live)] if live else None)
        if after is None and node.id not in unscored:
            continue
        part = Part("evaluate", f"{digest}-{max(node.stage.milestones)}", node.id, (), after)
        if (part.stage, part.name) not in claimed:
            parts.append(part)
    return parts


def make_batches(parts: Sequence[Part], alike: Callable[[Part], Hashable], max_tasks: int) -> list[Batch]:
    """Group parts into the fewest submissions, predecessors first.

    Parameters
    ----------
    parts
        Predecessors before successors.
    alike
        Equal for parts that may share an array.
    max_tasks
        Elements of an array at the most.
    """
    batches: list[Batch] = []
    place: dict[Part, tuple[int, int]] = {}
    waiting = list(parts)
    while waiting:
        ready = [
            part for part in waiting if all(one in place for one in (part.after, *part.also) if isinstance(one, Part))
        ]
        assert ready, "parts depend on each other in a circle"
        settled = set(ready)
        waiting = [part for part in waiting if part not in settled]
        for batch in _group(ready, alike, place, batches, max_tasks):
            place |= {part: (len(batches), index) for part, index in zip(batch.parts, batch.indices, strict=True)}
            batches.append(batch)
    return batches


def _group(
    ready: Sequence[Part],
    alike: Callable[[Part], Hashable],
    place: Mapping[Part, tuple[int, int]],
    batches: Sequence[Batch],
    max_tasks: int,
) -> list[Batch]:
    groups: dict[Hashable, list[tuple[Part, int]]] = {}
    siblings: dict[Hashable, int] = {}
    for part in ready:
        if part.also:
            after = place[part.after][0] if isinstance(part.after, Part) else part.after
            also = tuple(place[one][0] if isinstance(one, Part) else one for one in part.also)
            group = groups.setdefault((alike(part), after, "single", also), [])
            group.append((part, len(group)))
        elif isinstance(part.after, Part) and len(batches[place[part.after][0]].parts) > 1:
            position, index = place[part.after]
            # A second child of the same parent and kind needs an array of its own to be paired with it.
            nth = siblings[key] = siblings.get(key := (part.after, alike(part)), -1) + 1
            groups.setdefault((alike(part), position, nth, ()), []).append((part, index))
        else:
            after = place[part.after][0] if isinstance(part.after, Part) else part.after
            group = groups.setdefault((alike(part), after, "single", ()), [])
            group.append((part, len(group)))
    made: list[Batch] = []
    for (_, after, nth, also), members in groups.items():  # pyright: ignore[reportGeneralTypeIssues]
        for chunk in _chunks(members, max_tasks):
            made.append(Batch(tuple(p for p, _ in chunk), tuple(i for _, i in chunk), after, also, nth != "single"))
    return made


def _chunks(members: list[tuple[Part, int]], max_tasks: int) -> list[list[tuple[Part, int]]]:
    """Cut what is too long for one array; each piece of unpaired elements counts from 0 again."""
    chunks: dict[int, list[tuple[Part, int]]] = {}
    for part, index in members:
        chunks.setdefault(index // max_tasks, []).append((part, index % max_tasks))
    return list(chunks.values())
