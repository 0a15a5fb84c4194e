"""From sweep points to the fewest stages that answer them, and what is left to do.

Pure arithmetic: nothing is read, nothing is started. `workbench.forecast.study_facts` brings the facts
(composed points, checkpoints that exist, measured speed).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.config.schema import Config, EvaluationConfig, Stage, to_dict
from workbench.study.chain import build_chain, merge_targets
from workbench.study.corpus_node import CorpusNode, corpus_nodes, corpus_record
from workbench.study.flops import approx_flops_6nd, count_parameters
from workbench.study.identity import stage_id
from workbench.study.kind_plan import flops_per_token, main_line, total_flops


@dataclass(frozen=True)
class Point:
    """One sweep point and the chain of stages that answers it."""

    name: str
    """Overrides in which it differs from its siblings."""
    config: Config
    """Its composed config."""
    data_fingerprint: str
    """Name of its token store."""
    chain: tuple[tuple[str, int], ...]
    """Stage ids with the tokens (since the chain's start) this point needs of each."""
    params: int
    """All parameters."""
    params_non_embedding: int
    """Without embeddings."""
    tokens: int
    """Budget, in whole optimizer steps."""
    own_tokens: int
    """Tokens that the study trains for it, its teacher's too, without those of a checkpoint from outside."""
    flops: float
    """Exact training FLOPs of the whole chain."""
    flops_6nd: float
    """The 6 N D rule's, N without embeddings."""


@dataclass(frozen=True)
class Node:
    """One stage of the graph, with the targets of every point that goes through it."""

    id: str
    """Name of its trajectory."""
    stage: Stage
    """What is trained; targets merged over the points."""
    trajectory: str
    """Id of the chain's first stage; stages that share it are not independent."""
    points: tuple[str, ...]
    """Names of the points that go through it."""

    @property
    def tokens(self) -> int:
        """Length of the stage in tokens."""
        return self.stage.end_tokens - self.stage.start_tokens

    @property
    def targets(self) -> list[int]:
        """Tokens at which it must have checkpoints."""
        return self.stage.targets


@dataclass(frozen=True)
class Plan:
    """A study's graph: points, and stages in an order that respects parents."""

    study: str
    """The study's name."""
    points: tuple[Point, ...]
    """As the sweep gives them."""
    nodes: dict[str, Node]
    """Stages by id, parents first."""
    evaluation: EvaluationConfig
    """What is scored at every milestone."""
    corpora: dict[str, CorpusNode] = field(default_factory=dict[str, CorpusNode])
    """Corpora that the stages read, by fingerprint; none where data are made in one pass."""

    @property
    def tokens_unshared(self) -> int:
        """Tokens that one training a point would take."""
        return sum(point.own_tokens for point in self.points)

    @property
    def tokens_shared(self) -> int:
        """Tokens that the graph takes from nothing."""
        return sum(node.tokens for node in self.nodes.values())


def plan_study(points: Sequence[tuple[str, Config]], data_fingerprints: Sequence[str]) -> Plan:
    """Expand named points into chains and merge the stages they share.

    Parameters
    ----------
    points
        Name and config of each sweep point.
    data_fingerprints
        Name of each point's token store.

    Raises
    ------
    ValueError
        There is no point, the points disagree on what must be one a study (its name, outputs,
        evaluation, tracking), a stage is asked for with two numerics, or heads of several widths have
        no base (`ModelConfig.base_head_width`).
    """
    if not points:
        raise ValueError("the sweep has no points")
    _same_for_all(points)
    nodes: dict[str, Node] = {}
    planned: list[Point] = []
    for (name, config), fingerprint in zip(points, data_fingerprints, strict=True):
        stages = build_chain(config, fingerprint)
        for place, stage in enumerate(stages, start=1):
            identifier, (trajectory, _) = stage_id(stage), main_line(stages[:place])[0]
            nodes[identifier] = _merge(nodes.get(identifier), Node(identifier, stage, trajectory, (name,)))
        line = main_line(stages)
        aside = {stage_id(stage): stage for stage in stages if stage_id(stage) not in dict(line)}
        beside = sum(stage.end_tokens - stage.start_tokens for stage in aside.values())
        planned.append(_point(name, config, fingerprint, line, beside))
    _refuse_twins(planned)
    _check_head_widths(nodes.values())
    corpora = corpus_nodes(
        [(point.name, point.config, point.data_fingerprint) for point in planned],
        {i: n.stage for i, n in nodes.items()},
    )
    return Plan(points[0][1].study, tuple(planned), nodes, points[0][1].evaluation, corpora)


def _refuse_twins(points: Sequence[Point]) -> None:
    """Refuse points that a checkpoint from outside makes equal, since it brings its own model and tokenizer."""
    first: dict[tuple[tuple[str, int], ...], Point] = {}
    for point in points:
        twin = first.setdefault(point.chain, point)
        if twin is not point and point.config.init.kind != "none":
            raise ValueError(
                f"points {twin.name} and {point.name} are the same: a checkpoint from outside (init) brings its own model "
                "and tokenizer, so sweep something else"
            )


def _check_head_widths(nodes: Collection[Node]) -> None:
    """Refuse models whose bases have heads of several widths because one is its own base: `mup` would not reach attention."""
    first: dict[int, tuple[str, bool]] = {}
    for node in nodes:
        model = node.stage.model
        if model.parametrisation == "standard":
            continue
        own = model.base_head_width is None
        base = model.base_head_width or model.head_width
        if base not in first or own:
            first[base] = f"{model.name} of point {node.points[0]}", own
        if len(first) > 1 and any(own for _, own in first.values()):
            said = [
                f"heads {width} wide ({name})" if own else f"a base of heads {width} wide ({name})"
                for width, (name, own) in list(first.items())[:2]
            ]
            where = "model.base_head_width=..., the width of the base's heads"
            if any(hasattr(each.stage, "teacher") or "teacher" in each.stage.inputs for each in nodes):
                where += ", and the teacher's own, teacher.model.base_head_width=..., in its part of `then`"
            raise ValueError(
                f"model.parametrisation={model.parametrisation!r} with {' and '.join(said)} would make one that names no base "
                f"its own: set {where}"
            )


def _merge(old: Node | None, new: Node) -> Node:
    if old is None:
        return new
    names = old.points if new.points[0] in old.points else (*old.points, *new.points)
    return replace(old, stage=merge_targets(old.stage, new.stage), points=names)


def _point(name: str, config: Config, fingerprint: str, line: Sequence[tuple[str, Stage]], beside: int) -> Point:
    stages = [stage for _, stage in line]
    model, tokens = stages[-1].model, stages[-1].end_tokens
    params = count_parameters(model)
    return Point(
        name=name,
        config=config,
        data_fingerprint=fingerprint,
        chain=tuple((i, _needed_tokens(stages, place)) for place, (i, _) in enumerate(line)),
        params=params.total,
        params_non_embedding=params.non_embedding,
        tokens=tokens,
        own_tokens=tokens - stages[0].start_tokens + beside,
        flops=float(total_flops(stages)),
        flops_6nd=float(approx_flops_6nd(model, tokens)),
    )


def _needed_tokens(line: Sequence[Stage], place: int) -> int:
    """Tokens up to which a point needs a stage of its line: where the next begins, or its end."""
    return line[place + 1].start_tokens if place + 1 < len(line) else line[place].end_tokens


def _same_for_all(points: Sequence[tuple[str, Config]]) -> None:
    first = points[0][1]
    for name, config in points:
        for part in ("study", "analysis", "paths", "evaluation", "tracking", "budget", "cluster"):
            if getattr(config, part) != getattr(first, part):
                _refuse_other_conversations(name, config.evaluation, first.evaluation)
                raise ValueError(f"point {name}: {part} differs from the first point's, but it is one for a study")


def _refuse_other_conversations(name: str, evaluation: EvaluationConfig, first: EvaluationConfig) -> None:
    """Refuse, by its cause, a point whose evaluation differs in nothing but the conversations that are scored."""
    own = {key: suite.conversations for key, suite in first.suites.items()}
    alike = {key: replace(suite, conversations=own.get(key)) for key, suite in evaluation.suites.items()}
    if evaluation != first and replace(evaluation, suites=alike) == first:
        suite = next(key for key in own if evaluation.suites[key] != first.suites[key])
        raise ValueError(
            f"point {name} is tuned on other conversations (files, template or context) than the first point, but the suite "
            f"{suite!r} of the evaluation scores one set for a whole study: give each a study of its own, or leave the "
            f"suite out (~evaluation.suites.{suite})"
        )


def settled_targets(node: Node, existing: Set[int], weights_only: Set[int] = frozenset()) -> set[int]:
    """Tokens of the checkpoints that need no more training.

    Parameters
    ----------
    node
        A stage of the plan.
    existing
        Tokens of the checkpoints it has.
    weights_only
        Those among them without the optimizer's state: where another stage is to begin, they do not do.
    """
    return set(existing) - (set(weights_only) & set(node.stage.branch_points))


def missing_targets(node: Node, existing: Set[int], weights_only: Set[int] = frozenset()) -> list[int]:
    """Targets that a stage still has to reach, in order (see `settled_targets`)."""
    settled = settled_targets(node, existing, weights_only)
    return [tokens for tokens in node.targets if tokens not in settled]


def tokens_to_train(node: Node, existing: Set[int], weights_only: Set[int] = frozenset()) -> int:
    """Tokens still to be trained in a stage, given the tokens of the checkpoints it has (see `settled_targets`).

    The engine reaches each missing target from the nearest checkpoint before it that it can resume from; so does this
    sum.
    """
    position, total = node.stage.start_tokens, 0
    settled, resumable = settled_targets(node, existing, weights_only), set(existing) - set(weights_only)
    for target in node.targets:
        if target in settled:
            continue
        position = max([position, *(tokens for tokens in resumable if tokens <= target)])
        total += target - position
        position = target
    return total


def remaining_flops(plan: Plan, todo: Mapping[str, int]) -> float:
    """Training FLOPs still to be done, given the tokens still to be trained in each stage."""
    return float(sum(tokens * flops_per_token(plan.nodes[i].stage) for i, tokens in todo.items()))


def study_record(plan: Plan, *, created: float, commit: str, dirty: bool) -> dict[str, Any]:
    """Content of `study.json`."""
    return {
        "study": plan.study,
        "analysis": plan.points[0].config.analysis,
        "created": created,
        "commit": commit,
        "dirty": dirty,
        "points": [_point_record(point) for point in plan.points],
        "stages": {
            node.id: {
                "stage": to_dict(node.stage),
                "trajectory": node.trajectory,
                "points": list(node.points),
                "wanted": node.stage.milestones,
            }
            for node in plan.nodes.values()
        },
        **({"corpora": {i: corpus_record(node) for i, node in plan.corpora.items()}} if plan.corpora else {}),
        "evaluation": to_dict(plan.evaluation),
    }


def _point_record(point: Point) -> dict[str, Any]:
    return {
        "name": point.name,
        "config": to_dict(point.config),
        "data_fingerprint": point.data_fingerprint,
        "chain": [{"stage": identifier, "tokens": tokens} for identifier, tokens in point.chain],
        "params": point.params,
        "params_non_embedding": point.params_non_embedding,
        "tokens": point.tokens,
        "flops": point.flops,
        "flops_6nd": point.flops_6nd,
        "seed_init": point.config.seed_init,
        "seed_data": point.config.seed_data,
    }
