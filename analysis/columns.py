"""What the columns of a frame mean where their values can be misread: standard errors, and (below) yes or no."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def known_errors(stderr: ArrayLike) -> Array:
    """Keep the standard errors that can be judged with: NaN where there is none above 0.

    An error of exactly 0 is no certainty. For a score between 0 and 1 it contradicts the documents' scatter, so
    that whatever computed it did not see them; for a score of exactly 0 or 1 it says that n documents of n agree, which
    leaves room for about 1/n.

    Parameters
    ----------
    stderr
        Standard errors, of any shape; None is NaN.
    """
    errors = np.asarray(stderr, dtype=np.float64)
    return np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)
