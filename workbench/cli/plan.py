"""`workbench plan`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from workbench.cli.shared import make_study_facts, print_table, worker_count

if TYPE_CHECKING:
    from workbench.launch.planning import Estimate, Facts


def print_plan(parsed: argparse.Namespace) -> int:
    """Print points, stages and cost; start nothing."""
    from workbench.launch.planning import estimate, plan_json

    facts = make_study_facts(parsed)
    work = estimate(facts, worker_count(parsed), measure=not parsed.no_measure)
    if parsed.json:
        print(json.dumps(plan_json(facts, work), indent=1))
    else:
        _print_tables(facts, work)
    return 0


def _print_tables(facts: Facts, work: Estimate) -> None:
    from workbench.launch.planning import plan_json

    values = plan_json(facts, work)
    print_table(
        ["point", "params", "non-embedding", "tokens", "unique", "epochs", "FLOPs", "6ND", "peak rate"],
        [_point_row(point) for point in values["points"]],
    )
    print()
    print_table(
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
