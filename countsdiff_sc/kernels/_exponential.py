"""The exponential function, in a form that a compiler can take many of at once."""

from __future__ import annotations

import numba
import numpy as np

_PER_LOG_2 = np.float32(1.0 / np.log(2.0))
# log 2 as the sum of a number of few bits, of which multiples are exact, and the rest (Cody & Waite 1980).
_LOG_2_HIGH = np.float32(355.0 / 512.0)
_LOG_2_LOW = np.float32(np.log(2.0) - 355.0 / 512.0)
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


@numba.njit(inline="always")
def exponential(x):
    r""":math:`e^x` to 3e-7 of it, for a float32 between -87 and 88; NaN stays NaN.

    :math:`2^n e^f` with a whole :math:`n` and :math:`|f| \le \log(2) / 2`, of which seven terms of the power series are enough.
    """
    one, half = np.float32(1.0), np.float32(0.5)
    n = np.floor(x * _PER_LOG_2 + half)
    f = x - n * _LOG_2_HIGH - n * _LOG_2_LOW
    series = np.float32(1.0 / 720.0)
    series = series * f + np.float32(1.0 / 120.0)
    series = series * f + np.float32(1.0 / 24.0)
    series = series * f + np.float32(1.0 / 6.0)
    series = series * f + half
    series = series * f + one
    series = series * f + one
    # The exponent of a float32 is what its bits begin with.
    power = np.int32((np.int32(n) + _BIAS) << _MANTISSA_BITS).view(np.float32)
    return series * power
