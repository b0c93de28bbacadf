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
_LEAST = np.finfo(np.float32).tiny


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
def logarithm(x):
    r""":math:`\log x` to 3e-7, or to 3e-7 of it, for a finite float32; numbers below the least normal one count as that."""
    x = x if x > _LEAST else _LEAST
    n, power = _split(x)
    return _log_of_power(n, x * power - np.float32(1.0))


@numba.njit(inline="always")
def log1p(x):
    r""":math:`\log(1 + x)` to 3e-7 of it, for a finite float32 of at least 0; NaN stays NaN. Not for loops that reorder sums."""
    one = np.float32(1.0)
    rounded = one + x
    n, power = _split(rounded)
    # Exact, and what was lost to rounding.
    return _log_of_power(n, (rounded * power - one) + (x - (rounded - one)) * power)


@numba.njit(inline="always")
def _split(x):
    r""":math:`n`, and :math:`2^{-n}`, for :math:`x = 2^n (1 + f)` with :math:`\sqrt{1/2} \le 1 + f < \sqrt 2`."""
    n = np.int32((np.float32(x).view(np.int32) - _ROOT_OF_HALF) >> _MANTISSA_BITS)
    return n, np.int32((_BIAS - n) << _MANTISSA_BITS).view(np.float32)


@numba.njit(inline="always")
def _log_of_power(n, f):
    r""":math:`n \log 2 + \log(1 + f)`, the latter as :math:`2 \operatorname{artanh} s` of :math:`s = f / (2 + f)`.

    Five terms of the power series are enough.
    """
    two = np.float32(2.0)
    s = f / (two + f)
    square = s * s
    series = np.float32(2.0 / 9.0)
    series = series * square + np.float32(2.0 / 7.0)
    series = series * square + np.float32(2.0 / 5.0)
    series = series * square + np.float32(2.0 / 3.0)
    n = np.float32(n)
    return n * _LOG_2_HIGH + (n * _LOG_2_LOW + (two * s + s * square * series))
