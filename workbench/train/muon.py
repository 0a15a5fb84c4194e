"""Muon for the matrices of the blocks beside AdamW for everything else, in one optimizer.

Muon replaces a matrix's momentum by the nearest matrix with equal singular values, up to the errors of a few iterations,
so that an update moves every direction alike. PyTorch's own (`torch.optim.Muon`) cannot leave out an update without the
host knowing of it, and takes a fused matrix for one; its arithmetic is repeated here, and `tests/train/test_muon.py`
compares the two bit for bit.

References
----------
Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/;
Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv:2502.16982.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.config.schema import OptimizerConfig
from workbench.train.eager_optimizers import EagerOptimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic of an iteration: chosen by Jordan for its slope at 0, for which singular values end at 0.7 to 1.2."""
EPS = 1e-7
"""Least norm that a matrix is divided by."""


class MuonWithAdamW(EagerOptimizer):
    """Muon over matrices, AdamW over the other parameters; one state, one list of groups.

    Parameters
    ----------
    groups
        Muon's groups: `params`, matrices alone; `rows`, of each matrix how its rows are divided into matrices that are
        orthogonalised apart (queries, keys, values); `lr` and `weight_decay`.
    adamw
        AdamW over the rest, which this optimizer steps and whose state and groups become part of its own.
    config
        Momentum, iterations and the adjustment of the rate.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], adamw: torch.optim.AdamW, config: OptimizerConfig) -> None:
        super().__init__(groups, {"lr": 0.0})
        self.config, self.adamw, self.found_inf = config, adamw, None
        self._muon_groups = tuple(self.param_groups)
        self.matrices = frozenset(parameter for group in self._muon_groups for parameter in group["params"])
        self.param_groups.extend(adamw.param_groups)
        adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update everything, where the tensor `found_inf` is absent or 0; else change no bit."""
        assert closure is None
        self.adamw.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.step()
        for group in self._muon_groups:
            for matrix, rows in zip(group["params"], group["rows"], strict=True):
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, rows, group["lr"], group["weight_decay"])

    def _update(self, matrix: Tensor, gradient: Tensor, rows: Sequence[int], rate: float, decay: float) -> None:
        state, momentum = self.state[matrix], self.config.momentum
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp(gradient, 1 - momentum)
        ahead = gradient.lerp(buffer, momentum) if self.config.nesterov else buffer
        updated = matrix * (1 - rate * decay)
        for part, direction in zip(updated.split(rows), ahead.split(rows), strict=True):
            adjusted = rate * rate_adjustment(part.shape, self.config.rate_adjustment)
            part.add_(orthogonalise(direction, self.config.ns_steps), alpha=-adjusted)
        self._keep(state["momentum_buffer"], buffer)
        self._keep(matrix, updated)

    def _keep(self, old: Tensor, new: Tensor) -> None:
        """Write `new` over `old` unless the step is to be skipped, which the host need not know."""
        old.copy_(new if self.found_inf is None else torch.where(self.found_inf == 0, new, old))


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Bring all singular values of a matrix near 1 by Newton-Schulz iterations, in bf16.

    With X the matrix over its norm, on its shorter side: X <- a X + (b A + c A^2) X, where A = X X^T.

    Parameters
    ----------
    matrix
        Of any shape (rows, columns).
    steps
        Iterations.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16().T if tall else matrix.bfloat16()
    x = x / x.norm().clamp(min=EPS)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def rate_adjustment(shape: torch.Size, kind: str) -> float:
    """Factor on the learning rate of a matrix of a shape (A, B), as `OptimizerConfig.rate_adjustment` says.

    References
    ----------
    `match_rms_adamw`: Liu et al., arXiv:2502.16982, equation 4. An orthogonal matrix's entries have the root mean square
    1 / sqrt(max(A, B)), and updates of AdamW usually 0.2 to 0.4.
    """
    if kind == "match_rms_adamw":
        return 0.2 * math.sqrt(max(shape))
    return math.sqrt(max(1.0, shape[0] / shape[1]))
