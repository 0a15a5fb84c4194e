"""Smaller verbs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from workbench.cli.shared import make_study_facts, print_table


def prepare(parsed: argparse.Namespace) -> int:
    """Prepare a study's data."""
    from workbench.data.store import describe, prepare
    from workbench.launch.planning import stores

    facts = make_study_facts(parsed)
    for config in stores(facts.plan).values():
        prepared = prepare(config.data, config.tokenizer, facts.layout)
        print(describe(prepared))
    return 0


def ui(parsed: argparse.Namespace) -> int:
    """Open MLflow."""
    from workbench.tracking.mlflow import default_uri

    facts = make_study_facts(parsed)
    uri = facts.config.tracking.uri or default_uri(facts.layout)
    if uri.startswith("http"):
        print(f"MLflow is at {uri}")
        return 0
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--port", "5000", "--workers", "1", "--default-artifact-root", str(facts.layout.artifacts)]
    print("MLflow: http://127.0.0.1:5000")
    return subprocess.call(command, env=environment)


def bench(parsed: argparse.Namespace) -> int:
    """Measure training speed."""
    from workbench.study.flops import training_flops_per_token
    from workbench.train.throughput import measure_tokens_per_second

    facts = make_study_facts(parsed)
    stages = {node.stage.model.name: node.stage for node in facts.plan.nodes.values() if node.stage.parent is None}
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
    """Continue a text."""
    from workbench.evaluate.generate import generate

    if len(parsed.overrides) != 2:
        raise ValueError("generate takes a checkpoint's directory and a text")
    checkpoint, text = Path(parsed.overrides[0]), parsed.overrides[1]
    print(generate(checkpoint, text, parsed.max_tokens, parsed.temperature, parsed.seed))
    return 0
