"""Scaling rules: named pure functions of size that a study states instead of a table of numbers."""

from __future__ import annotations

from workbench.config.schema import OptimizerConfig


def learning_rate_rule(optimizer: OptimizerConfig, params_non_embedding: int) -> float:
    """Peak learning rate for a model of `params_non_embedding` parameters.

    `optimizer.learning_rate` where it is set; otherwise a power law of size,
    `base_learning_rate * (params / base_params) ** -size_exponent`.

    References
    ----------
    Kaplan et al. 2020, "Scaling Laws for Neural Language Models", appendix D.6, and Porian et al. 2024,
    "Resolving Discrepancies in Compute-Optimal Scaling of Language Models", section 3.4, fit falling
    learning rates of the same kind; base and exponent are the study's own.
    """
    if optimizer.learning_rate is not None:
        return optimizer.learning_rate
    rate = optimizer.base_learning_rate * (params_non_embedding / optimizer.base_params) ** -optimizer.size_exponent
    return float(f"{rate:.3g}")
