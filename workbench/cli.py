"""The command `workbench`: one verb for each thing a researcher does with a study."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import __version__

if TYPE_CHECKING:
    from workbench.config.compose import ComposedPoint
    from workbench.launch.planning import Estimate, Facts
    from workbench.study.layout import Layout

_OVERRIDES = "Hydra overrides, as experiments=token_scaling model=m0_1,m0_3 seed=range(3)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's mistake is one line on stderr and exit status 2."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [argument for argument in rest if argument.startswith("-")]
    if unknown:
        parser.error(f"unknown option {unknown[0]}")
    # argparse stops collecting overrides at the first option: `experiments=x -m model=a,b`.
    parsed.overrides = [*parsed.overrides, *rest]
    try:
        status = parsed.command(parsed)
    except _user_errors() as error:
        print(f"workbench: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that say what to do; every other one is ours and keeps its traceback."""
    from workbench.evaluate.suite import EvaluationError
    from workbench.tracking.connection import PublishError
    from workbench.train.checkpoint import DamagedCheckpointError, DiskFullError

    return (ValueError, OSError, PublishError, EvaluationError, DamagedCheckpointError, DiskFullError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("workbench", description="An experiment-tracking workbench for scaling studies")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument("--experiments", type=Path, metavar="DIR", help="a folder of your own studies")
        sub.add_argument("-m", "--multirun", action="store_true", help="accepted as in Hydra; always on")
        sub.add_argument("overrides", nargs="*", help=_OVERRIDES)
        return sub

    add("run", _run, "run what is missing of a study: train, evaluate, publish, draw")
    plan = add("plan", _plan, "print a study's points, stages and cost; start nothing")
    plan.add_argument("--json", action="store_true", help="print it for scripts")
    plan.add_argument("--no-measure", action="store_true", help="estimate no time")
    status = add("status", _status, "print the state of each stage of a study")
    status.add_argument("--json", action="store_true", help="print it for scripts")
    add("evaluate", _evaluate, "evaluate every checkpoint of a study that lacks a valid result")
    add("publish", _publish, "send to MLflow what it lacks of a study")
    add("report", _report, "draw a study's figures and print its table again")
    add("prepare", _prepare, "prepare a study's data, as in: workbench prepare data=python")
    add("ui", _ui, "open MLflow on the loopback address")
    bench = add("bench", _bench, "measure the training speed of each model of a study")
    bench.add_argument("--seconds", type=float, default=5.0, help="a model")
    export = add("export", _export, "copy the Hugging Face part of a checkpoint: workbench export CHECKPOINT TARGET")
    export.set_defaults(overrides=[])
    generate = add("generate", _generate, "continue a text: workbench generate CHECKPOINT 'def main('")
    generate.add_argument("--max-tokens", type=int, default=64)
    generate.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    generate.add_argument("--seed", type=int, default=0)
    return parser


# ------------------------------------------------------------------------------------------ a study


def _compose(parsed: argparse.Namespace) -> list[ComposedPoint]:
    from workbench.config.compose import composer

    with composer(parsed.experiments) as hydra:
        return hydra.points(parsed.overrides)


def _facts(parsed: argparse.Namespace) -> Facts:
    from workbench.launch.planning import make_facts

    return make_facts([(point.name, point.config) for point in _compose(parsed)])


def _workers(parsed: argparse.Namespace) -> int | None:
    from workbench.config.compose import composer

    with composer(parsed.experiments) as hydra:
        return hydra.workers(parsed.overrides)


def _run(parsed: argparse.Namespace) -> int:
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
    _show_results(facts)
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


def _plan(parsed: argparse.Namespace) -> int:
    from workbench.launch.planning import estimate, plan_json

    facts = _facts(parsed)
    work = estimate(facts, _workers(parsed), measure=not parsed.no_measure)
    if parsed.json:
        print(json.dumps(plan_json(facts, work), indent=1))
    else:
        _print_plan(facts, work)
    return 0


def _print_plan(facts: Facts, work: Estimate) -> None:
    from workbench.launch.planning import plan_json

    values = plan_json(facts, work)
    _print_table(
        ["point", "params", "non-embedding", "tokens", "unique", "epochs", "FLOPs", "6ND", "peak rate"],
        [_point_row(point) for point in values["points"]],
    )
    print()
    _print_table(
        ["stage", "of", "begins at", "tokens", "to train", "points"],
        [
            [
                stage["id"],
                f"{stage['model']} {stage['name']}",
                f"{stage['parent']['stage']}@{stage['parent']['tokens']}" if stage["parent"] else "initial weights",
                f"{stage['tokens']:,}",
                f"{stage['tokens_to_train']:,}",
                str(len(stage["points"])),
            ]
            for stage in values["stages"]
        ],
    )
    hours = "not estimated" if work.hours is None else f"about {work.hours * 60:.1f} min with {work.workers} at a time"
    print(
        f"\ntokens: {values['tokens_unshared']:,} without sharing, {values['tokens_shared']:,} shared, "
        f"{values['tokens_to_train']:,} still to be trained ({work.flops:.3g} FLOPs)\n"
        f"training time: {hours} (measured tokens/s; evaluations not counted); disk: {work.disk_bytes / 1e6:.0f} MB"
    )


def _point_row(point: dict[str, Any]) -> list[str]:
    epochs = point["epochs"]
    return [
        point["name"],
        f"{point['params']:,}",
        f"{point['params_non_embedding']:,}",
        f"{point['tokens']:,}",
        "not prepared" if point["unique_tokens"] is None else f"{point['unique_tokens']:,}",
        "not prepared" if epochs is None else " ".join(f"{name} {value:.2f}" for name, value in epochs.items()),
        f"{point['flops']:.3g}",
        f"{point['flops_6nd']:.3g}",
        f"{point['learning_rate']:.3g}",
    ]


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _status(parsed: argparse.Namespace) -> int:
    from workbench.study.status import stage_states

    facts = _facts(parsed)
    states = stage_states(facts.plan, facts.layout, facts.existing)
    if parsed.json:
        print(json.dumps([vars(state) for state in states], indent=1))
        return 0
    _print_table(
        ["stage", "of", "state", "tokens", "target", "note"],
        [
            [s.stage, s.label, s.state, "-" if s.tokens is None else f"{s.tokens:,}", f"{s.end_tokens:,}", s.note or ""]
            for s in states
        ],
    )
    return 0


def _evaluate(parsed: argparse.Namespace) -> int:
    from workbench.launch.planning import record_evaluations
    from workbench.launch.progress import Display
    from workbench.launch.study import evaluate_pairs, pending_evaluations

    facts = _facts(parsed)
    pairs = pending_evaluations(facts)
    print(f"{len(pairs)} evaluations are missing")
    config = facts.config
    failures = evaluate_pairs(facts.layout, config.evaluation, pairs, config.numerics.threads, Display(facts))
    record_evaluations(facts)
    if config.tracking.publish:
        _publish_study(facts.layout, facts.plan.study, config.tracking.uri)
    return 1 if failures else 0


def _publish(parsed: argparse.Namespace) -> int:
    """Publish by the study's bare name, from its files alone, or by overrides that compose it."""
    if len(parsed.overrides) == 1 and "=" not in parsed.overrides[0]:
        layout = _default_layout()
        uri = _recorded_uri(layout, parsed.overrides[0])
        return _publish_study(layout, parsed.overrides[0], uri)
    facts = _facts(parsed)
    return _publish_study(facts.layout, facts.plan.study, facts.config.tracking.uri)


def _default_layout() -> Layout:
    from workbench.study.layout import Layout

    return Layout(Path(os.environ.get("WORKBENCH_OUTPUTS", Path(__file__).resolve().parents[1] / "outputs")))


def _recorded_uri(layout: Layout, study: str) -> str | None:
    path = layout.study_file(study)
    if not path.exists():
        raise ValueError(f"study {study!r} has no plan at {path}: run it first, or give its overrides")
    return json.loads(path.read_text())["points"][0]["config"]["tracking"]["uri"]


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


def _report(parsed: argparse.Namespace) -> int:
    _show_results(_facts(parsed))
    return 0


def _show_results(facts: Facts) -> None:
    """Draw the figures, print the table, and say where everything is; or say why that cannot be."""
    from analysis.load import load_study
    from analysis.report import compression_rows, draw_study, format_table, summary_table
    from workbench.tracking.connection import connect
    from workbench.tracking.mlflow import PublishError, default_uri, log_figures

    study, layout, tracking = facts.plan.study, facts.layout, facts.config.tracking
    uri = tracking.uri or default_uri(layout)
    try:
        with connect(uri, tracking.timeout_seconds, layout):
            frame = load_study(study, uri)
    except (PublishError, ValueError) as error:
        print(f"no table and no figures: {error}; after `workbench publish {study}`, `workbench report` draws them")
        return
    print(f"\n{format_table(summary_table(frame, compression_rows(_heldout_sizes(facts))))}")
    _print_crossings(facts, uri, set(frame.loc[frame["value"].notna(), "metric"]))
    _print_missing(facts, set(frame.loc[frame["annealed"], "stage"]))
    files = draw_study(frame, layout.figures(study), layout.fits(study))
    for path in files:
        print(path)
    if tracking.publish:
        try:
            log_figures(layout, study, files, tracking.uri, tracking.timeout_seconds)
        except PublishError as error:
            print(f"figures not published: {error}")
    print(f"MLflow: workbench ui   (tracking URI {uri})")


def _print_missing(facts: Facts, trained: set[str]) -> None:
    """Name the points that the table lacks."""
    for point in facts.plan.points:
        if point.chain[-1][0] not in trained:
            print(f"not trained: {point.name}")


def _print_crossings(facts: Facts, uri: str, evaluated: set[str]) -> None:
    """Say which sizes cross: each better than the other at some budget, beyond two standard errors."""
    from analysis.load import load_documents
    from analysis.paired import find_crossings

    for source in facts.config.data.sources:
        metric = f"heldout/{source}/bits_per_byte"
        if metric in evaluated:
            for crossing in find_crossings(load_documents(facts.plan.study, metric, uri)):
                print(f"{source}: {crossing}")


def _heldout_sizes(facts: Facts) -> dict[str, dict[str, int]]:
    from workbench.data.store import heldout_sizes, open_prepared

    fingerprint = next(iter(facts.plan.nodes.values())).stage.stream.data_fingerprint
    if not (facts.layout.data(fingerprint) / "manifest.json").exists():
        return {}
    return heldout_sizes(open_prepared(facts.layout.data(fingerprint)))


# ------------------------------------------------------------------------------------- smaller verbs


def _prepare(parsed: argparse.Namespace) -> int:
    from workbench.data.store import describe, prepare
    from workbench.launch.planning import stores

    facts = _facts(parsed)
    for config in stores(facts.plan).values():
        prepared = prepare(config.data, config.tokenizer, facts.layout)
        print(describe(prepared))
    return 0


def _ui(parsed: argparse.Namespace) -> int:
    from workbench.tracking.mlflow import default_uri

    facts = _facts(parsed)
    uri = facts.config.tracking.uri or default_uri(facts.layout)
    if uri.startswith("http"):
        print(f"MLflow is at {uri}")
        return 0
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--port", "5000", "--workers", "1", "--default-artifact-root", str(facts.layout.artifacts)]
    print("MLflow: http://127.0.0.1:5000")
    return subprocess.call(command, env=environment)


def _bench(parsed: argparse.Namespace) -> int:
    from workbench.study.flops import training_flops_per_token
    from workbench.train.throughput import measure_tokens_per_second

    facts = _facts(parsed)
    stages = {node.stage.model.name: node.stage for node in facts.plan.nodes.values() if node.stage.parent is None}
    rows: list[list[str]] = []
    for name, stage in stages.items():
        speed = measure_tokens_per_second(stage, parsed.seconds)
        flops = speed * training_flops_per_token(stage.model)
        rows.append([name, stage.precision, str(stage.numerics.threads), f"{speed:,.0f}", f"{flops:.3g}"])
    _print_table(["model", "precision", "threads", "tokens/s", "FLOPs/s"], rows)
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from workbench.train.export import export_checkpoint

    if len(parsed.overrides) != 2:
        raise ValueError("export takes a checkpoint's directory and a new directory")
    print(export_checkpoint(Path(parsed.overrides[0]), Path(parsed.overrides[1])))
    return 0


def _generate(parsed: argparse.Namespace) -> int:
    from workbench.evaluate.generate import generate

    if len(parsed.overrides) != 2:
        raise ValueError("generate takes a checkpoint's directory and a text")
    checkpoint, text = Path(parsed.overrides[0]), parsed.overrides[1]
    print(generate(checkpoint, text, parsed.max_tokens, parsed.temperature, parsed.seed))
    return 0


if __name__ == "__main__":
    main()
