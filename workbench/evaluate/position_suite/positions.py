"""Bits per byte by position: a task of lm-eval that asks for each token's own log-likelihood.

A token's position is the number of the document's tokens before it, so that a model of C tokens has positions 0 to
C - 1. Buckets double: 0-15, 16-31, 32-63, 64-127 and so on. A document counts in a bucket that it fills, and that the
model's context has; elsewhere it is missing. All models are asked of the same tokens at the same positions, whatever their
contexts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte
from lm_eval.api.task import ConfigurableTask

from workbench.evaluate.suites.documents import load_texts as load_texts

FIRST_BUCKET = 16
"""Positions of the first bucket, and of the second."""
LONGEST = 1 << 24
"""Tokens of the longest context for which there are buckets."""
METRIC = "bits_per_byte"
REQUEST = "loglikelihood_tokens"
"""Name of the language model's method that answers."""


class PositionTask(ConfigurableTask):
    """Held-out texts; of each, the tokens' log-likelihoods and bytes by bucket of positions."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def construct_requests(self, doc: dict[str, Any], ctx: str | list[str], **kwargs: Any) -> Instance:
        """Ask for each token of a text."""
        facts = {key: value for key, value in kwargs.items() if "chat_template" not in key}
        return Instance(request_type=REQUEST, doc=doc, arguments=(doc["text"],), idx=0, **facts)  # pyright: ignore[reportArgumentType]

    def process_results(self, doc: dict[str, Any], results: list[list[tuple[float, int]]]) -> dict[str, Any]:
        """Sum one document's tokens in each bucket that they fill."""
        return bucket_sums(results[0])

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """Divide sums over documents by each other, as lm-eval does for whole texts."""
        return {f"{bucket_name(bucket)}/{METRIC}": bits_per_byte for bucket in filled_buckets(LONGEST)}

    def higher_is_better(self) -> dict[str, bool]:
        """Say that lower is better, everywhere."""
        return dict.fromkeys(self.aggregation(), False)


def bucket_sums(tokens: Sequence[tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """Sum log-likelihoods (nats) and bytes in each bucket that a text's first tokens fill.

    Parameters
    ----------
    tokens
        Log-likelihood and bytes of each token, from the text's first.

    Returns
    -------
    dict
        By metric, such as `0064-0127/bits_per_byte`; a bucket that is not filled, or has no bytes, is missing.
    """
    sums: dict[str, tuple[float, int]] = {}
    for bucket in filled_buckets(len(tokens)):
        inside = [tokens[position] for position in bucket]
        size = sum(count for _, count in inside)
        if size:
            sums[f"{bucket_name(bucket)}/{METRIC}"] = math.fsum(score for score, _ in inside), size
    return sums


def filled_buckets(tokens: int) -> Iterator[range]:
    """Give the buckets whose positions the first `tokens` tokens all have."""
    bucket = range(FIRST_BUCKET)
    while bucket.stop <= tokens:
        yield bucket
        bucket = range(bucket.stop, 2 * bucket.stop)


def bucket_name(bucket: range) -> str:
    """Name a bucket by its first and its last position, as `0064-0127`."""
    return f"{bucket.start:04d}-{bucket.stop - 1:04d}"
