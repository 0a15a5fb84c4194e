"""Frames of every kind of study, made of rows that have real files behind them.

A made-up study of one budget list gives runs, checkpoints and evaluations; each kind relabels its rows (variant,
recipe, rate, budget) as a study of that kind would have them, so that a figure's marks can be walked to files.
"""

import json

import numpy as np
import pandas as pd

from analysis.overrides import label_variants

BITS = "heldout/prose/bits_per_byte"
CODE = "heldout/code/bits_per_byte"
RATES = (0.001, 0.002, 0.004, 0.008)
BRANCHES = ("continual_prose", "continual_code")
SEARCHES = ("null", "{bands:8,rows:18}", "{bands:12,rows:12}", "{bands:24,rows:6}")
VARIANTS = ("base", "gelu", "layernorm", "more_code")


def _cooled(frame):
    return frame[frame["annealed"] & frame["metric"].isin([BITS, CODE])].copy()


def _number(frame, column):
    """Place of each value among the column's, from 0."""
    return frame[column].map({value: place for place, value in enumerate(sorted(frame[column].unique()))})


def ablation(frame):
    """Sizes are variants, budgets are seeds."""
    rows = _cooled(frame)
    names, seeds = _number(rows, "params_non_embedding").map(dict(enumerate(VARIANTS))), _number(rows, "tokens")
    rows["value"] = 2.5 + 0.1 * _number(rows, "params_non_embedding") + 0.01 * np.sin(7.0 * np.arange(len(rows)))
    rows = rows.assign(
        seed_init=seeds, seed_data=seeds, tokens=250_000, unique_tokens=250_000, params_non_embedding=100
    )
    rows["point"] = [f"variant={name},seed={seed}" for name, seed in zip(names, seeds, strict=True)]
    return label_variants(rows.assign(model="m0_1"))


def seeds(frame):
    """Sizes are initialisations, budgets are data orders, of one model: a crossed table."""
    rows = _cooled(frame)
    init, order = _number(rows, "params_non_embedding"), _number(rows, "tokens")
    rows["value"] = 2.5 + 0.03 * init - 0.02 * order + 0.005 * np.cos(5.0 * init * order)
    point = [f"seed_init={i},seed_data={d}" for i, d in zip(init, order, strict=True)]
    return rows.assign(
        seed_init=init,
        seed_data=order,
        point=point,
        model="m0_1",
        params=2_000,
        params_non_embedding=1_000,
        tokens=250_000,
        unique_tokens=250_000,
    )


def sweep(frame):
    """Budgets are learning rates; the best is the third."""
    rows = _cooled(frame)
    place = _number(rows, "tokens")
    rows["value"] = 2.0 + 0.1 * (place - 2) ** 2 + 0.1 * _number(rows, "params_non_embedding")
    rate = place.map(dict(enumerate(RATES)))
    rows["point"] = [
        f"model={model},optimizer.learning_rate={value},recipe.batch_sequences=8"
        for model, value in zip(rows["model"], rate, strict=True)
    ]
    return label_variants(rows.assign(tokens=250_000, unique_tokens=250_000))


def transfer(frame):
    """Budgets are learning rates; the best falls with size under standard, and stays under mup."""
    rows = _cooled(frame)
    place, size = _number(rows, "tokens"), _number(rows, "params_non_embedding")
    parts = []
    for name, slope in (("standard", 0.5), ("mup", 0.0)):
        points = [
            f"model={model},model.parametrisation={name},optimizer.learning_rate={rate}"
            for model, rate in zip(rows["model"], place.map(dict(enumerate(RATES))), strict=True)
        ]
        value = 2.0 + 0.1 * (place - 1.7 + slope * size) ** 2 - 0.1 * size
        parts.append(rows.assign(point=points, value=value, tokens=250_000, unique_tokens=250_000))
    parts[1]["checkpoint"] += "/."  # a checkpoint has one value: mup's rows stand for other runs
    return label_variants(pd.concat(parts, ignore_index=True))


def tuning(frame):
    """Cooldowns stand for tunings that begin where their trunk has a milestone, of two kinds in turn."""
    rows = frame[frame["metric"] == BITS].copy()
    trunk = rows["stage"] == rows["trajectory"]
    starts = dict(rows.loc[trunk].groupby("trajectory")["tokens"].max())
    rows["kinds"] = np.where(trunk, "pretrain", "pretrain>sft")
    rows["start_tokens"] = np.where(trunk, 0, rows["trajectory"].map(starts)).astype(float)
    rows["model"] = np.where(trunk, rows["model"], rows["model"] + " chat")
    return rows


def continual(frame):
    """One size; its milestones are the trunk's, its cooldowns the ends of two branches in turn."""
    rows = frame[(frame["model"] == "m0_1") & frame["metric"].isin([BITS, CODE])].copy()
    trunk = rows["stage"] == rows["trajectory"]
    rows = rows[trunk | (rows["tokens"] > rows.loc[trunk, "tokens"].max() / 2)].copy()
    trunk = rows["stage"] == rows["trajectory"]
    place = _number(rows, "tokens")
    rows["tokens"] = np.where(trunk, 100_000 + 1000 * place, 200_000)
    # In turn among the branches alone: with the trunk among them, its place among the ids would decide.
    turn = {stage: place % 2 for place, stage in enumerate(sorted(set(rows.loc[~trunk, "stage"])))}
    branch = [BRANCHES[turn.get(stage, 0)] for stage in rows["stage"]]
    shares = [{"prose": 1.0} if name == BRANCHES[0] else {"prose": 0.5, "code": 0.5} for name in branch]
    trunk_only = [{"start_sequence": 0, "weights": {"prose": 1.0}, "ramp_sequences": 0}]
    mixed = [[*trunk_only, {"start_sequence": 50, "weights": share, "ramp_sequences": 8}] for share in shares]
    rows["mixture"] = [json.dumps(trunk_only if t else m) for t, m in zip(trunk, mixed, strict=True)]
    both = " | ".join(f"recipe={name}" for name in BRANCHES)
    rows["point"] = [both if shared else f"recipe={name}" for shared, name in zip(trunk, branch, strict=True)]
    return label_variants(rows).drop_duplicates(["model", "tokens", "metric", "stage"])


def repetition(frame):
    """Fresh data at every budget, and half of each budget's rows seen again four times over."""
    fresh = _cooled(frame)
    again = fresh[fresh["tokens"] >= 1_000_000].copy()
    again["unique_tokens"] = 250_000
    again["epochs"] = again["tokens"] / 250_000
    again["value"] += 0.02
    again["point"] = again["point"] + ",data.unique_tokens=250000"
    fresh["point"] = fresh["point"] + ",data.unique_tokens=null"
    # A checkpoint has one value: the repeated rows stand for other runs.
    again["checkpoint"], again["value"] = again["checkpoint"] + "/.", again["value"]
    return label_variants(pd.concat([fresh, again], ignore_index=True))


def extend(frame):
    """Sizes are a model before and after a longer context, budgets are positions; before, the last two are missing."""
    rows = _cooled(frame)
    rows = rows[rows["metric"] == BITS]
    place, bucket = _number(rows, "params_non_embedding"), _number(rows, "tokens")
    first, last = [0, 16, 32, 64], [15, 31, 63, 127]
    kinds = ["pretrain", "pretrain>rescale", "pretrain>rescale>extend", "pretrain>rescale"]
    labels = ["m0_1", "m0_1 linear x2", "m0_1 linear x2 trained", "m0_1 yarn x2"]
    methods = ["linear", "linear", "linear", "yarn"]
    rows = rows.assign(
        metric=[f"position/prose/{first[b]:04d}-{last[b]:04d}/bits_per_byte" for b in bucket],
        kinds=[kinds[p] for p in place],
        model=[labels[p] for p in place],
        point=[f"then.extend.method={methods[p]}" for p in place],
        tokens=[120_000 if p == 2 else 100_000 for p in place],
        trajectory="t" * 16,
        params_non_embedding=1_000,
        stderr=0.05,
    )
    return rows[(place > 0) | (bucket < 3)]


def duplicates(frame):
    """Budgets are searches for near duplicates, sizes are seeds: the fewer are left, the lower the loss."""
    rows = _cooled(frame)
    place, seeds = _number(rows, "tokens"), _number(rows, "params_non_embedding")
    rows["value"] = 2.5 - 0.02 * place + 0.01 * seeds + 0.003 * np.sin(7.0 * np.arange(len(rows)))
    found = dict(enumerate(SEARCHES * 2))
    rows["point"] = [
        f"data.corpus.near_duplicates={found[p]},seed={seed}" for p, seed in zip(place, seeds, strict=True)
    ]
    rows = rows[place < len(SEARCHES)]
    return label_variants(
        rows.assign(
            model="m0_1",
            seed_init=seeds,
            seed_data=seeds,
            tokens=250_000,
            unique_tokens=250_000,
            params_non_embedding=100,
        )
    )


def isoflop(frame):
    """Budgets in FLOPs: at each, sizes along a valley whose bottom moves with compute."""
    rows = _cooled(frame)
    place, size = _number(rows, "tokens"), _number(rows, "params_non_embedding")
    rows["flops"] = 1e12 * 2.0**place
    rows["value"] = 2.5 - 0.2 * place + 0.1 * (size - 1.2 - 0.2 * place) ** 2
    rows["tokens"] = rows["flops"] / (6 * rows["params_non_embedding"])
    rows["unique_tokens"] = rows["tokens"]
    rows["point"] = [f"model={m},flops={f:.0e}" for m, f in zip(rows["model"], rows["flops"], strict=True)]
    return label_variants(rows)


KINDS = {
    "ablation": ablation,
    "sweep": sweep,
    "transfer": transfer,
    "continual": continual,
    "tuning": tuning,
    "repetition": repetition,
    "isoflop": isoflop,
    "extend": extend,
    "duplicates": duplicates,
    "token_scaling": lambda frame: frame,
}
