"""Cross-entropy straight from the hidden states.

Shapes: B sequences, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def cross_entropy_per_token(
    h_BTD: Float[Tensor, "B T D"], weight_VD: Float[Tensor, "V D"], targets_BT: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Cross-entropy of each target under the logits `h_BTD @ weight_VD.T`: fp32, in nats."""
    logits_BTV = F.linear(h_BTD, weight_VD).float()
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="none").view_as(targets_BT)
