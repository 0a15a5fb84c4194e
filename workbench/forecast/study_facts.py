"""A plan with its facts: what exists of it, and what is left."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.config.kind_registry import find_kind
from workbench.config.schema import Config, TrainingStage
from workbench.data.fingerprint import data_fingerprint, provisional_fingerprint
from workbench.data.hub import pin_revisions
from workbench.data.mixture import drawn_sources
from workbench.data.packed_index import BEST_FIT
from workbench.data.special_tokens import choose
from workbench.data.store import Prepared, open_prepared, prepare
from workbench.data.store_summary import notes
from workbench.data.stream import SourceCounts, Stream, is_packed_for
from workbench.evaluate.reconcile import pending
from workbench.forecast.unknown_inputs import unknown_inputs
from workbench.study.corpus_node import CorpusNode
from workbench.study.kind_plan import check as check_inputs
from workbench.study.kind_plan import prepare as prepare_inputs
from workbench.study.kind_plan import resolve, standing_tokens, tokens_left, unprepared_bytes
from workbench.study.layout import Layout
from workbench.study.study_plan import (
    Node,
    Plan,
    Point,
    missing_targets,
    plan_study,
    settled_targets,
    tokens_to_train,
)
from workbench.train.checkpoint import checkpoints_by_tokens, list_tokens

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Facts:
    """A plan, and what this machine says about it."""

    plan: Plan
    """The graph."""
    layout: Layout
    """The outputs."""
    existing: dict[str, set[int]]
    """Tokens up to which each stage has done its work: those of its checkpoints."""
    weights_only: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    """Those among them without the optimizer's state, which no training can resume from."""
    left: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens still to be done of the stages whose checkpoints do not tell."""

    data_notes: list[str] = field(default_factory=list[str])
    """What is not known here of the data: with any, the names of data and stages are provisional."""

    @property
    def config(self) -> Config:
        """The first point's config, for what is one a study."""
        return self.plan.points[0].config

    def tokens_to_train(self) -> dict[str, int]:
        """Tokens still to be trained, by stage."""
        nodes = self.plan.nodes.items()
        return {i: tokens_to_train(node, self.existing[i], self._bare(i)) for i, node in nodes} | self.left

    def missing(self) -> dict[str, list[int]]:
        """Targets still to be reached, by stage; a stage may add no tokens and still lack its checkpoint."""
        return {i: missing_targets(node, self.existing[i], self._bare(i)) for i, node in self.plan.nodes.items()}

    def settled(self) -> dict[str, set[int]]:
        """Tokens of the checkpoints that need no more training, by stage."""
        return {i: settled_targets(node, self.existing[i], self._bare(i)) for i, node in self.plan.nodes.items()}

    def resumable(self, stage: str) -> set[int]:
        """Tokens of the checkpoints of one stage that training can resume from."""
        return self.existing[stage] - self._bare(stage)

    def _bare(self, stage: str) -> set[int]:
        return self.weights_only.get(stage, set())


def make_facts(
    points: Sequence[tuple[str, Config]], stored: Sequence[str] | None = None, *, provisional: bool = False
) -> Facts:
    """Plan a study and look at what exists.

    Parameters
    ----------
    points
        Names and configs.
    stored
        Fingerprints of the data that each point's recorded launch was trained on; None takes the data as they are now,
        and the texts of this Python environment where they are embedded.
    provisional
        Plan without what is needed only to prepare the data, and note it: a hub that answers, a tokenizer's file.

    Raises
    ------
    ValueError
        The points do not make a study (see `plan_study`), or a source cannot be found.
    """
    if stored is not None:
        return look(plan_study(points, stored))
    notes = {repr((c.data, c.tokenizer)): unknown_inputs(c.data, c.tokenizer) for _, c in points} if provisional else {}
    if any(notes.values()):
        return _provisional_facts(points, list(dict.fromkeys(note for some in notes.values() for note in some)))
    # Recorded with the study, so that a branch of the hub that moves on does not make another study of it.
    pinned = [(name, replace(config, data=pin_revisions(config.data))) for name, config in points]
    points = [(name, _resolved(name, config, alone=len(points) == 1)) for name, config in pinned]
    fingerprints: dict[str, str] = {}
    for _, config in points:
        key = repr((config.data, config.tokenizer))
        if key not in fingerprints:
            fingerprints[key] = data_fingerprint(config.data, config.tokenizer)
    return look(plan_study(points, [fingerprints[repr((c.data, c.tokenizer))] for _, c in points]))


def _provisional_facts(points: Sequence[tuple[str, Config]], notes: list[str]) -> Facts:
    """Plan under names that no data and no stage will have."""
    points = [(name, _resolved(name, config, alone=len(points) == 1)) for name, config in points]
    facts = look(plan_study(points, [provisional_fingerprint(c.data, c.tokenizer) for _, c in points]))
    last = "the ids of this plan's stages are provisional, since they depend on what is not known yet"
    return replace(facts, data_notes=[*notes, last])


def _resolved(name: str, config: Config, *, alone: bool) -> Config:
    """Fill in a point's files from outside; what is wrong with them is said of it, where it is one of several."""
    try:
        return resolve(config)
    except ValueError as error:
        if alone:
            raise
        raise ValueError(f"point {name}: {error}") from error


def look(plan: Plan) -> Facts:
    """Look at what exists of a plan."""
    layout = Layout(Path(plan.points[0].config.paths.outputs))
    found = {i: list_tokens(layout.stage(i)) for i in plan.nodes}
    existing = {i: standing_tokens(plan.nodes[i].stage, layout.stage(i), pair[0]) for i, pair in found.items()}
    left = {
        i: tokens for i, node in plan.nodes.items() if (tokens := tokens_left(node.stage, layout.stage(i))) is not None
    }
    return Facts(plan, layout, existing, {i: pair[1] for i, pair in found.items()}, left)


def wanted_checkpoints(layout: Layout, node: Node) -> list[Path]:
    """Complete checkpoints among a stage's milestones."""
    present = checkpoints_by_tokens(layout.stage(node.id))
    return [present[tokens] for tokens in node.stage.milestones if tokens in present]


def pending_evaluations(facts: Facts) -> list[tuple[Path, str]]:
    """Every (checkpoint, suite) of a study without a valid result."""
    wanted = [path for node in facts.plan.nodes.values() for path in wanted_checkpoints(facts.layout, node)]
    return pending(wanted, facts.plan.evaluation, facts.layout)


def unmade_corpora(facts: Facts) -> dict[str, CorpusNode]:
    """Corpora that a study reads and that are not made yet, by fingerprint."""
    return {i: node for i, node in facts.plan.corpora.items() if not (facts.layout.data(i) / "manifest.json").exists()}


def prepare_data(facts: Facts, log: Callable[[str], None], *, leave: Container[str] = ()) -> None:
    """Prepare every token store the study reads, and check that each stage's stream is long enough.

    Parameters
    ----------
    facts
        The study.
    log
        Told what is being done.
    leave
        Fingerprints of corpora that are made elsewhere.

    Raises
    ------
    ValueError
        A stage asks for more tokens than exist without allowing repetition, or `data.unique_tokens` for more
        distinct ones than exist; both numbers are named.
    """
    for fingerprint in stores(facts.plan):
        if fingerprint in leave or (facts.layout.data(fingerprint) / "manifest.json").exists():
            continue
        make_store(facts, fingerprint, log)
    for point in facts.plan.points:
        for identifier, _ in point.chain:
            stage = facts.plan.nodes[identifier].stage
            if point.data_fingerprint not in leave or not unprepared_bytes(stage, facts.layout):
                prepare_inputs(stage, point.config, facts.layout, log)
    check_streams(facts)


def make_store(facts: Facts, fingerprint: str, log: Callable[[str], None]) -> None:
    """Make one of a study's token stores, and say what is to be known of it.

    Raises
    ------
    ValueError
        An input is missing or damaged, or a setting does not fit it.
    """
    config = stores(facts.plan)[fingerprint]
    log(f"preparing data {config.data.name} ...")
    if config.tokenizer.kind == "file":
        log(f"{config.tokenizer.path}: {choose(config.tokenizer)}")
    for note in notes(_prepare_store(facts, fingerprint, config, log)):
        log(note)


def _prepare_store(facts: Facts, fingerprint: str, config: Config, log: Callable[[str], None]) -> Prepared:
    """Make a store: a corpus by its kind, which tells now and then how far it is."""
    if fingerprint not in facts.plan.corpora:
        return prepare(config.data, config.tokenizer, facts.layout)
    corpus = facts.plan.corpora[fingerprint].spec
    run = find_kind(corpus.kind).run
    return run.run(corpus, facts.layout, run.SpacedLines(log))


def check_streams(facts: Facts) -> None:
    """Refuse stages that draw more than their prepared data has; what is not prepared yet is not looked at.

    Raises
    ------
    ValueError
        As `prepare_data`.
    """
    for node in facts.plan.nodes.values():
        check_inputs(node.stage, facts.layout)
    for point in facts.plan.points:
        _check_unique_tokens(facts, point)


def _check_unique_tokens(facts: Facts, point: Point) -> None:
    """Refuse a point whose `data.unique_tokens` its store lacks: it would be another point's twin."""
    asked = point.config.data.unique_tokens
    stream = None if asked is None else point_stream(facts, point)
    for name, (wanted, stored) in (stream.shortages() if stream else {}).items():
        raise ValueError(
            f"data.unique_tokens={asked} gives source {name!r} {wanted} tokens, but the store has {stored}: "
            f"raise data.sources.{name}.max_bytes, or lower data.unique_tokens"
        )


def stores(plan: Plan) -> dict[str, Config]:
    """Token stores a plan reads: fingerprint, and a config that gives it."""
    return {point.data_fingerprint: point.config for point in plan.points}


def packed_contexts(plan: Plan) -> dict[tuple[str, int], tuple[str, ...]]:
    """Name the sources whose documents a plan packs, since a stage draws from them, by fingerprint and context."""
    drawn: dict[tuple[str, int], set[str]] = {}
    for node in plan.nodes.values():
        if isinstance(node.stage, TrainingStage) and (stream := node.stage.stream).packing == BEST_FIT:
            names = drawn_sources(stream.mixture)
            drawn.setdefault((stream.data_fingerprint, stream.context_tokens), set()).update(names)
    return {place: tuple(sorted(names)) for place, names in drawn.items()}


def point_counts(facts: Facts, point: Point) -> dict[str, SourceCounts] | None:
    """Count what a point draws from each source, exactly; None while its data is not prepared.

    Empty where its recipe trains nothing.
    """
    stage, stream = pretraining(facts.plan, point), point_stream(facts, point)
    if stage is None:
        return {}
    return None if stream is None else stream.counts(stage.sequences(stage.end_tokens))


def pretraining(plan: Plan, point: Point) -> TrainingStage | None:
    """Last stage of a point's recipe; None where it trains nothing on text."""
    stages = [plan.nodes[identifier].stage for identifier, _ in point.chain]
    found = [stage for stage in stages if isinstance(stage, TrainingStage) and stage.follows_recipe]
    return found[-1] if found else None


def point_stream(facts: Facts, point: Point) -> Stream | None:
    """Stream of a point's whole recipe; None while its data is not prepared (and packed), or where it trains on none."""
    stage = pretraining(facts.plan, point)
    if stage is None or not (facts.layout.data(stage.data_fingerprint) / "manifest.json").exists():
        return None
    prepared = open_prepared(facts.layout.data(stage.data_fingerprint))
    return Stream(prepared, stage.stream) if is_packed_for(prepared, stage.stream) else None
