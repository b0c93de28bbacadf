"""What the mean and the dispersion of the molecules lost learn from: values and gradients in one pass."""

from __future__ import annotations

import math

import numba
import numpy as np

from ._elementary import exponential, log1p, logarithm
from ._places import find_places
from ._posterior import Bounds, within
from ._threads import over_rows


def mean_loss(
    log_ratio: np.ndarray,
    log_dispersion: np.ndarray,
    slope: np.ndarray,
    base_rate: np.ndarray,
    counts: np.ndarray,
    prob: np.ndarray,
    lost: np.ndarray,
    weight: np.ndarray,
    *,
    bounds: Bounds,
    floor: float,
    n_threads: int = 1,
) -> tuple[float, np.ndarray]:
    r"""Sum of :math:`w (\hat y - y \log \hat y)` for means :math:`\hat y = (1 - p)(r + x) \mu / (r + p \mu)` of the molecules lost.

    Also its gradient by :math:`\log \mu`, which is :math:`w (\hat y - y)\, r / (r + p \mu)`, and 0 where the log-ratio is at or
    beyond its bounds, or NaN. A logarithm is taken only where something was lost.

    Parameters
    ----------
    log_ratio, log_dispersion, base_rate, counts, prob
        Logarithms of the rate :math:`\mu` over ``base_rate`` and of the inverse dispersion :math:`r` at :math:`\mu = 1`, that rate,
        visible counts :math:`x` and survival probability :math:`p`; float32, shape ``(B, G)``.
    slope
        Power of :math:`\mu` that :math:`r` goes with, float32, shape ``(B,)``. The gradient takes :math:`r` for fixed.
    lost
        Molecules lost :math:`y`, NaN for entries that do not count; float32, shape ``(B, G)``.
    weight
        :math:`w`, float32, shape ``(B,)``.
    bounds
        What the two logarithms are held within.
    floor
        Least :math:`\hat y` of which a logarithm is taken.
    n_threads
        Threads to use.
    """
    gradient = np.empty(counts.shape, dtype=np.float32)
    inputs = (log_ratio, log_dispersion, slope, base_rate, counts, prob, lost, weight)
    totals = over_rows(_mean_rows, counts.shape, n_threads, *inputs, bounds, np.float32(floor), gradient)
    return math.fsum(totals), gradient


# The order of a sum is left to the compiler, so that rows are added up as vectors.
@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _mean_rows(
    first, last, log_ratio, log_dispersion, slope, base_rate, counts, prob, lost, weight, bounds, floor, gradient
):
    total, zero, one = 0.0, np.float32(0.0), np.float32(1.0)
    of_ratio, of_dispersion = bounds
    low, high = of_ratio
    n_columns = counts.shape[1]
    log_base, mean = np.empty((2, n_columns), dtype=np.float32)
    flags, occupied = np.empty(n_columns, dtype=np.bool_), np.empty(n_columns, dtype=np.uint64)
    for row in range(first, last):
        births, logs = zero, zero
        for column in range(n_columns):
            log_base[column] = logarithm(base_rate[row, column])
        for column in range(n_columns):
            k, p, y = log_ratio[row, column], prob[row, column], lost[row, column]
            log_change = within(k, of_ratio)
            log_r = log_dispersion[row, column] + slope[row] * (log_change + log_base[column])
            r, mu = exponential(within(log_r, of_dispersion)), exponential(log_change) * base_rate[row, column]
            per_rate = one / (r + p * mu)
            m = (one - p) * (r + counts[row, column]) * mu * per_rate
            counted = y == y  # all but NaN
            learned = y if counted & (m >= floor) else zero
            gradient[row, column] = (
                weight[row] * (m - learned) * r * per_rate if counted & (k > low) & (k < high) else zero
            )
            births += m if counted else zero
            mean[column] = m
            flags[column] = y > zero
        for place in range(find_places(flags, occupied)):
            column = occupied[place]
            logs += lost[row, column] * np.log(max(mean[column], floor))
        total += weight[row] * (births - logs)
    return total


def dispersion_loss(
    log_ratio: np.ndarray,
    log_dispersion: np.ndarray,
    slope: np.ndarray,
    base_rate: np.ndarray,
    counts: np.ndarray,
    prob: np.ndarray,
    lost: np.ndarray,
    weight: np.ndarray,
    *,
    every: int,
    bounds: Bounds,
    floor: float,
    n_threads: int = 1,
) -> tuple[float, np.ndarray, np.ndarray]:
    r"""Sum of :math:`-w \log \mathrm{NB}(y; \hat y, r + x)` over every so many-th row, and its gradients.

    The mean :math:`\hat y` is held fast. The gradient by :math:`\log r`, which is that by ``log_dispersion``, is :math:`w\, r` times
    that of :func:`negative_binomial_nll`, and 0 in other rows, and where the logarithm is at or beyond its bounds, or NaN. That
    by ``slope`` is a row's sum of it times :math:`\log \mu`.

    Parameters
    ----------
    log_ratio, log_dispersion, slope, base_rate, counts, prob, lost, weight, bounds, n_threads
        As in :func:`mean_loss`.
    every
        Steps from one row that counts to the next; the first does.
    floor
        Least :math:`\hat y`.
    """
    gradient, by_slope = np.zeros(counts.shape, dtype=np.float32), np.zeros(len(counts), dtype=np.float32)
    n_rows = -(-len(counts) // every)
    inputs = (log_ratio, log_dispersion, slope, base_rate, counts, prob, lost, weight)
    arguments = (*inputs, every, bounds, np.float32(floor), gradient, by_slope)
    totals = over_rows(_dispersion_rows, (n_rows, counts.shape[1]), n_threads, *arguments)
    return math.fsum(totals), gradient, by_slope


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _dispersion_rows(
    first,
    last,
    log_ratio,
    log_dispersion,
    slope,
    base_rate,
    counts,
    prob,
    lost,
    weight,
    every,
    bounds,
    floor,
    gradient,
    by_slope,
):
    total, zero, one = 0.0, np.float32(0.0), np.float32(1.0)
    of_ratio, of_dispersion = bounds
    low, high = of_dispersion
    n_columns = counts.shape[1]
    log_rate, rate, log_own, own, mean, dispersion, log_excess = np.empty((7, n_columns), dtype=np.float32)
    flags, occupied = np.empty(n_columns, dtype=np.bool_), np.empty(n_columns, dtype=np.uint64)
    for row in range(first * every, last * every, every):
        for column in range(n_columns):
            log_rate[column] = logarithm(base_rate[row, column])
        for column in range(n_columns):
            log_change = within(log_ratio[row, column], of_ratio)
            rate[column] = exponential(log_change) * base_rate[row, column]
            log_rate[column] += log_change
            log_own[column] = log_dispersion[row, column] + slope[row] * log_rate[column]
            own[column] = exponential(within(log_own[column], of_dispersion))
        for column in range(n_columns):
            p, x, mu, r = prob[row, column], counts[row, column], rate[column], own[column]
            m = (one - p) * (r + x) * mu / (r + p * mu)
            mean[column] = floor if m < floor else m  # NaN stays NaN
            dispersion[column] = r + x
        total += weight[row] * _nll_row(lost[row], mean, dispersion, log_excess, gradient[row], flags, occupied)
        for column in range(n_columns):
            k = log_own[column]
            gradient[row, column] *= weight[row] * own[column] if (k > low) & (k < high) else zero
        by_slope[row] = _dot(gradient[row], log_rate)
    return total


# The order of the sum is left to the compiler, as above.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(left, right):
    total = np.float32(0.0)
    for index in range(len(left)):
        total += left[index] * right[index]
    return total


def negative_binomial_nll(
    counts: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, *, floor: float, n_threads: int = 1
) -> np.ndarray:
    r"""Sum of :math:`-\log \mathrm{NB}(x; m, r)` over each row's entries that are not NaN, shape ``(B,)``, float64.

    :math:`-\log \frac{\Gamma(r + x)}{\Gamma(r)\, x!} + r \log(1 + m / r) + x \log(1 + r / m)`, of which a zero leaves
    :math:`r \log(1 + m / r)`. The gradient by :math:`r` is :math:`\log(1 + m / r) + (x - m) / (r + m) - \sum_{k < x} 1 / (r + k)`.

    Parameters
    ----------
    counts, mean, dispersion
        Counts :math:`x` or NaN, mean :math:`m`, and inverse dispersion :math:`r` above 0 and below 1e18; float32, shape
        ``(B, G)``.
    floor
        Least mean.
    n_threads
        Threads to use.
    """
    totals = np.empty(len(counts))
    mean = np.maximum(mean, np.float32(floor))
    over_rows(_nll_rows, counts.shape, n_threads, counts, mean, dispersion, totals)
    return totals


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _nll_rows(first, last, counts, mean, dispersion, totals):
    n_columns = counts.shape[1]
    log_excess, gradient = np.empty((2, n_columns), dtype=np.float32)
    flags, occupied = np.empty(n_columns, dtype=np.bool_), np.empty(n_columns, dtype=np.uint64)
    for row in range(first, last):
        totals[row] = _nll_row(counts[row], mean[row], dispersion[row], log_excess, gradient, flags, occupied)


@numba.njit(inline="always")
def _nll_row(counts, mean, dispersion, log_excess, gradient, flags, occupied):
    """The sum over a row; ``gradient`` is filled, ``log_excess``, ``flags`` and ``occupied`` are room for it."""
    zero = np.float32(0.0)
    for column in range(len(counts)):
        log_excess[column] = log1p(mean[column] / dispersion[column])
    of_zeros, of_molecules = 0.0, 0.0
    for column in range(len(counts)):
        x, m, r, excess = counts[column], mean[column], dispersion[column], log_excess[column]
        counted = x == x  # all but NaN
        gradient[column] = excess + (x - m) / (r + m) if counted else zero
        log_excess[column] = r * excess if counted else zero
        flags[column] = x > zero
    for column in range(len(counts)):  # by itself, since a sum in order keeps a loop from being compiled to vectors
        of_zeros += log_excess[column]
    for place in range(find_places(flags, occupied)):
        column = occupied[place]
        x, m, r = counts[column], mean[column], np.float64(dispersion[column])
        log_coefficient, harmonic = _coefficient(r, x)
        of_molecules += x * math.log1p(r / m) - log_coefficient
        gradient[column] -= harmonic
    return of_zeros + of_molecules


#: So many factors of a coefficient are multiplied one by one; the rest are left to gamma functions.
_PLAIN = 16


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _coefficient(r, x):
    r""":math:`\log \frac{\Gamma(r + x)}{\Gamma(r)\, x!}` and :math:`\sum_{k < x} 1 / (r + k)`."""
    product, harmonic = 1.0, 0.0
    for k in range(int(min(x, _PLAIN))):
        product *= (r + k) / (k + 1.0)
        harmonic += 1.0 / (r + k)
    log_coefficient = math.log(product)
    if x > _PLAIN:
        log_coefficient += (
            math.lgamma(r + x) - math.lgamma(r + _PLAIN) - math.lgamma(x + 1.0) + math.lgamma(_PLAIN + 1.0)
        )
        harmonic += _digamma(r + x) - _digamma(r + _PLAIN)
    return log_coefficient, harmonic


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _digamma(x):
    """Asymptotic series, to 1e-9 from 16 on."""
    square = 1.0 / (x * x)
    return math.log(x) - 0.5 / x - square * (1.0 / 12.0 - square / 120.0)
