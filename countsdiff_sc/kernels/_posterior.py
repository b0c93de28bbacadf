"""Elementwise formulas of the denoiser, each in one pass: as chains of tensor operations they wait for memory."""

from __future__ import annotations

import math

import numba
import numpy as np

from ._random import GAMMA, scrambled, stream
from ._threads import over_rows

_UNIT = np.float32(2.0**-24)


def freeman_tukey(
    counts: np.ndarray, prob: np.ndarray, rate: np.ndarray, *, dropout: float = 0.0, seed: int = 0, n_threads: int = 1
) -> np.ndarray:
    r"""Residual :math:`\sqrt{x} + \sqrt{x + 1} - \sqrt{4 p m + 1}`, and dropout of it.

    Parameters
    ----------
    counts, prob, rate
        Counts :math:`x`, survival probability :math:`p` and rate :math:`m`, float32, shape ``(B, G)``.
    dropout
        Probability with which a residual is set to 0; the others are divided by the probability to be kept.
    seed
        Seed of the dropout, at least 0.
    n_threads
        Threads to use.
    """
    residual = np.empty(counts.shape, dtype=np.float32)
    least, scale = np.float32(dropout), np.float32(1.0 / (1.0 - dropout))
    over_rows(_residual, counts.shape, n_threads, counts, prob, rate, least, scale, np.uint64(seed), residual)
    return residual


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _residual(first, last, counts, prob, rate, least, scale, seed, residual):
    one, four = np.float32(1.0), np.float32(4.0)
    for row in range(first, last):
        for column in range(counts.shape[1]):
            x = counts[row, column]
            expected = np.sqrt(four * prob[row, column] * rate[row, column] + one)
            residual[row, column] = np.sqrt(x) + np.sqrt(x + one) - expected
        if least > 0.0:
            start = stream(seed, row)
            for column in range(counts.shape[1]):
                unit = np.float32(scrambled(start + np.uint64(column) * GAMMA) >> np.uint64(40)) * _UNIT
                residual[row, column] *= scale * np.float32(unit >= least)


def bounded_exp_gradient(
    gradient: np.ndarray, value: np.ndarray, *, low: float, high: float, n_threads: int = 1
) -> np.ndarray:
    """Gradient of ``value = exp(clip(x))``: ``gradient`` times ``value`` strictly between ``low`` and ``high``, else 0."""
    result = np.empty(value.shape, dtype=np.float32)
    over_rows(_bounded, value.shape, n_threads, gradient, value, np.float32(low), np.float32(high), result)
    return result


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bounded(first, last, gradient, value, low, high, result):
    for row in range(first, last):
        for column in range(value.shape[1]):
            inside = np.float32((value[row, column] > low) & (value[row, column] < high))
            result[row, column] = gradient[row, column] * value[row, column] * inside


def gamma_poisson_mean(
    rate: np.ndarray, dispersion: np.ndarray, counts: np.ndarray, prob: np.ndarray, *, n_threads: int = 1
) -> np.ndarray:
    r"""Mean :math:`(1 - p)(r + x) \mu / (r + p \mu)` of the molecules lost; all float32, shape ``(B, G)``."""
    mean = np.empty(rate.shape, dtype=np.float32)
    over_rows(_posterior_mean, rate.shape, n_threads, rate, dispersion, counts, prob, mean)
    return mean


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _posterior_mean(first, last, rate, dispersion, counts, prob, mean):
    one = np.float32(1.0)
    for row in range(first, last):
        for column in range(rate.shape[1]):
            mu, r, p = rate[row, column], dispersion[row, column], prob[row, column]
            mean[row, column] = (one - p) * (r + counts[row, column]) * mu / (r + p * mu)


def gamma_poisson_mean_gradient(
    gradient: np.ndarray,
    rate: np.ndarray,
    dispersion: np.ndarray,
    counts: np.ndarray,
    prob: np.ndarray,
    *,
    n_threads: int = 1,
) -> np.ndarray:
    r"""Gradient by the rate, :math:`(1 - p)(r + x)\, r / (r + p \mu)^2` times ``gradient``; arguments as above."""
    result = np.empty(rate.shape, dtype=np.float32)
    over_rows(_posterior_gradient, rate.shape, n_threads, gradient, rate, dispersion, counts, prob, result)
    return result


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _posterior_gradient(first, last, gradient, rate, dispersion, counts, prob, result):
    one = np.float32(1.0)
    for row in range(first, last):
        for column in range(rate.shape[1]):
            r, p = dispersion[row, column], prob[row, column]
            scale = one / (r + p * rate[row, column])
            factor = (one - p) * (r + counts[row, column]) * r * scale * scale
            result[row, column] = factor * gradient[row, column]


def bregman(
    counts: np.ndarray, mean: np.ndarray, weight: np.ndarray, *, floor: float, n_threads: int = 1
) -> tuple[float, np.ndarray]:
    r"""Sum of :math:`w (\hat y - y \log \hat y)`, and its gradient by :math:`\hat y`.

    A logarithm is taken only where something was lost.

    Parameters
    ----------
    counts, mean, weight
        :math:`y`, :math:`\hat y` and :math:`w`, float32, shape ``(B, G)``.
    floor
        Least :math:`\hat y` of which a logarithm is taken.
    n_threads
        Threads to use.
    """
    gradient = np.empty(mean.shape, dtype=np.float32)
    sums = over_rows(_bregman, mean.shape, n_threads, counts, mean, weight, np.float32(floor), gradient)
    return math.fsum(sums), gradient


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bregman(first, last, counts, mean, weight, floor, gradient):
    total, one = 0.0, np.float32(1.0)
    occupied = np.empty(mean.shape[1], dtype=np.int64)
    for row in range(first, last):
        n_occupied = 0
        for column in range(mean.shape[1]):
            births = mean[row, column]
            y = np.float32(births >= floor) * counts[row, column]
            gradient[row, column] = weight[row, column] * (one - y / max(births, floor))
            total += weight[row, column] * births
            occupied[n_occupied] = column
            n_occupied += counts[row, column] > 0.0
        for column in occupied[:n_occupied]:
            total -= weight[row, column] * counts[row, column] * math.log(max(mean[row, column], floor))
    return total
