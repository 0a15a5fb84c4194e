"""Ablation tables: every variant against the baseline, paired by seed, with the noise pooled over variants."""

from analysis.ablation.table import ablation_table, detectable_effect, holm

__all__ = [
    "ablation_table",
    "detectable_effect",
    "holm",
]
