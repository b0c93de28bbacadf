"""How far drawn counts are from the law of the truth, of entries and of whole cells.

Metrics of entries take hidden and drawn counts (molecules) of the same shape; metrics of cells take matrices, cells x genes,
in which row ``i`` of both may be the same cell, or not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance
from sklearn.metrics import euclidean_distances

from ._metrics import check_same_shape, mae, pearson, rmse, rmse_log1p

#: A shorter distance between cells, in ``log1p``, is rounding of 0.
MIN_DISTANCE = 1e-4
#: Of fewer molecules no variance is told.
MIN_MOLECULES = 10

# ---------------------------------------------------------------- entries


def zero_fraction_error(truth: np.ndarray, draws: np.ndarray) -> float:
    """Fraction of zeros among the draws minus that among the hidden counts."""
    return float(np.mean(draws == 0) - np.mean(truth == 0))


def wasserstein(truth: np.ndarray, draws: np.ndarray) -> float:
    """Wasserstein-1 distance (molecules) between the pooled distributions of hidden and drawn counts."""
    return float(wasserstein_distance(truth, draws))


def variance_ratio(truth: np.ndarray, draws: np.ndarray, groups: np.ndarray) -> float:
    """Median over groups (genes) of the variance of the draws over that of the truth; 1 is right.

    Over groups in which truth and draws together have at least 10 molecules, NaN if there is none: a choice by the truth alone would
    take genes that happen to vary there and not in draws of the same law.
    """
    check_same_shape(truth, draws, "draws")
    check_same_shape(truth, groups, "groups")
    size = np.maximum(np.bincount(groups), 1)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(groups, values, len(size))

    def variance(values: np.ndarray) -> np.ndarray:
        mean = total(values) / size
        return total(np.square(values - mean[groups])) / size

    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    compared = total(truth) + total(draws) >= MIN_MOLECULES
    with np.errstate(divide="ignore", invalid="ignore"):  # a gene may vary in one of them only, or in neither
        ratio = variance(draws)[compared] / variance(truth)[compared]
    ratio = ratio[~np.isnan(ratio)]
    return float(np.median(ratio)) if len(ratio) else float("nan")


def k_sample_scores(truth: np.ndarray, draws: np.ndarray) -> pd.DataFrame:
    """Score one draw, and the mean of all ``k`` draws, as if each were a predicted mean :cite:p:`Soatto2026`.

    The mean of ``k`` draws from the true law has ``1 + 1 / k`` times the squared error of the true mean: compare methods only
    at one ``k``, and by :func:`poisson_deviance` of their means where they have some.

    Parameters
    ----------
    truth
        Hidden counts (molecules), shape ``(n_hidden,)``.
    draws
        Drawn counts, shape ``(k, n_hidden)``.

    Returns
    -------
    Rows ``"1 draw"`` (scores averaged over the draws) and ``"mean of {k} draws"`` (not rounded); columns ``rmse``,
    ``rmse_log1p``, ``mae`` and ``pearson``.
    """
    draws = np.asarray(draws)
    check_same_shape(truth, draws[0], "each draw")
    metrics = {metric.__name__: metric for metric in (rmse, rmse_log1p, mae, pearson)}
    rows = {
        "1 draw": {name: np.mean([metric(truth, draw) for draw in draws]) for name, metric in metrics.items()},
        f"mean of {len(draws)} draws": {name: metric(truth, draws.mean(0)) for name, metric in metrics.items()},
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("prediction")


# ---------------------------------------------------------------- cells


def energy_distance(truth: np.ndarray, draws: np.ndarray, *, max_cells: int = 1000, seed: int = 0) -> float:
    r"""Squared energy distance between the cells of two matrices, in ``log1p``; 0 when their laws are equal.

    :math:`2 E|X - Y| - E|X - X'| - E|Y - Y'|` (Székely & Rizzo 2013), without a bandwidth to choose.

    Parameters
    ----------
    truth, draws
        Counts (molecules), cells x genes.
    max_cells
        Cells compared at most, drawn at random.
    seed
        Seed of that choice.

    Returns
    -------
    Its mean over pairs of distinct rows: unbiased, so it may be slightly negative, even where row ``i`` of both is the same
    cell with the same observed entries.
    """
    within_truth, between, within_draws = _distances(*_log_cells(truth, draws, max_cells, np.random.default_rng(seed)))
    return _mean_of_distinct(2.0 * between - within_truth - within_draws)


def mmd(truth: np.ndarray, draws: np.ndarray, *, max_cells: int = 1000, seed: int = 0) -> float:
    r"""Squared maximum mean discrepancy between the cells of two matrices, in ``log1p``; 0 when their laws are equal.

    :math:`E k(X, X') + E k(Y, Y') - 2 E k(X, Y)` with :math:`k(x, y) = \exp(-|x - y|^2 / 2 \sigma^2)` (Gretton et al. 2012).

    Parameters
    ----------
    truth, draws
        Counts (molecules), cells x genes.
    max_cells
        Cells compared at most, drawn at random.
    seed
        Seed of that choice.

    Returns
    -------
    Its U-statistic over pairs of distinct rows (eq. 4 there): unbiased, so it may be slightly negative. Eq. 3 would also
    count pairs of a row with itself, which biases it where row ``i`` of both is the same cell.

    Notes
    -----
    The bandwidth :math:`\sigma` is the median distance between two distinct cells of the truth. Draws do not enter it, so
    that every method is judged by the same kernel.
    """
    within_truth, between, within_draws = _distances(*_log_cells(truth, draws, max_cells, np.random.default_rng(seed)))
    bandwidth = np.median(within_truth[np.triu_indices(len(within_truth), 1)])
    if bandwidth < MIN_DISTANCE:
        msg = (
            f"The median distance between true cells is {bandwidth:.1g}: half of the pairs are identical. The kernel's bandwidth "
            "must be positive. Leave out empty cells, or compare more genes."
        )
        raise ValueError(msg)

    def kernel(distances: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * np.square(distances / bandwidth))

    return _mean_of_distinct(kernel(within_truth) + kernel(within_draws) - 2.0 * kernel(between))


def sliced_wasserstein(
    truth: np.ndarray,
    draws: np.ndarray,
    *,
    order: int = 1,
    n_projections: int = 1000,
    max_cells: int = 1000,
    seed: int = 0,
) -> float:
    r"""Sliced Wasserstein distance between the cells of two matrices, in ``log1p``; compares one number of cells only.

    :math:`(E_\theta W_p^p(\theta \cdot X, \theta \cdot Y))^{1/p}` over directions of unit length (Bonneel et al. 2015).

    Parameters
    ----------
    truth, draws
        Counts (molecules), cells x genes.
    order
        The power :math:`p`: 1 (default), or 2 as in :cite:t:`Soatto2026`, which outlying cells decide.
    n_projections
        Random directions; the same for every method with one seed.
    max_cells
        Cells compared at most, drawn at random.
    seed
        Seed of both choices.

    Returns
    -------
    The distance; 0 for the same cells in any order. Above 0 for other cells of the same law, the less the more there are.
    """
    rng = np.random.default_rng(seed)
    cells = _log_cells(truth, draws, max_cells, rng)
    directions = rng.standard_normal((truth.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    x, y = (np.sort(matrix @ directions, axis=0) for matrix in cells)
    return float(np.mean(np.abs(x - y) ** order) ** (1.0 / order))


def _log_cells(truth: np.ndarray, draws: np.ndarray, max_cells: int, rng: np.random.Generator) -> list[np.ndarray]:
    check_same_shape(truth, draws, "draws")
    if np.ndim(truth) != 2 or len(truth) < 2 or max_cells < 2:
        msg = (
            f"truth has shape {np.shape(truth)} and max_cells is {max_cells}. Laws of cells are compared by at least 2 cells, as "
            "rows of a matrix. Pass cells x genes, with the observed entries too."
        )
        raise ValueError(msg)
    chosen = rng.permutation(len(truth))[:max_cells]
    return [np.log1p(np.asarray(counts)[chosen], dtype=np.float64) for counts in (truth, draws)]


def _distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return euclidean_distances(x), euclidean_distances(x, y), euclidean_distances(y)


def _mean_of_distinct(pairs: np.ndarray) -> float:
    n = len(pairs)
    return float((pairs.sum() - np.trace(pairs)) / (n * (n - 1)))
