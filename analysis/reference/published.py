"""Published facts that curves are compared with, typed from their sources."""

from __future__ import annotations

import math

import pandas as pd

from analysis.load import FRAME_COLUMNS

PYTHIA_TOKENS_PER_STEP = 2_097_152
"""1,024 sequences of 2,048 tokens (Biderman et al. 2023, section 2.3)."""
PYTHIA_SIZES = {
    "70m": (70_426_624, 18_915_328),
    "160m": (162_322_944, 85_056_000),
    "410m": (405_334_016, 302_311_424),
    "1b": (1_011_781_632, 805_736_448),
    "1.4b": (1_414_647_808, 1_208_602_624),
    "2.8b": (2_775_208_960, 2_517_652_480),
    "6.9b": (6_857_302_016, 6_444_163_072),
    "12b": (11_846_072_320, 11_327_027_200),
}
"""Parameters, all and without embeddings, of each size (Biderman et al. 2023, table 1)."""

TINYLLAMA_SOURCE = "https://github.com/jzhang38/TinyLlama/blob/main/EVAL.md"
TINYLLAMA_PARAMS = 1_100_048_384
TINYLLAMA_PARAMS_NON_EMBEDDING = 968_976_384
"""Without input embedding and output head, 2 x 32,000 x 2,048."""
_COMMONSENSE = {
    "hellaswag/acc_norm": (43.50, 49.56, 52.54, 53.68, 54.63, 58.96, 59.20),
    "openbookqa/acc_norm": (29.80, 31.40, 33.40, 35.20, 33.40, 34.40, 36.00),
    "winogrande/acc": (53.28, 55.80, 55.96, 58.33, 56.83, 58.72, 59.12),
    "arc_challenge/acc_norm": (24.32, 26.54, 27.82, 29.18, 28.07, 31.91, 30.12),
    "arc_easy/acc_norm": (44.91, 48.32, 52.36, 51.89, 54.67, 56.78, 55.25),
    "boolq/acc": (59.66, 56.91, 59.54, 59.08, 63.21, 63.21, 57.83),
    "piqa/acc_norm": (67.30, 69.42, 69.91, 71.65, 70.67, 73.07, 73.29),
}
"""Per cent at each milestone; zero-shot, accuracy normalised by length where lm-eval has it ("acc_norm by default")."""
_PROBLEM_SOLVING = {
    "mmlu/acc": (26.45, 26.16, 24.65, 24.85, 25.97, 25.92, math.nan),
    "bbh/exact_match": (28.82, 28.83, 29.21, 28.20, 29.07, 29.32, math.nan),
    "humaneval/pass_1": (5.49, 4.88, 6.10, 7.93, 6.71, 9.15, math.nan),
    "drop/exact_match": (11.42, 12.43, 13.03, 14.43, 13.14, 15.45, math.nan),
}
"""Per cent at each milestone, by Instruct-Eval and not by lm-eval; the last milestone is not in that table."""
_STEPS = (50_000, 240_000, 480_000, 715_000, 955_000, 1_195_000, 1_431_000)
_TOKENS = (103e9, 503e9, 1007e9, 1.5e12, 2e12, 2.5e12, 3e12)


def tinyllama_milestones() -> pd.DataFrame:
    """TinyLlama v1's published scores at its intermediate checkpoints, one row per checkpoint and metric.

    One model of 1,100,048,384 parameters at 103B to 3T tokens, scored on seven tasks with lm-eval and on four with
    Instruct-Eval. Scores are fractions; standard errors were not published, so `stderr` is NaN. The tokens are
    as published, rounded to a few digits. The page's rows of chat models and of Pythia-1.0B are left out.

    Returns
    -------
    DataFrame
        The columns of `analysis.load.load_study` and `source`, the page; `study` is "reference/tinyllama",
        `checkpoint` the published name's step. The last milestone, the end of its cosine, is `annealed`.

    References
    ----------
    Zhang et al. 2024, "TinyLlama: An Open-Source Small Language Model"; scores from the repository's page EVAL.md.
    """
    rows = [
        {
            **_facts(index),
            "metric": metric,
            "value": scores[index] / 100,
            "stderr": math.nan,
            "eval_id": None if math.isnan(scores[index]) else suite,
            "source": None if math.isnan(scores[index]) else TINYLLAMA_SOURCE,
        }
        for suite, table in (("lm-eval", _COMMONSENSE), ("instruct-eval", _PROBLEM_SOLVING))
        for metric, scores in table.items()
        for index in range(len(_STEPS))
    ]
    frame = pd.DataFrame(rows, columns=pd.Index([*FRAME_COLUMNS, "source"]))
    return frame.sort_values(["metric", "tokens"], ignore_index=True)


def _facts(index: int) -> dict[str, object]:
    name = "TinyLlama-1.1B"
    return {
        **dict.fromkeys(("point", "stage", "trajectory", "model"), name),
        "study": "reference/tinyllama",
        "params": TINYLLAMA_PARAMS,
        "params_non_embedding": TINYLLAMA_PARAMS_NON_EMBEDDING,
        "tokens": int(_TOKENS[index]),
        "annealed": index == len(_STEPS) - 1,
        "checkpoint": f"TinyLlama/{name}@step-{_STEPS[index] // 1000}k",
    }
