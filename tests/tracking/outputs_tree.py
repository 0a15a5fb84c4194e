"""A made-up outputs tree, as a study leaves it: every file that tracking and analysis read, no weights.

Losses follow L = E + A / N^a + B / D^b in bits per byte, so that analysis has a known truth to find.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from workbench.config import schema
from workbench.study.evaluation_files import result_path, write_result
from workbench.study.layout import Layout, StageDir

SIZES = {"m0_03": 30_000, "m0_1": 100_000, "m0_3": 300_000, "m1": 1_000_000}
BUDGETS = (250_000, 500_000, 1_000_000, 2_000_000)
LAW = {"E": 1.2, "A": 60.0, "alpha": 0.42, "B": 350.0, "beta": 0.44}
BATCH_TOKENS = 2_000
START = 1_790_000_000.0


@dataclass(frozen=True)
class Made:
    """What the tree holds, counted while it was written."""

    layout: Layout
    study: str
    rows: int
    checkpoints: int
    evaluations: int
    values: dict[tuple[str, int, str], tuple[float, float | None, str]]
    """Value, standard error and evaluation id by (stage, tokens, metric)."""


def bits_per_byte(params: float, tokens: float) -> float:
    return LAW["E"] + LAW["A"] / params ** LAW["alpha"] + LAW["B"] / tokens ** LAW["beta"]


def make_study(
    root: Path,
    study: str = "synthetic",
    *,
    sizes: dict[str, int] | None = None,
    budgets: tuple[int, ...] = BUDGETS,
    seeds: tuple[int, ...] = (0,),
    row_every: int = 10,
    evaluated: bool = True,
) -> Made:
    """Write a `wsd` study: a trunk a size and seed, a cooldown of a fifth at every budget."""
    layout, sizes = Layout(root), sizes or SIZES
    plan = {"study": study, "created": START, "commit": "c0ffee", "dirty": False, "points": [], "stages": {}}
    plan["evaluation"] = schema.to_dict(schema.EvaluationConfig())
    counts = {"rows": 0, "checkpoints": 0, "evaluations": 0}
    values: dict[tuple[str, int, str], tuple[float, float | None, str]] = {}
    for name, params in sizes.items():
        for seed in seeds:
            for stage, wanted, kept in _stages_of(name, seed, budgets):
                stage_id = stage_hash(stage)
                trajectory = stage.parent.stage if stage.parent else stage_id
                plan["stages"][stage_id] = {
                    "stage": schema.to_dict(stage),
                    "trajectory": trajectory,
                    "wanted": wanted,
                }
                stage_dir = layout.stage(stage_id)
                write_stage(stage_dir, stage)
                counts["rows"] += write_rows(stage_dir, stage, params, row_every)
                for tokens in kept:
                    checkpoint = write_checkpoint(stage_dir, stage, params, tokens)
                    if tokens not in wanted:
                        continue
                    counts["checkpoints"] += 1
                    if evaluated:
                        results = write_evaluation(checkpoint, params, tokens, seed, annealed=stage.name == "cooldown")
                        values |= {(stage_id, tokens, metric): value for metric, value in results.items()}
                        counts["evaluations"] += 1
                if stage.name == "cooldown":
                    plan["points"].append(_point(study, name, params, seed, stage, stage_id))
    layout.study(study).mkdir(parents=True, exist_ok=True)
    layout.study_file(study).write_text(json.dumps(plan))
    return Made(layout, study, **counts, values=values)


def _stages_of(
    name: str, seed: int, budgets: tuple[int, ...]
) -> list[tuple[schema.TrainingStage, list[int], list[int]]]:
    """Stages with the tokens of their wanted checkpoints and of all that are kept."""
    branches = [budget * 4 // 5 // BATCH_TOKENS * BATCH_TOKENS for budget in budgets]
    milestones = sorted({budget // 2 for budget in budgets})
    trunk = stage_of(name, seed, None, branches[-1], "trunk")
    stages = [(trunk, [m for m in milestones if m <= branches[-1]], sorted({*milestones, *branches}))]
    for branch, budget in zip(branches, budgets, strict=True):
        parent = schema.Parent(stage_hash(trunk), branch)
        cooldown = stage_of(name, seed, parent, budget, "cooldown")
        stages.append((cooldown, [budget], [budget]))
    return stages


def stage_of(name: str, seed: int, parent: schema.Parent | None, end: int, phase: str) -> schema.TrainingStage:
    return schema.TrainingStage(
        parent=parent,
        model=schema.ModelConfig(name, 2, 32, 2, 2, 64, 512, 200),
        stream=schema.StreamConfig(
            data_fingerprint="d" * 16,
            context_tokens=200,
            seed=seed,
            sources={"prose": schema.StreamSource(), "code": schema.StreamSource()},
            mixture=[schema.MixtureSegment(0, {"prose": 7, "code": 3})],
        ),
        batch_sequences=BATCH_TOKENS // 200,
        schedule=schema.Schedule(1e-3, 10_000),
        optimizer=schema.OptimizerConfig(learning_rate=1e-3),
        precision="fp32",
        seed_init=0 if parent else seed,
        name=phase,
        end_tokens=end,
        milestones=[end],
    )


def stage_hash(stage: schema.TrainingStage) -> str:
    whole = schema.to_dict(dataclasses.replace(stage, milestones=[], end_tokens=0 if not stage.parent else 1))
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def write_stage(stage_dir: StageDir, stage: schema.TrainingStage, state: str = "finished") -> None:
    stage_dir.code.mkdir(parents=True, exist_ok=True)
    (stage_dir.code / "commit").write_text("c0ffee\n")
    (stage_dir.code / "diff.patch").write_text("")
    stage_dir.config.write_text(yaml.safe_dump({"id": stage_dir.id, "stage": schema.to_dict(stage)}))
    status = {"state": state, "error": None, "step": 1, "tokens": 1, "time": START + 1e5, "pid": 1, "host": "elsewhere"}
    stage_dir.status.write_text(json.dumps(status))


def row_of(step: int, params: float, offset: float = 0.0) -> dict[str, float | int]:
    tokens = step * BATCH_TOKENS
    loss = bits_per_byte(params, tokens) * 2 + 0.01 * math.sin(step)
    return {
        "step": step,
        "tokens": tokens,
        "time": START + step * 0.25 + offset,
        "train/loss": loss,
        "train/loss/prose": loss + 0.1,
        "train/loss/code": loss - 0.1,
        "train/learning_rate": 1e-3,
        "train/gradient_norm": 1 / step,
        "train/tokens_per_second": 8000.0 + step,
        "train/memory_bytes": 1_000_000,
    }


def write_rows(stage_dir: StageDir, stage: schema.TrainingStage, params: float, every: int) -> int:
    first, last = stage.start_tokens // BATCH_TOKENS + 1, stage.end_tokens // BATCH_TOKENS
    rows = [row_of(step, params) for step in range(first, last + 1) if step % every == 0 or step == last]
    stage_dir.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def write_checkpoint(stage_dir: StageDir, stage: schema.TrainingStage, params: int, tokens: int) -> Path:
    path = stage_dir.checkpoint(tokens // BATCH_TOKENS)
    path.mkdir(parents=True)
    drawn = {"prose": tokens * 7 // 10, "code": tokens - tokens * 7 // 10}
    manifest = {
        "format": 1,
        "stage": stage_dir.id,
        "step": tokens // BATCH_TOKENS,
        "tokens": tokens,
        "sequences": tokens // 200,
        "annealed": stage.name == "cooldown",
        "params": params + 16_384,
        "params_non_embedding": params,
        "flops": 6.0 * params * tokens,
        "data_fingerprint": stage.stream.data_fingerprint,
        "heldout_fingerprint": "e" * 16,
        "counts": {
            source: {"drawn_tokens": count, "distinct_tokens": count, "epochs": 1.0, "max_repeats": 1}
            for source, count in drawn.items()
        },
        "numerics": {"device": "cpu", "threads": 1},
        "commit": "c0ffee",
        "dirty": False,
        "host": "elsewhere",
        "time": START + 1e5,
        "files": {},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def write_evaluation(
    checkpoint: Path,
    params: float,
    tokens: float,
    seed: int = 0,
    annealed: bool = True,
    eval_id: str = "abcdef0123456789",
) -> dict[str, tuple[float, float | None, str]]:
    """Score as the law says, on 150 documents whose difficulty every checkpoint shares."""
    noise = np.random.default_rng([int(params), int(tokens), seed])
    shared = np.random.default_rng(7)
    size = shared.integers(300, 3000, 150)
    truth = bits_per_byte(params, tokens) + (0.0 if annealed else 0.08) + 0.01 * noise.standard_normal()
    results: dict[str, dict[str, object]] = {}
    documents: dict[str, dict[str, list[float]]] = {}
    for source, shift in (("prose", 0.0), ("code", -0.3)):
        per_byte = truth + shift + 0.4 * shared.standard_normal(150) + 0.02 * noise.standard_normal(150)
        loglikelihood = -per_byte * math.log(2) * size
        value = -loglikelihood.sum() / math.log(2) / size.sum()
        results[f"heldout_{source}"] = {
            "alias": f"heldout_{source}",
            "bits_per_byte,none": value,
            "bits_per_byte_stderr,none": 0.4 / math.sqrt(150),
        }
        documents[f"heldout_{source}"] = {
            "doc_id": list(range(150)),
            "loglikelihood": loglikelihood.tolist(),
            "bytes": size.tolist(),
        }
    correct = (shared.random(100) < 1.6 - truth / 2.2).astype(int)
    results["heldout_prose_last_word"] = {
        "alias": "heldout_prose_last_word",
        "acc,none": correct.mean(),
        "acc_stderr,none": correct.std(ddof=1) / 10,
        "perplexity,none": math.exp(truth * 3),
        "perplexity_stderr,none": "N/A",
    }
    documents["heldout_prose_last_word"] = {"doc_id": list(range(100)), "correct": correct.tolist()}
    body = {"results": results, "eval_id": eval_id, "checkpoint": str(checkpoint), "date": START + 2e5}
    body = json.loads(json.dumps(body, default=float))
    write_result(result_path(checkpoint, "embedded", eval_id), body, documents)
    bpb = "heldout/{}/bits_per_byte"
    found = {
        bpb.format(source): (
            float(results[f"heldout_{source}"]["bits_per_byte,none"]),
            float(results[f"heldout_{source}"]["bits_per_byte_stderr,none"]),
            eval_id,
        )
        for source in ("prose", "code")
    }
    last = results["heldout_prose_last_word"]
    found["heldout/prose/last_word/acc"] = (float(last["acc,none"]), float(last["acc_stderr,none"]), eval_id)
    found["heldout/prose/last_word/perplexity"] = (float(last["perplexity,none"]), None, eval_id)
    return found


def _point(
    study: str, name: str, params: int, seed: int, stage: schema.TrainingStage, stage_id: str
) -> dict[str, object]:
    chain = [{"stage": stage.parent.stage, "tokens": stage.parent.tokens}] if stage.parent else []
    return {
        "name": f"model={name},tokens={stage.end_tokens},seed={seed}",
        "config": {},
        "chain": [*chain, {"stage": stage_id, "tokens": stage.end_tokens}],
        "params": params + 16_384,
        "params_non_embedding": params,
        "tokens": stage.end_tokens,
        "flops": 6.0 * params * stage.end_tokens,
        "flops_6nd": 6.0 * params * stage.end_tokens,
        "seed_init": seed,
        "seed_data": seed,
    }
