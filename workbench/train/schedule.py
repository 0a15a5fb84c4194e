"""Learning rate as a pure function of tokens."""

from __future__ import annotations

import math

from workbench.config.schema import Schedule


def learning_rate(schedule: Schedule, tokens: int, batch_tokens: int) -> float:
    """Learning rate of the step that takes the chain from `tokens` to `tokens + batch_tokens`.

    Warm-up counts the step's own tokens, so that the first step moves; a decay counts the tokens before
    the step, so that the last one still moves.

    Parameters
    ----------
    schedule
        Peak, warm-up and decay.
    tokens
        Tokens since the start of the chain, before the step.
    batch_tokens
        Tokens of the step.
    """
    warmup = 1.0 if schedule.warmup_tokens == 0 else min(1.0, (tokens + batch_tokens) / schedule.warmup_tokens)
    return schedule.peak * warmup * _decay(schedule, tokens)


def _decay(schedule: Schedule, tokens: int) -> float:
    if schedule.decay == "constant":
        return 1.0
    progress = min(1.0, max(0.0, (tokens - schedule.decay_start_tokens) / schedule.decay_tokens))
    remaining = {
        "linear": 1.0 - progress,
        "sqrt": 1.0 - math.sqrt(progress),
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[schedule.decay]
    return schedule.final_ratio + (1.0 - schedule.final_ratio) * remaining
