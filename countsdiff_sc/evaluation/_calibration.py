"""Whether a predicted law is as uncertain as it should be."""

from __future__ import annotations

import numpy as np
from scipy.stats import nbinom

from ._metrics import MEAN_FLOOR, check_same_shape, paired


def randomised_pit(truth: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, *, seed: int = 0) -> np.ndarray:
    r"""Randomised probability integral transform under negative binomials: uniform if they are right.

    :math:`P(X < x) + U \, P(X = x)` with :math:`U` uniform (Smith 1985; Czado, Gneiting & Held 2009).

    Parameters
    ----------
    truth, mean, dispersion
        Hidden counts (molecules), predicted means and inverse dispersions.
    seed
        Seed of the randomisation within each count's step of the distribution function.

    Returns
    -------
    Values in [0, 1], same shape as ``truth``.
    """
    truth, mean = paired(truth, mean)
    mean = np.maximum(mean, MEAN_FLOOR)
    prob = dispersion / (dispersion + mean)
    below = nbinom.cdf(truth - 1, dispersion, prob)
    return below + np.random.default_rng(seed).random(truth.shape) * nbinom.pmf(truth, dispersion, prob)


def pit_from_draws(truth: np.ndarray, draws: np.ndarray, *, seed: int = 0) -> np.ndarray:
    r"""Randomised probability integral transform by draws, for methods that give nothing else.

    :math:`(\#\{d < x\} + U (\#\{d = x\} + 1)) / (n + 1)` with :math:`U` uniform: the rank of the truth among ``n`` draws, ties
    broken at random (Hamill 2001). Exactly uniform, for any ``n``, if truth and draws are exchangeable.

    Parameters
    ----------
    truth
        Hidden counts (molecules), any shape.
    draws
        Drawn counts, shape ``(n_samples, *truth.shape)``.
    seed
        Seed of the randomisation.

    Returns
    -------
    Values in [0, 1), same shape as ``truth``.
    """
    truth, draws = np.asarray(truth), np.asarray(draws)
    check_same_shape(truth, draws[0], "each draw")
    below, ties = np.sum(draws < truth, axis=0), np.sum(draws == truth, axis=0)
    return (below + np.random.default_rng(seed).random(truth.shape) * (ties + 1)) / (len(draws) + 1)


def coverage(pit: np.ndarray, level: float) -> float:
    """Fraction of randomised PIT values in the central interval of that level; equal to it when calibrated."""
    return float(np.mean(np.abs(pit - 0.5) <= level / 2.0))


def interval_coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Fraction of hidden counts in their intervals, ends included: what a reader of the intervals will find.

    In expectation at least the nominal level where the law is right, and often far above: an interval of whole counts cannot be cut
    to a level. Of a Poisson of mean 0.1, the shortest that holds half of the probability is ``[0, 0]``, which holds 90%. To
    judge calibration use :func:`coverage`, which is exact.

    Parameters
    ----------
    truth, low, high
        Hidden counts (molecules) and the ends of their intervals, same shapes.
    """
    check_same_shape(truth, low, "low")
    check_same_shape(truth, high, "high")
    return float(np.mean((low <= truth) & (truth <= high)))
