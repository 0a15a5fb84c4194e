"""Runs on a known surface, along budgets or up a ladder of sizes."""

import math

import numpy as np
import pandas as pd

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
"""Hoffmann et al. 2022, eq. 10."""
EXPONENT = BETA / (ALPHA + BETA)
BUDGETS = (1e17, 1e18, 1e19, 1e20, 1e21)
SURFACE = (ALPHA, BETA)


def loss(params, tokens, surface=SURFACE):
    return E + A / params ** surface[0] + B / tokens ** surface[1]


def best_size(compute, surface=SURFACE):
    """Where d/dN of E + A N^-alpha + B (6 N / C)^beta is 0."""
    alpha, beta = surface
    return (alpha * A / (beta * B) * (compute / 6) ** beta) ** (1 / (alpha + beta))


def isoflop_grid(
    budgets=BUDGETS, *, width=8.0, sizes=7, off=lambda compute: 1.0, noise=0.0, seeds=1, seed=0, surface=SURFACE
):
    """Points of each budget, about its optimum times `off`."""
    rng = np.random.default_rng(seed)
    rows = []
    for compute in budgets:
        for params in best_size(compute, surface) * off(compute) * np.geomspace(1 / width, width, sizes):
            tokens = compute / 6 / params
            for s in range(seeds):
                value = loss(params, tokens, surface) * math.exp(noise * rng.normal())
                rows.append({"params": params, "tokens": tokens, "loss": value, "seed": s})
    return pd.DataFrame(rows)


def ladder(sizes=6, step=2.0, ratios=8, noise=0.0, seeds=1, seed=0):
    """Each size at the same tokens per parameter."""
    rng = np.random.default_rng(seed)
    rows = []
    for params in 1e8 * step ** np.arange(sizes):
        for tokens in params * 5 * 2.0 ** np.arange(ratios):
            for s in range(seeds):
                value = loss(params, tokens) * math.exp(noise * rng.normal())
                rows.append({"params": params, "tokens": tokens, "loss": value, "seed": s})
    return pd.DataFrame(rows)
