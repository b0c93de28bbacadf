"""Exponential function and logarithm, in a form that a compiler can take many of at once."""

from __future__ import annotations

import numba
import numpy as np

_PER_LOG_2 = np.float32(1.0 / np.log(2.0))
# log 2 as the sum of a number of few bits, of which multiples are exact, and the rest (Cody & Waite 1980).
_LOG_2_HIGH = np.float32(355.0 / 512.0)
_LOG_2_LOW = np.float32(np.log(2.0) - 355.0 / 512.0)
# A float32 begins with its exponent, of which this is 0, and goes on with so many bits of what that is multiplied by.
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)
_ROOT_OF_HALF = np.sqrt(np.float32(0.5)).view(np.int32)


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
    power = np.int32((np.int32(n) + _BIAS) << _MANTISSA_BITS).view(np.float32)
    return series * power


@numba.njit(inline="always")
def log1p(x):
    r""":math:`\log(1 + x)` to 3e-7 of it, for a finite float32 of at least 0; NaN stays NaN. Not for loops that reorder sums.

    With :math:`1 + x = 2^n (1 + f)` it is :math:`n \log 2 + 2 \operatorname{artanh} s` of :math:`s = f / (2 + f)`, of whose power
    series five terms are enough.
    """
    one, two = np.float32(1.0), np.float32(2.0)
    rounded = one + x
    n = np.int32((np.float32(rounded).view(np.int32) - _ROOT_OF_HALF) >> _MANTISSA_BITS)
    power = np.int32((_BIAS - n) << _MANTISSA_BITS).view(np.float32)  # 2^-n
    # Exact, and what was lost to rounding.
    f = (rounded * power - one) + (x - (rounded - one)) * power
    s = f / (two + f)
    square = s * s
    series = np.float32(2.0 / 9.0)
    series = series * square + np.float32(2.0 / 7.0)
    series = series * square + np.float32(2.0 / 5.0)
    series = series * square + np.float32(2.0 / 3.0)
    n = np.float32(n)
    return n * _LOG_2_HIGH + (n * _LOG_2_LOW + (two * s + s * square * series))
