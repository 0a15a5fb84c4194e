"""`workbench plan`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from workbench.cli.shared import plan_facts_and_launcher, print_plan_line, print_preparing_lines, print_table

if TYPE_CHECKING:
    from workbench.forecast.cluster_cost import ClusterWork
    from workbench.forecast.estimate import Estimate
    from workbench.forecast.slots import Slots
    from workbench.forecast.study_facts import Facts


def print_plan(parsed: argparse.Namespace) -> int:
    """Print points, stages and cost, on a cluster too where its launcher is asked for; start nothing."""
    from workbench.forecast.cluster_cost import cluster_json, cluster_work
    from workbench.forecast.corpus_estimate import corpora_json, describe_corpus, estimate_corpora
    from workbench.forecast.estimate import estimate, study_slots
    from workbench.forecast.idle_cores import describe_processes, idle_cores_note, use_idle_cores
    from workbench.forecast.plan_notes import missing_here_note, plan_json

    facts, launcher = plan_facts_and_launcher(parsed)
    work = cluster_work(facts) if launcher.submits else None
    corpora = estimate_corpora(facts, facts.config.cluster if launcher.submits else None, measure=not parsed.no_measure)
    # How fast this machine is says nothing about a cluster's.
    measure, local = work is None and not parsed.no_measure, corpora if work is None else ()
    composed = facts
    if launcher.use_idle_cores:
        facts = use_idle_cores(facts, launcher.workers, measure=measure)
    here = estimate(facts, launcher.workers, measure=measure, corpora=local)
    values = plan_json(facts, here)
    if launcher.use_idle_cores and not measure:
        values["notes"].append(
            "hydra.launcher.use_idle_cores=true: with --no-measure, processes are chosen by what was measured before alone"
        )
    if work is None:
        values["notes"] += missing_here_note(facts)
        values["notes"] += (
            describe_processes(composed, facts)
            if launcher.use_idle_cores
            else idle_cores_note(facts, here, launcher.workers)
        )
    values["corpora"] = corpora_json(facts, corpora)
    if parsed.json:
        print(json.dumps(values | {"cluster": None if work is None else cluster_json(work)}, indent=1))
        return 0
    said = print_plan_line(facts)
    print()
    _print_points(values)
    if work is None:
        _print_stages(values)
        _print_local(values, here, study_slots(facts, launcher.workers))
    else:
        _print_cluster(facts, values, work)
    for corpus in corpora:
        print(describe_corpus(corpus))
    for note in values["notes"]:
        if note not in said:
            print(note)
    print_preparing_lines(facts)
    return 0


def _print_points(values: dict[str, Any]) -> None:
    print_table(
        ["point", "params", "non-embedding", "tokens", "unique", "epochs", "FLOPs", "6ND", "peak rate"],
        [_point_row(point) for point in values["points"]],
    )
    print()


def _print_stages(values: dict[str, Any]) -> None:
    print_table(
        ["stage", "of", "begins at", "tokens", "to train", "points"],
        [
            *([*_corpus_cells(corpus), str(len(corpus["points"]))] for corpus in values["corpora"]),
            *([*_stage_cells(stage), str(len(stage["points"]))] for stage in values["stages"]),
        ],
    )


def _print_local(values: dict[str, Any], work: Estimate, slots: Slots) -> None:
    from workbench.forecast.estimate import describe
    from workbench.forecast.slots import describe_slots

    print(f"\n{_tokens_line(values)}\n{describe_slots(slots)}\ntime here: {describe(work)}\n{_disk(work)}")


def _disk(work: Estimate) -> str:
    more = f" and up to {work.training_disk_bytes / 1e6:.0f} MB more while training" if work.training_disk_bytes else ""
    return f"disk: {work.disk_bytes / 1e6:.0f} MB{more}"


def _print_cluster(facts: Facts, values: dict[str, Any], work: ClusterWork) -> None:
    print_table(
        ["stage", "of", "begins at", "tokens", "to train", "jobs", "asks for", "micro-batch", "limit", "time", "peak"],
        [
            *([*_corpus_cells(corpus), *_prepare_cells(facts, corpus)] for corpus in values["corpora"]),
            *([*_stage_cells(stage), *_request_cells(facts, work, stage["id"])] for stage in values["stages"]),
        ],
    )
    print(
        f"\n{_tokens_line(values)}\n"
        f"on cluster {work.cluster.name}: {_cost_line(work)} ({_not_counted(values)} not counted); "
        f"peak memory: {_gigabytes(work.peak_memory_bytes)} a process; disk: {values['disk_bytes'] / 1e6:.0f} MB; "
        f"{values['evaluations']:,} evaluations"
    )
    for line in _speed_lines(values, work):
        print(line)


def _not_counted(values: dict[str, Any]) -> str:
    making = any(corpus["state"] != "finished" for corpus in values["corpora"])
    return "evaluations and the making of data" if making else "evaluations"


def _speed_lines(values: dict[str, Any], work: ClusterWork) -> list[str]:
    """Say at which speed of one process the time of each model was estimated."""
    lines: list[str] = []
    for stage in values["stages"]:
        asked = work.stages[stage["id"]].resources if stage["id"] in work.stages else None
        if asked is None or not asked.seconds or not stage["flops_to_train"]:
            continue
        seconds = asked.seconds * asked.processes
        lines.append(
            f"speed of {stage['model']}: {stage['tokens_to_train'] / seconds:,.0f} tokens/s a process "
            f"({stage['flops_to_train'] / seconds / 1e12:.3g} TFLOP/s), as cluster {work.cluster.name} says or jobs measured"
        )
    return list(dict.fromkeys(lines))


def _request_cells(facts: Facts, work: ClusterWork, identifier: str) -> list[str]:
    """Say what a stage's jobs ask for; nothing where no job is left."""
    from workbench.config.schema import TrainingStage
    from workbench.launch.console import describe_resources, format_seconds

    if identifier not in work.stages:
        return ["0", "", "", "", "", ""]
    left, stage = work.stages[identifier], facts.plan.nodes[identifier].stage
    asked = left.resources
    micro_batch = asked.micro_batch_sequences or stage.numerics.micro_batch_sequences
    batch = stage.batch_sequences if isinstance(stage, TrainingStage) else None
    return [
        str(left.jobs),
        describe_resources(asked),
        "" if batch is None else str(min(micro_batch or batch, batch // asked.processes)),
        f"{asked.minutes} min",
        "not estimated" if asked.seconds is None else format_seconds(asked.seconds),
        _gigabytes(asked.peak_memory_bytes),
    ]


def _prepare_cells(facts: Facts, corpus: dict[str, Any]) -> list[str]:
    """Say what the jobs that make a corpus ask for; nothing where it is made."""
    from workbench.launch.console import describe_resources, format_seconds
    from workbench.launch.slurm.corpus_jobs import jobs_of_corpus, preparing_resources

    if corpus["state"] == "finished":
        return ["0", "", "", "", "", ""]
    cluster = facts.config.cluster
    jobs, cores = jobs_of_corpus(corpus["shards"], cluster)
    asked = preparing_resources(cluster, cores)
    time = "not estimated" if corpus["seconds"] is None else format_seconds(corpus["seconds"])
    return [str(jobs), describe_resources(asked), "", f"{asked.minutes} min", time, ""]


def _cost_line(work: ClusterWork) -> str:
    from workbench.forecast.cluster_cost import unknown_speed

    if work.gpu_hours is None or work.hours is None:
        return f"not estimated, since {unknown_speed(work)}"
    unit = "GPU hours" if work.cluster.gpus_per_node else "node hours"
    cost = "" if work.cost is None else f", {work.cost:.2f} {work.cluster.currency}"
    return f"about {_hours(work.gpu_hours)} {unit}{cost}, {_hours(work.hours)} hours if no job waits"


def _hours(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:,.0f}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def _tokens_line(values: dict[str, Any]) -> str:
    return (
        f"tokens: {values['tokens_unshared']:,} without sharing, {values['tokens_shared']:,} shared, "
        f"{values['tokens_to_train']:,} still to be trained ({values['flops_to_train']:.3g} FLOPs)"
    )


def _corpus_cells(corpus: dict[str, Any]) -> list[str]:
    """Say of a corpus what it is made from, and its tokens or its tasks."""
    from workbench.forecast.corpus_estimate import name_bytes

    label = f"{corpus['name']} {corpus['kind']}"
    if corpus["state"] == "finished":
        return [corpus["id"], label, "files", f"{corpus['tokens']:,}", "0"]
    size = "files" if corpus["input_bytes"] is None else f"{name_bytes(corpus['input_bytes'])} of files"
    done = "" if corpus["tasks_done"] is None else f"{corpus['tasks_done']:,} of "
    return [corpus["id"], label, size, "-", f"{done}{corpus['tasks']:,} tasks"]


def _stage_cells(stage: dict[str, Any]) -> list[str]:
    return [
        stage["id"],
        f"{stage['model']} {stage['name']}",
        f"{stage['parent']['stage']}@{stage['parent']['tokens']}"
        if stage["parent"]
        else "initial weights"
        if stage["tokens"]  # it adds some, so it is no checkpoint from outside
        else "-",
        f"{stage['tokens']:,}",
        f"{stage['tokens_to_train']:,}",
    ]


def _point_row(point: dict[str, Any]) -> list[str]:
    epochs = point["epochs"]
    return [
        point["name"],
        f"{point['params']:,}",
        f"{point['params_non_embedding']:,}",
        f"{point['tokens']:,}",
        "not prepared" if point["unique_tokens"] is None else f"{point['unique_tokens']:,}" if epochs else "-",
        "not prepared"
        if epochs is None
        else "-"
        if not epochs
        else " ".join(f"{name} {value:.2f}" for name, value in epochs.items()),
        f"{point['flops']:.3g}",
        f"{point['flops_6nd']:.3g}",
        "-" if point["learning_rate"] is None else f"{point['learning_rate']:.3g}",
    ]
