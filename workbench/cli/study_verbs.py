"""The verbs that act on a study."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.shared import (
    asked_launcher,
    compose_points,
    default_layout,
    make_study_facts,
    named_study,
    print_plan_line,
    print_table,
    read_named,
)
from workbench.cli.show import show_reference, show_results
from workbench.config.secret_urls import refuse_secrets
from workbench.study.files import is_held
from workbench.study.layout import Layout
from workbench.study.study_record import read_record, recorded_points

if TYPE_CHECKING:
    from workbench.config.schema import TrackingConfig
    from workbench.forecast.corpus_estimate import CorpusWork
    from workbench.forecast.estimate import Estimate
    from workbench.forecast.study_facts import Facts
    from workbench.launch.slurm.ledger import Ledger
    from workbench.study.stage_states import StageState


def run(parsed: argparse.Namespace) -> int:
    """Run what is missing of a study, here or on a cluster."""
    return compose_and_run(_as_launched(parsed))


def compose_and_run(parsed: argparse.Namespace) -> int:
    """Compose a study from settings, and run what is missing of it."""
    from workbench.config.compose import composer
    from workbench.forecast.idle_cores import keep_processes
    from workbench.forecast.study_facts import make_facts
    from workbench.launch.before_start import check_before_start
    from workbench.launch.outcome import PointError, describe_outcome

    began = time.monotonic()
    with composer(parsed.experiments) as hydra:
        points = hydra.points(parsed.overrides)
        facts = make_facts([(point.name, point.config) for point in points])
        launcher = hydra.launcher(parsed.overrides)
        if launcher.use_idle_cores:
            facts = _with_idle_cores(facts, launcher.workers)
        check_before_start(facts, launcher.workers, here=not launcher.submits)
        _check_store(facts)
        print_plan_line(facts)
        estimate = None if launcher.submits else _print_estimate(facts, launcher.workers)
        if launcher.use_idle_cores:
            keep_processes(facts)  # for the launcher, which would choose again
        try:
            hydra.multirun(parsed.overrides)
        except PointError as error:
            for line in describe_outcome(error.outcome, len(points)):
                print(f"workbench: {line}", file=sys.stderr)
            if error.outcome.killed:
                return 130
            status = 1
        else:
            status = 0
    if launcher.waits:
        show_results(facts, parsed.experiments)
    if estimate is not None and status == 0:
        _print_duration(time.monotonic() - began, estimate)
    return _wait_status(facts) if launcher.waits and launcher.submits else status


def _as_launched(parsed: argparse.Namespace) -> argparse.Namespace:
    """Replace the bare name of a study by the command of its latest launch."""
    from workbench import cli

    study = named_study(parsed)
    if study is None:
        return parsed
    command = read_named(study).get("command", "")
    words = shlex.split(command)
    if words[:2] != ["workbench", "run"]:
        raise ValueError(f"it is not recorded how study {study!r} was launched: give its settings")
    print(command)
    return cli.parse(words[1:])


def _with_idle_cores(facts: Facts, workers: int | None) -> Facts:
    """Choose the processes of each stage, and say which have several."""
    from workbench.forecast.idle_cores import describe_processes, use_idle_cores

    chosen = use_idle_cores(facts, workers)
    for line in describe_processes(facts, chosen):
        print(line, flush=True)
    return chosen


def _print_estimate(facts: Facts, workers: int | None) -> Estimate | None:
    """Say how long the run will take; None where nothing is left to do."""
    from workbench.forecast.corpus_estimate import estimate_corpora
    from workbench.forecast.estimate import describe, estimate
    from workbench.forecast.study_facts import unmade_corpora

    facts.layout.root.mkdir(parents=True, exist_ok=True)  # where speeds are kept, for the progress line
    corpora: list[CorpusWork] = []
    untimed: tuple[str, ...] = ()
    try:
        corpora = estimate_corpora(facts, None, measure=True)
    except (ValueError, OSError):  # what is wrong with an input is said when its corpus is made
        untimed = tuple(node.spec.data.name for node in unmade_corpora(facts).values())
    work = estimate(facts, workers, corpora=corpora)
    work = replace(work, untimed_corpora=untimed) if untimed else work
    if not (work.evaluations or any(facts.tokens_to_train().values())):
        return None
    print(f"on this machine {describe(work)}", flush=True)
    return work


def _print_duration(seconds: float, estimate: Estimate) -> None:
    foreseen = "" if estimate.seconds is None else f"; {estimate.seconds / 60:.1f} min were estimated"
    print(f"took {seconds / 60:.1f} min{foreseen}")


def _check_store(facts: Facts) -> None:
    """Refuse a store that could not take the results, before anything is trained; a new default one can."""
    from workbench.tracking.owner import check_store

    tracking = facts.config.tracking
    if tracking.publish and tracking.uri is not None:
        check_store(facts.layout, facts.plan.study, tracking.uri, tracking.timeout_seconds)


def _wait_status(facts: Facts) -> int:
    """Exit status of a launch that has waited: 1 where a stage is not what it was to become."""
    from workbench.forecast.study_facts import look
    from workbench.launch.slurm.queue_view import study_states

    facts = look(facts.plan)
    return 0 if all(s.state == "finished" for s in study_states(facts, _ask_slurm(facts))) else 1


def status(parsed: argparse.Namespace) -> int:
    """Print the state of each stage, by its files and by Slurm where jobs of it were submitted."""
    from workbench.launch.console import make_console, states_table, summary_line
    from workbench.launch.slurm.display import watch
    from workbench.launch.slurm.queue_view import study_states

    facts = make_study_facts(parsed)
    if parsed.watch:
        return 1 if any(state.state == "failed" for state in watch(facts)) else 0
    ledger = _ask_slurm(facts)
    states = study_states(facts, ledger)
    if parsed.json:
        print(json.dumps([vars(state) for state in states], indent=1))
    else:
        make_console().print(states_table(states), markup=False)
        print(summary_line(states))
        _print_failures(facts, states, ledger)
    if ledger is not None and ledger.entries and facts.config.tracking.publish:
        _publish_quietly(facts)
    return 0


def _ask_slurm(facts: Facts) -> Ledger | None:
    """Ask Slurm about a study's jobs; None, and a line on stderr, where it does not answer."""
    from workbench.launch.slurm.commands import SlurmError
    from workbench.launch.slurm.ledger import read_ledger

    try:
        return read_ledger(facts.plan, facts.layout)
    except SlurmError as error:
        print(f"workbench: states are those of the files alone: {error}", file=sys.stderr)
        return None


def _print_failures(facts: Facts, states: Sequence[StageState], ledger: Ledger | None) -> None:
    from workbench.launch.slurm.queue_view import log_tail
    from workbench.study.causes import advise
    from workbench.study.stage_states import is_worth_repeating

    for state in states:
        if state.log is not None and state.state in ("failed", "killed", "cancelled"):
            print(f"\n{state.label} {state.stage} {state.state} ({state.note}); its log: {state.log}")
        elif state.state == "failed" and ledger is not None:
            print(f"\n{state.label} {state.stage} failed ({state.note}); its last lines:")
            print("\n".join(f"    {line}" for line in log_tail(facts.layout, state.stage, ledger)))
    for line in advise((f"{state.label} {state.stage}", state.cause) for state in states):
        print(f"\n{line}")
    if any(is_worth_repeating(state) for state in states):
        print(f"\nto continue from the last checkpoints, launch again:\n    {_command(facts)}")


def _command(facts: Facts) -> str:
    try:
        return read_record(facts.layout, facts.plan.study).get("command") or "the same command"
    except ValueError:
        return "the same command"


def _publish_quietly(facts: Facts) -> None:
    """Send MLflow what it lacks, now that somebody looks; a server that is down is said in one line."""
    from workbench.tracking.mlflow import PublishError, publish_study

    tracking = facts.config.tracking
    if not os.access(facts.layout.root, os.W_OK):
        return  # a colleague looks, who may only read
    if is_held(facts.layout.study(facts.plan.study) / "publish.lock"):
        return  # somebody is at it; looking should not wait
    try:
        publish_study(facts.layout, facts.plan.study, tracking.uri, tracking.timeout_seconds)
    except PublishError as error:
        print(f"workbench: {error}", file=sys.stderr)


def cancel(parsed: argparse.Namespace) -> int:
    """End every job that launches of this study have submitted."""
    from workbench.launch.slurm import commands as slurm
    from workbench.launch.slurm.ledger import read_ledger

    facts = make_study_facts(parsed)
    live = [e for e in read_ledger(facts.plan, facts.layout).entries if e.live and e.state is not None]
    mine = [e.state.id for e in live if e.claim.study == facts.plan.study and e.state]
    slurm.cancel(mine)
    print(f"{len(mine)} jobs cancelled; what they had done stands, and the same launch continues from there")
    others = {e.claim.study for e in live} - {facts.plan.study}
    if others:
        print(f"left alone: {len(live) - len(mine)} jobs that were launched by {', '.join(sorted(others))}")
    return 0


def evaluate(parsed: argparse.Namespace) -> int:
    """Evaluate every checkpoint that lacks a valid result, here or on a cluster; or one checkpoint from outside."""
    if parsed.checkpoint is not None:
        return evaluate_checkpoint(parsed)
    if parsed.revision is not None:
        raise ValueError("--revision is of a --checkpoint on the hub: name that too")
    from workbench.forecast.study_facts import pending_evaluations
    from workbench.launch.local.progress import Display
    from workbench.launch.local.run_study import evaluate_pairs
    from workbench.launch.snapshot import record_evaluations

    facts = make_study_facts(parsed)
    pairs = pending_evaluations(facts)
    print(f"{len(pairs)} evaluations are missing")
    config = facts.config
    if asked_launcher(parsed).submits:
        from workbench.launch.console import say
        from workbench.launch.slurm.display import print_submission
        from workbench.launch.slurm.submit_study import submit_evaluations

        print_submission(facts, submit_evaluations(facts, say))
        return 0
    failures = evaluate_pairs(facts.layout, config.evaluation, pairs, config.numerics.threads, Display(facts))
    record_evaluations(facts)
    if config.tracking.publish:
        _publish_study(facts.layout, facts.plan.study, config.tracking)
    return 1 if failures else 0


def evaluate_checkpoint(parsed: argparse.Namespace) -> int:
    """Score a checkpoint from outside by the suites of a config, and print the scores."""
    from workbench.data.store import prepare
    from workbench.evaluate.outside_checkpoint import find_checkpoint, place_results, read_imported
    from workbench.evaluate.reconcile import Evaluator
    from workbench.evaluate.suite import uses_heldout
    from workbench.tracking.intended import read_evaluation

    study = named_study(parsed)
    if study is None:
        configs = [point.config for point in compose_points(parsed)]
    else:
        configs = [config for _, config in recorded_points(read_named(study))]
    config = configs[0]
    parts = ("data", "tokenizer", "evaluation", "numerics")
    if any(getattr(other, part) != getattr(config, part) for other in configs for part in parts):
        raise ValueError(
            f"--checkpoint is scored once, but these points differ in {' or '.join(parts)}: sweep none of them"
        )
    layout = Layout(Path(config.paths.outputs))
    imported = read_imported(find_checkpoint(parsed.checkpoint, parsed.revision))
    print(imported.describe(), flush=True)
    data: tuple[str, str] | None = None
    if any(uses_heldout(suite) for suite in config.evaluation.suites.values()):
        prepared = prepare(config.data, config.tokenizer, layout)
        data = prepared.fingerprint, prepared.heldout_fingerprint
    folder = place_results(layout, imported, data)
    evaluator = Evaluator(layout, config.evaluation, config.numerics.threads, config.numerics.device)
    for suite in config.evaluation.suites:
        path = evaluator.evaluate(folder, suite)
        values = read_evaluation(path).values
        rows = [
            [name, f"{value:.4f}", f"{error:.4f}" if (error := values.get(f"{name}_stderr")) else "not known"]
            for name, value in values.items()
            if not name.endswith("_stderr")
        ]
        print_table([suite, "score", "standard error"], rows)
        print(f"{path}\n")
    return 0


def publish(parsed: argparse.Namespace) -> int:
    """Publish by the study's bare name, from its files alone, or by overrides that compose it."""
    study = named_study(parsed)
    if study is not None:
        layout = default_layout()
        tracking = recorded_points(read_named(study))[0][1].tracking
        return _publish_study(layout, study, tracking)
    facts = make_study_facts(parsed)
    return _publish_study(facts.layout, facts.plan.study, facts.config.tracking)


def _publish_study(layout: Layout, study: str, tracking: TrackingConfig) -> int:
    from workbench.tracking.mlflow import publish_study

    report = publish_study(layout, study, tracking.uri, tracking.timeout_seconds)
    print(
        f"published: {report.rows} rows, {report.checkpoints} checkpoints, {report.evaluations} evaluations "
        f"in {report.runs} new runs"
    )
    for reason in report.skipped:
        print(f"skipped: {reason}")
    return 0


def report(parsed: argparse.Namespace) -> int:
    """Draw figures, write the report page and print the table again; of results that were imported, by their name."""
    study = named_study(parsed)
    layout = default_layout()
    if study is not None and not layout.study_file(study).exists():
        from workbench.tracking.mlflow import default_uri

        uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri(layout)
        refuse_secrets("MLFLOW_TRACKING_URI", uri)
        show_reference(study, uri, layout.figures(study))
        return 0
    return 0 if show_results(make_study_facts(parsed), parsed.experiments) else 1
