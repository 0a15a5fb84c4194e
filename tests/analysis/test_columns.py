import math

import numpy as np
import pytest

from analysis.columns import known_errors


def test_an_error_of_zero_is_not_known():
    given = [0.01, 0.0, -0.0, -0.1, math.nan, math.inf, None]
    assert known_errors(given).tolist() == pytest.approx([0.01, *[math.nan] * 6], nan_ok=True)
    assert known_errors(0.02) == 0.02
    assert np.isnan(known_errors(0))
