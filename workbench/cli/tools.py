"""Smaller verbs."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.shared import (
    asked_launcher,
    compose_points,
    default_layout,
    make_study_facts,
    named_study,
    print_table,
    read_named,
)
from workbench.config.schema import TrackingConfig
from workbench.launch.console import say
from workbench.study.layout import Layout
from workbench.study.study_record import recorded_points
from workbench.tracking.connection import connect, default_uri
from workbench.tracking.pages import study_addresses

if TYPE_CHECKING:
    from workbench.forecast.study_facts import Facts


def prepare(parsed: argparse.Namespace) -> int:
    """Prepare a study's data."""
    from workbench.config.kind_registry import find_kind
    from workbench.config.plain import to_dict
    from workbench.data import store_summary
    from workbench.data.packed_index import make_packing, packing_lines, read_packing
    from workbench.data.store import prepare
    from workbench.forecast.study_facts import packed_contexts, stores

    facts = make_study_facts(parsed)
    if asked_launcher(parsed).submits and _prepare_on_cluster(facts):
        return 0
    for fingerprint, config in stores(facts.plan).items():
        corpus = facts.plan.corpora.get(fingerprint)
        with _stopped_by_sigterm(goes_on=corpus is not None):
            if corpus is None:
                prepared = prepare(config.data, config.tokenizer, facts.layout)
            else:
                run = find_kind(corpus.spec.kind).run
                prepared = run.run(corpus.spec, facts.layout, run.SpacedLines(say, 10.0))
        print(store_summary.describe(prepared))
        for head, rows in (store_summary.source_table(prepared), store_summary.dropped_table(prepared)):
            print()
            print_table(head, rows)
        notes = [*store_summary.ignored_percent(to_dict(config.data)), *store_summary.notes(prepared)]
        print("\n".join(["", *store_summary.describe_heldout(prepared), *notes]))
        for (packed, context), sources in packed_contexts(facts.plan).items():
            if packed != fingerprint:
                continue
            with _stopped_by_sigterm(goes_on=False):
                make_packing(prepared, context, sources)
            print("\n".join(packing_lines(read_packing(prepared, context, sources))))
    return 0


@contextmanager
def _stopped_by_sigterm(goes_on: bool) -> Iterator[None]:
    """End as by Ctrl-C, with a line, where the preparation itself does not heed the signal."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("stopped; the same command " + ("goes on" if goes_on else "begins again"))

    if threading.current_thread() is not threading.main_thread():  # which cannot
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _prepare_on_cluster(facts: Facts) -> bool:
    """Submit what makes a study's corpora; False where they are made."""
    from workbench.forecast.study_facts import unmade_corpora
    from workbench.launch.slurm.display import print_preparing
    from workbench.launch.slurm.submit_study import prepare_on_cluster

    preparing = prepare_on_cluster(facts, say) if unmade_corpora(facts) else []
    if preparing:
        print_preparing(facts, preparing)
    return bool(preparing)


def benchmark_texts(parsed: argparse.Namespace) -> int:
    """Write the texts of each evaluation task; 1 where some could not be."""
    from workbench.evaluate.benchmark_texts import write_benchmark_texts

    config = compose_points(parsed)[0].config
    if not config.evaluation.suites:
        raise ValueError("the evaluation has no suites: name one, such as evaluation=commonsense")
    written, missing = 0, 0
    for task in write_benchmark_texts(
        config.evaluation, config.data, config.tokenizer, Layout(Path(config.paths.outputs))
    ):
        if task.problem:
            missing += 1
            print(f"not written: {task.suite}/{task.task}: {task.problem}", file=sys.stderr, flush=True)
        else:
            written += 1
            print(f"{task.path}  {task.documents:,} documents, {task.texts:,} texts", flush=True)
    print(f"{written} tasks written, {missing} not written")
    return 1 if missing else 0


def ui(parsed: argparse.Namespace) -> int:
    """Print the address of each study's pages, and open MLflow where no server is named."""
    layout, tracking = _asked_store(parsed)
    uri = tracking.uri or default_uri(layout)
    server = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    _print_addresses(layout, uri, tracking.timeout_seconds, server, named_study(parsed))
    if server == uri:
        return 0
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--port", "5000", "--workers", "1", "--default-artifact-root", layout.artifacts.resolve().as_uri()]
    return subprocess.call(command, env=environment)


def _asked_store(parsed: argparse.Namespace) -> tuple[Layout, TrackingConfig]:
    """Give outputs and tracking that the command line composes, or those of a study that was launched before."""
    study = named_study(parsed)
    if study is not None:
        return default_layout(), recorded_points(read_named(study))[0][1].tracking
    config = compose_points(parsed)[0].config
    return Layout(Path(config.paths.outputs)), config.tracking


def _print_addresses(layout: Layout, uri: str, timeout_seconds: float, server: str, study: str | None) -> None:
    """Print where each study's runs and its chart are; all studies where none is named."""
    with connect(uri, timeout_seconds, layout) as client:
        found = {experiment.name: experiment for experiment in client.search_experiments()}
    print(f"MLflow: {server}/#/experiments?workflowType=machine_learning")
    for name in sorted(set(found) - {"Default"} if study is None else set(found) & {study}):
        print(name)
        for what, address in study_addresses(server, found[name].experiment_id, found[name].tags).items():
            print(f"  {what:20}{address}")


def bench(parsed: argparse.Namespace) -> int:
    """Measure training speed."""
    from workbench.config.schema import TrainingStage
    from workbench.study.flops import training_flops_per_token
    from workbench.train.throughput import measure_tokens_per_second

    facts = make_study_facts(parsed)
    stages = {
        node.stage.model.name: node.stage
        for node in reversed(list(facts.plan.nodes.values()))
        if isinstance(node.stage, TrainingStage) and node.stage.kind == "pretrain"
    }
    rows: list[list[str]] = []
    for name, stage in stages.items():
        speed = measure_tokens_per_second(stage, parsed.seconds)
        flops = speed * training_flops_per_token(stage.model)
        rows.append([name, stage.precision, str(stage.numerics.threads), f"{speed:,.0f}", f"{flops:.3g}"])
    print_table(["model", "precision", "threads", "tokens/s", "FLOPs/s"], rows)
    return 0


def export(parsed: argparse.Namespace) -> int:
    """Copy the Hugging Face part of a checkpoint."""
    from workbench.train.export import export_checkpoint

    if len(parsed.overrides) != 2:
        raise ValueError("export takes a checkpoint's directory and a new directory")
    print(export_checkpoint(Path(parsed.overrides[0]), Path(parsed.overrides[1])))
    return 0


def generate(parsed: argparse.Namespace) -> int:
    """Continue texts."""
    from workbench.evaluate.generate import Asked, generate

    if len(parsed.overrides) < 2:
        raise ValueError("generate takes a checkpoint's directory and one text or more")
    asked = Asked(parsed.max_tokens, parsed.temperature, parsed.top_k, parsed.top_p, parsed.seed, parsed.chat)
    checkpoint, *texts = parsed.overrides
    generate(Path(checkpoint), texts, asked, lambda text: print(text, end="", flush=True))
    return 0
