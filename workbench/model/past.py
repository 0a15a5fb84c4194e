"""Keys and values of tokens that others follow, computed once for all that follow them.

Shapes: B sequences, T tokens, S tokens before them, G key-value heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Past:
    """What one block's attention needs of the tokens before a batch, which all of its sequences follow.

    Parameters
    ----------
    keys_1SGK
        Keys, turned by their positions; None where nothing comes before.
    values_1SGK
        Values.
    grows
        Whether what is joined is kept, for tokens that follow the batch; after others, of one sequence alone.
    """

    def __init__(self, keys_1SGK: Tensor | None = None, values_1SGK: Tensor | None = None, grows: bool = False) -> None:
        self.keys, self.values, self.grows = keys_1SGK, values_1SGK, grows

    def join(self, k_BTGK: Tensor, v_BTGK: Tensor) -> tuple[Tensor, Tensor]:
        """Put what comes before in front of a batch's keys and values: (B, S + T, G, K) each."""
        if self.keys is not None and self.values is not None:
            B = len(k_BTGK)
            k_BTGK = torch.cat((self.keys.expand(B, -1, -1, -1), k_BTGK), dim=1)
            v_BTGK = torch.cat((self.values.expand(B, -1, -1, -1), v_BTGK), dim=1)
        if self.grows:
            assert self.keys is None or len(k_BTGK) == 1
            self.keys, self.values = k_BTGK.contiguous(), v_BTGK.contiguous()
        return k_BTGK, v_BTGK

    def growing(self) -> Past:
        """One that begins with the same tokens and keeps those that are joined."""
        return Past(self.keys, self.values, grows=True)

    def whole(self) -> Past:
        """One with the same tokens that keeps no more."""
        return Past(self.keys, self.values)
