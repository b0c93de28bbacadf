"""Elementwise formulas of the denoiser, each in one pass: as chains of tensor operations they wait for memory."""

from __future__ import annotations

import numba
import numpy as np

from ._elementary import exponential, logarithm
from ._random import fill_uniform, stream
from ._threads import over_rows

#: Least and largest log-ratio, and log inverse dispersion; float32, or loops compute in double precision.
Bounds = tuple[tuple[np.float32, np.float32], tuple[np.float32, np.float32]]


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


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _residual(first, last, counts, prob, rate, least, scale, seed, residual):
    one, four = np.float32(1.0), np.float32(4.0)
    unit = np.empty(counts.shape[1], dtype=np.float32)
    for row in range(first, last):
        for column in range(counts.shape[1]):
            x = counts[row, column]
            expected = np.sqrt(four * prob[row, column] * rate[row, column] + one)
            residual[row, column] = np.sqrt(x) + np.sqrt(x + one) - expected
        if least > 0.0:
            fill_uniform(stream(seed, row), unit)
            for column in range(counts.shape[1]):
                residual[row, column] *= scale * np.float32(unit[column] >= least)


@numba.njit(inline="always")
def within(value, bounds):
    """The value, or the bound that it is beyond; NaN stays NaN."""
    low, high = bounds
    value = high if value > high else value
    return low if value < low else value


def gamma_poisson_mixture(
    log_ratio: np.ndarray,
    log_dispersion: np.ndarray,
    slope: np.ndarray,
    base_rate: np.ndarray,
    counts: np.ndarray,
    prob: np.ndarray,
    *,
    bounds: Bounds,
    tiny: float,
    n_threads: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean and inverse dispersion of the molecules lost, by an equal mixture of ``E`` laws.

    Each has the mean :math:`m_k = (1 - p)(r_k + x) \mu_k / (r_k + p \mu_k)` and inverse dispersion :math:`s_k = r_k + x`. With
    :math:`m` their average, the result is :math:`m` and :math:`m^2 / (\overline{m_k^2 / s_k} + \overline{(m_k - m)^2})`.

    Parameters
    ----------
    log_ratio, log_dispersion
        Logarithms of rates :math:`\mu_k` over ``base_rate``, and of inverse dispersions :math:`r_k` at :math:`\mu_k = 1`; float32,
        shape ``(E, B, G)``.
    slope
        Powers of :math:`\mu_k` that :math:`r_k` go with, float32, shape ``(E, B)``.
    base_rate, counts, prob, bounds
        As in :func:`~countsdiff_sc.kernels._losses.mean_loss`.
    tiny
        Added above and below the fraction bar: where nothing can have been lost the inverse dispersion of a mixture is 1.
    n_threads
        Threads to use.
    """
    mean, inverse_dispersion = (np.empty(counts.shape, dtype=np.float32) for _ in range(2))
    inputs = (log_ratio, log_dispersion, slope, base_rate, counts, prob)
    over_rows(_mixture, counts.shape, n_threads, *inputs, bounds, np.float32(tiny), mean, inverse_dispersion)
    return mean, inverse_dispersion


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _mixture(
    first, last, log_ratio, log_dispersion, slope, base_rate, counts, prob, bounds, tiny, mean, inverse_dispersion
):
    one, share = np.float32(1.0), np.float32(1.0 / len(log_ratio))
    of_ratio, of_dispersion = bounds
    n_columns = counts.shape[1]
    log_base, rate, dispersion, total, squares, excess = np.empty((6, n_columns), dtype=np.float32)
    for row in range(first, last):
        # Deviations from the first mean, so that a small variance is not the difference of large numbers.
        shift = mean[row]
        for column in range(n_columns):
            log_base[column] = logarithm(base_rate[row, column])
        for member in range(len(log_ratio)):
            # By themselves, or the compiler takes one number at a time.
            for column in range(n_columns):
                log_change = within(log_ratio[member, row, column], of_ratio)
                log_r = log_dispersion[member, row, column] + slope[member, row] * (log_change + log_base[column])
                rate[column] = exponential(log_change) * base_rate[row, column]
                dispersion[column] = exponential(within(log_r, of_dispersion))
            for column in range(n_columns):
                p, x, mu, r = prob[row, column], counts[row, column], rate[column], dispersion[column]
                m = (one - p) * (r + x) * mu / (r + p * mu)
                if member == 0:
                    shift[column], total[column], squares[column], excess[column] = m, 0.0, 0.0, m * m / (r + x)
                else:
                    deviation = m - shift[column]
                    total[column] += deviation
                    squares[column] += deviation * deviation
                    excess[column] += m * m / (r + x)
        if len(log_ratio) == 1:
            for column in range(n_columns):
                inverse_dispersion[row, column] = dispersion[column] + counts[row, column]
            continue
        for column in range(n_columns):
            deviation = share * total[column]
            variance = max(share * squares[column] - deviation * deviation, np.float32(0.0))
            m = shift[column] + deviation
            mean[row, column] = m
            inverse_dispersion[row, column] = (m * m + tiny) / (share * excess[column] + variance + tiny)
