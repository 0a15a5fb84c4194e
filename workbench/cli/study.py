"""The verbs that act on a study."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from workbench.cli.results import show_results
from workbench.cli.shared import default_layout, make_study_facts, print_table, recorded_uri

if TYPE_CHECKING:
    from workbench.launch.planning import Facts
    from workbench.study.layout import Layout


def run(parsed: argparse.Namespace) -> int:
    """Run what is missing of a study."""
    from workbench.config.compose import composer
    from workbench.launch.outcome import StudyError
    from workbench.launch.planning import make_facts
    from workbench.launch.study import check_before_start

    with composer(parsed.experiments) as hydra:
        points = hydra.points(parsed.overrides)
        facts = make_facts([(point.name, point.config) for point in points])
        check_before_start(facts, hydra.workers(parsed.overrides))
        _print_plan_line(facts)
        try:
            hydra.multirun(parsed.overrides)
        except StudyError as error:
            for failure in error.failures:
                print(f"workbench: {failure}", file=sys.stderr)
            if error.killed:
                print("workbench: stopped; the same command goes on from the last checkpoints", file=sys.stderr)
                return 130
            status = 1
        else:
            status = 0
    show_results(facts)
    return status


def _print_plan_line(facts: Facts) -> None:
    todo = sum(facts.tokens_to_train().values())
    plan = facts.plan
    print(
        f"{plan.study}: {len(plan.points)} points, {len(plan.nodes)} stages, "
        f"{todo / 1e6:.3g}M tokens to train ({plan.tokens_shared / 1e6:.3g}M in all, "
        f"{plan.tokens_unshared / 1e6:.3g}M without sharing)",
        flush=True,
    )


def status(parsed: argparse.Namespace) -> int:
    """Print the state of each stage."""
    from workbench.study.status import stage_states

    facts = make_study_facts(parsed)
    states = stage_states(facts.plan, facts.layout, facts.existing)
    if parsed.json:
        print(json.dumps([vars(state) for state in states], indent=1))
        return 0
    print_table(
        ["stage", "of", "state", "tokens", "target", "note"],
        [
            [s.stage, s.label, s.state, "-" if s.tokens is None else f"{s.tokens:,}", f"{s.end_tokens:,}", s.note or ""]
            for s in states
        ],
    )
    return 0


def evaluate(parsed: argparse.Namespace) -> int:
    """Evaluate every checkpoint that lacks a valid result."""
    from workbench.launch.planning import record_evaluations
    from workbench.launch.progress import Display
    from workbench.launch.study import evaluate_pairs, pending_evaluations

    facts = make_study_facts(parsed)
    pairs = pending_evaluations(facts)
    print(f"{len(pairs)} evaluations are missing")
    config = facts.config
    failures = evaluate_pairs(facts.layout, config.evaluation, pairs, config.numerics.threads, Display(facts))
    record_evaluations(facts)
    if config.tracking.publish:
        _publish_study(facts.layout, facts.plan.study, config.tracking.uri)
    return 1 if failures else 0


def publish(parsed: argparse.Namespace) -> int:
    """Publish by the study's bare name, from its files alone, or by overrides that compose it."""
    if len(parsed.overrides) == 1 and "=" not in parsed.overrides[0]:
        layout = default_layout()
        uri = recorded_uri(layout, parsed.overrides[0])
        return _publish_study(layout, parsed.overrides[0], uri)
    facts = make_study_facts(parsed)
    return _publish_study(facts.layout, facts.plan.study, facts.config.tracking.uri)


def _publish_study(layout: Layout, study: str, uri: str | None) -> int:
    from workbench.tracking.mlflow import publish_study

    report = publish_study(layout, study, uri)
    print(
        f"published: {report.rows} rows, {report.checkpoints} checkpoints, {report.evaluations} evaluations "
        f"in {report.runs} new runs"
    )
    for reason in report.skipped:
        print(f"skipped: {reason}")
    return 0


def report(parsed: argparse.Namespace) -> int:
    """Draw figures and print the table again."""
    show_results(make_study_facts(parsed))
    return 0
