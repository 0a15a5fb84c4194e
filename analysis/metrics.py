"""The direction in which a metric improves: the one table that tables, curves and figures read."""

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
"""Whether higher is better, by the last word of a score's name, as in val_loss."""


def is_higher_better(metric: str) -> bool | None:
    """Whether larger values of a metric are better; None where that is unknown.

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


def is_proportion(metric: str) -> bool:
    """Whether a metric is the share of documents that were answered right.

    Parameters
    ----------
    metric
        As in `is_higher_better`.
    """
    parts = metric.split("/")
    last = parts[-1].replace(" ", "_").lower().split("_")[-1]
    return bool(set(parts) & set(ACCURACIES)) or last in ("acc", "accuracy")


def lower_is_better(metric: str, unknown: bool | None = None) -> bool:
    """Whether smaller values of a metric are better.

    Parameters
    ----------
    metric
        As in `is_higher_better`.
    unknown
        The answer for a metric that this table does not know; None refuses it.

    Raises
    ------
    ValueError
        The direction in which the metric improves is unknown, and `unknown` is None.
    """
    higher = is_higher_better(metric)
    if higher is None and unknown is None:
        raise ValueError(f"metric {metric!r}: it is unknown whether lower or higher is better; say which")
    return bool(unknown) if higher is None else not higher
