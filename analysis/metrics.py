"""Which way a metric gets better: the one table that tables, curves and figures read."""

from __future__ import annotations

ACCURACIES = ("acc", "acc_norm", "acc_mutual_info", "exact_match", "em", "pass_1")
"""Metrics that have a chance level."""
HIGHER_IS_BETTER = (*ACCURACIES, "accuracy", "f1", "mcc", "bleu", "rouge1", "rouge2", "rougeL", "mc1", "mc2")
LOWER_IS_BETTER = (
    *("perplexity", "word_perplexity", "byte_perplexity", "ppl"),
    *("bits_per_byte", "bits_per_token", "nats_per_token", "nats_per_byte"),
    *("loss", "error", "error_rate", "brier_score"),
)
ENDINGS = {"acc": True, "accuracy": True, "loss": False, "perplexity": False, "ppl": False, "error": False}
"""By the last word of a score's name, as in val_loss, whether higher is better."""


def is_higher_better(metric: str) -> bool | None:
    """Whether a larger value of a metric is the better one; None where that is not known.

    Parameters
    ----------
    metric
        As `lambada_openai/perplexity`, `gsm8k/exact_match/strict-match` or `val_loss`.
    """
    parts = metric.split("/")
    if set(parts) & set(LOWER_IS_BETTER):
        return False
    if set(parts) & set(HIGHER_IS_BETTER):
        return True
    return ENDINGS.get(parts[-1].replace(" ", "_").lower().split("_")[-1])


def lower_is_better(metric: str, unknown: bool | None = None) -> bool:
    """Whether a smaller value of a metric is the better one.

    Parameters
    ----------
    metric
        As in `is_higher_better`.
    unknown
        The answer for a metric that this table does not know; None refuses it.

    Raises
    ------
    ValueError
        The metric's better direction is not known, and `unknown` does not say it.
    """
    higher = is_higher_better(metric)
    if higher is None and unknown is None:
        raise ValueError(f"metric {metric!r}: whether less or more of it is better is not known; say which")
    return bool(unknown) if higher is None else not higher
