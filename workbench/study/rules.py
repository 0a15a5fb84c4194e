"""Scaling rules: named pure functions of size, which a study uses instead of a table of numbers."""

from __future__ import annotations

from dataclasses import replace

from workbench.config.schema import Config, ModelConfig, OptimizerConfig
from workbench.study.flops import count_parameters

MATCHED_WITHIN = 0.01
"""Relative difference in parameters without embeddings up to which two models count as matched."""


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


def apply_variant(config: Config) -> Config:
    """Change a point's model and mixture as its variant says; the label stays.

    Raises
    ------
    ValueError
        No width of the feed-forward block matches the baseline's parameters within 1%.
    """
    variant, base = config.variant, config.model
    heads = {"multi_head": base.num_heads, "multi_query": 1, None: base.num_kv_heads}[variant.kv_heads]
    model = replace(
        base,
        num_kv_heads=heads,
        mlp=variant.mlp or base.mlp,
        norm=variant.norm or base.norm,
        position=variant.position or base.position,
    )
    if variant.match_parameters:
        model = match_parameters(model, count_parameters(base).non_embedding)
    sources = config.data.sources
    if variant.mixture:
        weights = variant.mixture
        sources = {name: replace(source, weight=weights.get(name, 0.0)) for name, source in sources.items()}
    if model == base and sources is config.data.sources:
        return config
    return replace(config, model=model, data=replace(config.data, sources=sources))


def match_parameters(model: ModelConfig, non_embedding: int) -> ModelConfig:
    """Give a model the feed-forward width with which it has about `non_embedding` parameters.

    The width is the nearest multiple of 64 (else of 8, else any) that comes within 1%: wide matrices run best
    in multiples, and narrow models need single units.

    Raises
    ------
    ValueError
        No width does.
    """
    if _distance(model, non_embedding) <= MATCHED_WITHIN:
        return model
    one = count_parameters(replace(model, mlp_width=model.mlp_width + 1)).non_embedding
    unit = one - count_parameters(model).non_embedding
    exact = model.mlp_width + (non_embedding - count_parameters(model).non_embedding) / unit
    for multiple in (64, 8, 1):
        width = max(multiple, multiple * round(exact / multiple))
        matched = replace(model, mlp_width=width)
        if _distance(matched, non_embedding) <= MATCHED_WITHIN:
            return matched
    raise ValueError(
        f"no model.mlp_width gives this variant of {model.name} {non_embedding} parameters without embeddings within "
        f"{MATCHED_WITHIN:.0%}: take a larger model, or variant.match_parameters=false"
    )


def _distance(model: ModelConfig, non_embedding: int) -> float:
    return abs(count_parameters(model).non_embedding / non_embedding - 1)
