"""How much a result varies when only the seeds change."""

from analysis.noise.variance import Component, Trend, noise_trend, seed_components, seed_variance, variance_interval

__all__ = [
    "Component",
    "Trend",
    "noise_trend",
    "seed_components",
    "seed_variance",
    "variance_interval",
]
