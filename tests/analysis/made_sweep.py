"""A study of `experiments/` as it would leave its outputs, made up in seconds: no weights, losses from a known law.

The sweep is composed and planned by the project's own code, so that points, labels, branches and mixtures are the
study's own; checkpoints hold their manifests alone, and every wanted one has a result.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from workbench.config.compose import composer
from workbench.config.schema import Config, InitConfig, Stage, TrainingStage, to_dict
from workbench.data.chat_store import conversations_name
from workbench.data.mixture import Mixture
from workbench.study.chain import build_chain, is_annealed
from workbench.study.evaluation_files import result_path, write_result
from workbench.study.flops import count_parameters, training_flops_per_token
from workbench.study.layout import Layout, StageDir
from workbench.study.study_plan import Plan, plan_study, study_record

START = 1_790_000_000.0
LAW = {"E": 1.2, "A": 60.0, "alpha": 0.42, "B": 350.0, "beta": 0.44}
HALF_WORTH = 8.0
"""R_D*: repetitions are worth U R* (1 - exp(-R / R*)) fresh tokens."""
BEST_RATE = (0.003, 0.35)
"""Best learning rate at a million parameters, and its exponent."""
NOISE = 0.004
STORED_TOKENS = 10_000_000
OTHER_SUITES = {"chat": "chat_response", "commonsense": "hellaswag"}
"""Suites that a study may have besides one of held-out text, each with one task, whose scores are bits per byte here."""


def make_sweep(root: Path, overrides: list[str]) -> tuple[Layout, str]:
    """Write the outputs of the study that `overrides` ask for; return their layout and the study's name."""
    with composer() as hydra:
        points = [(point.name, resolved(point.config)) for point in hydra.points(overrides)]
    plan = plan_study(points, _fingerprints(points))
    layout = Layout(root)
    record = study_record(plan, created=START, commit="c0ffee", dirty=False)
    layout.study(plan.study).mkdir(parents=True, exist_ok=True)
    layout.study_file(plan.study).write_text(json.dumps(record))
    for node in plan.nodes.values():
        _write_stage(layout.stage(node.id), node.stage, points[0][1], plan)
    return layout, plan.study


def _fingerprints(points: list[tuple[str, Config]]) -> list[str]:
    """Name each point's prepared data: those of one study differ here by how a corpus is made alone."""
    settings = [repr(config.data.corpus) for _, config in points]
    known = list(dict.fromkeys(settings))
    return (
        [f"{known.index(each):x}".rjust(16, "d") for each in settings] if len(known) > 1 else ["d" * 16] * len(points)
    )


def resolved(config: Config) -> Config:
    """Fill in what planning would read from files: names of what a checkpoint and conversations hold."""
    if config.init.path is not None:
        named = replace(config.init, fingerprint=f"{zlib.crc32(config.init.path.encode()):016x}")
        config = replace(config, init=named, model=replace(config.model, name=named.name))
    then = {
        name: replace(settings, fingerprint="c" * 16) if settings.kind == "sft" else settings
        for name, settings in config.then.items()
    }
    config = replace(config, then=then)
    for settings in config.then.values():
        if settings.kind == "sft":
            name = conversations_name(settings.chat, "c" * 16, config.model.context_tokens)
            suites = {
                key: replace(suite, conversations=name) if suite.include_path == "conversations" else suite
                for key, suite in config.evaluation.suites.items()
            }
            config = replace(config, evaluation=replace(config.evaluation, suites=suites))
    return config


def true_loss(stage: Stage, tokens: int, source: str, drawn: dict[str, int]) -> float:
    """Bits per byte that a checkpoint has but for noise."""
    n = count_parameters(stage.model).non_embedding
    unique = {name: s.unique_tokens or STORED_TOKENS for name, s in stage.stream.sources.items()}
    worth = sum(_worth(count, unique[name]) for name, count in drawn.items())
    loss = LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / worth ** LAW["beta"]
    base, exponent = BEST_RATE
    loss += 0.05 * math.log(stage.schedule.peak / (base * (n / 1e6) ** -exponent)) ** 2
    loss += 0.1 * (stage.model.position != "rope") + 0.02 * (stage.model.mlp == "gelu")
    share = max(drawn.get(source, 0), 1000) / tokens
    return loss - 0.05 * math.log(share) + 0.08 * (not is_annealed(stage, tokens))


def _worth(drawn: int, unique: int) -> float:
    if drawn <= unique:
        return float(drawn)
    return unique * (1 + HALF_WORTH * (1 - math.exp(-(drawn / unique - 1) / HALF_WORTH)))


def _write_stage(stage_dir: StageDir, stage: Stage, config: Config, plan: Plan) -> None:
    stage_dir.code.mkdir(parents=True, exist_ok=True)
    (stage_dir.code / "commit").write_text("c0ffee\n")
    (stage_dir.code / "diff.patch").write_text("")
    stage_dir.config.write_text(yaml.safe_dump({"id": stage_dir.id, "stage": to_dict(stage)}))
    status = {"state": "finished", "error": None, "step": 1, "tokens": 1, "time": START, "pid": 1, "host": "elsewhere"}
    stage_dir.status.write_text(json.dumps(status))
    stage = _trained(stage, config, plan)
    _write_last_row(stage_dir, stage)
    for tokens in sorted({*stage.milestones, *stage.branch_points}):
        drawn = _drawn(stage, tokens)
        path = _write_checkpoint(stage_dir, stage, tokens, drawn)
        if tokens in stage.milestones:
            for suite in plan.evaluation.suites:
                _write_result(path, suite, stage, tokens, drawn)


def _trained(stage: Stage, config: Config, plan: Plan) -> TrainingStage:
    """Give a stage that does not train on text the stream and schedule of the training before it."""
    if isinstance(stage, TrainingStage) and stage.stream.sources:
        return stage
    if stage.parent is None:
        [before] = build_chain(replace(config, init=InitConfig(), tokens=stage.end_tokens, then={}), "d" * 16)[-1:]
        before = replace(before, parent=None)
    else:
        before = _trained(plan.nodes[stage.parent.stage].stage, config, plan)
    return replace(before, model=stage.model, end_tokens=stage.end_tokens, milestones=stage.milestones)


def _write_last_row(stage_dir: StageDir, stage: Stage) -> None:
    step = stage.end_tokens // stage.batch_tokens
    row = {"step": step, "tokens": stage.end_tokens, "time": START + step, "train/loss": 4.0}
    row |= {f"train/loss/{name}": 4.0 for name in stage.stream.sources}
    row |= {"train/learning_rate": stage.schedule.peak, "train/gradient_norm": 1.0}
    row |= {"train/tokens_per_second": 8000.0, "train/memory_bytes": 1_000_000}
    stage_dir.metrics.write_text(json.dumps(row) + "\n")


def _drawn(stage: Stage, tokens: int) -> dict[str, int]:
    names = sorted(stage.stream.sources)
    counts = Mixture(stage.stream.mixture, tuple(names)).counts(tokens // stage.stream.context_tokens)
    return {name: int(count) * stage.stream.context_tokens for name, count in zip(names, counts, strict=True)}


def _write_checkpoint(stage_dir: StageDir, stage: Stage, tokens: int, drawn: dict[str, int]) -> Path:
    path = stage_dir.checkpoint(tokens // stage.batch_tokens)
    path.mkdir(parents=True)
    sizes = count_parameters(stage.model)
    unique = {name: source.unique_tokens or STORED_TOKENS for name, source in stage.stream.sources.items()}
    manifest = {
        "format": 1, "stage": stage_dir.id, "step": tokens // stage.batch_tokens, "tokens": tokens,
        "sequences": tokens // stage.stream.context_tokens, "annealed": is_annealed(stage, tokens),
        "params": sizes.total, "params_non_embedding": sizes.non_embedding,
        "flops": float(training_flops_per_token(stage.model) * tokens),
        "data_fingerprint": stage.stream.data_fingerprint, "heldout_fingerprint": "e" * 16,
        "counts": {
            name: {
                "drawn_tokens": count, "distinct_tokens": min(count, unique[name]), "epochs": count / unique[name],
                "max_repeats": -(-count // unique[name]),
            }
            for name, count in drawn.items()
        },
        "numerics": {"device": "cpu", "threads": 1}, "commit": "c0ffee", "dirty": False, "host": "elsewhere",
        "time": START, "files": {},
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def _write_result(checkpoint: Path, suite: str, stage: Stage, tokens: int, drawn: dict[str, int]) -> None:
    """Score on 60 documents whose difficulty every checkpoint shares."""
    key = f"{stage.stream.seed}-{stage.seed_init}-{tokens}-{stage.model}-{stage.schedule.peak}"
    noise, shared = np.random.default_rng(zlib.crc32(key.encode())), np.random.default_rng(7)
    results: dict[str, object] = {}
    documents: dict[str, object] = {}
    for source in sorted(stage.stream.sources):
        size, hard = shared.integers(300, 3000, 60), 0.4 * shared.standard_normal(60)
        per_byte = true_loss(stage, tokens, source, drawn) + hard - hard.mean() + NOISE * noise.standard_normal()
        nats = -per_byte * math.log(2) * size
        value, task = float(-nats.sum() / math.log(2) / size.sum()), f"heldout_{source}"
        if suite == "positions":
            results[f"position_{source}"], documents[f"position_{source}"] = _positions(value, nats, size, stage)
            continue
        if suite in OTHER_SUITES:
            task = OTHER_SUITES[suite]
        results[task] = {"alias": task, "bits_per_byte,none": value, "bits_per_byte_stderr,none": 0.05}
        documents[task] = {"doc_id": list(range(60)), "loglikelihood": nats.tolist(), "bytes": size.tolist()}
    if suite != "positions" and suite not in OTHER_SUITES:
        right = (shared.random(60) < 0.3).astype(int).tolist()
        results["heldout_prose_last_word"] = {
            "alias": "heldout_prose_last_word", "acc,none": float(np.mean(right)), "acc_stderr,none": 0.06
        }  # fmt: skip
        documents["heldout_prose_last_word"] = {"doc_id": list(range(60)), "correct": right}
    body = {"results": results, "eval_id": "abcdef0123456789", "checkpoint": str(checkpoint), "date": START}
    write_result(result_path(checkpoint, suite, "abcdef0123456789"), json.loads(json.dumps(body)), documents)


def _positions(value: float, nats: np.ndarray, size: np.ndarray, stage: Stage) -> tuple[dict, dict]:
    """Score documents by position: a third of each in every bucket of the context."""
    results: dict[str, object] = {"alias": "position"}
    documents: dict[str, object] = {"doc_id": list(range(60))}
    for first, last in ((0, 15), (16, 31), (32, 63), (64, 127), (128, 255)):
        if last < stage.model.context_tokens:
            bucket = f"{first:04d}-{last:04d}"
            results |= {f"{bucket}/bits_per_byte,none": value, f"{bucket}/bits_per_byte_stderr,none": 0.05}
            documents |= {f"{bucket}/loglikelihood": (nats / 3).tolist(), f"{bucket}/bytes": (size / 3).tolist()}
    return results, documents
