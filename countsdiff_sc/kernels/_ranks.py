"""Correlations within many small groups, by ranks or by values."""

from __future__ import annotations

import numba
import numpy as np


def group_correlations(x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, ranks: bool = False) -> np.ndarray:
    r"""Correlation :math:`\sum (x - \bar x)(y - \bar y) / \sqrt{\sum (x - \bar x)^2 \sum (y - \bar y)^2}` in each group.

    Its plain counterpart is a loop over ``scipy.stats.pearsonr`` or ``spearmanr``, whose cost is that of a call per group.

    Parameters
    ----------
    x, y
        Values, shape ``(n,)``.
    groups
        Group of each value, of any type that can be sorted, shape ``(n,)``.
    ranks
        Spearman's correlation, with ties averaged, instead of Pearson's.

    Returns
    -------
    One float64 per group, in the order of the sorted groups; NaN where ``x`` or ``y`` is constant or has a NaN.
    """
    groups = np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    x, y = (np.asarray(values)[order].astype(np.float64) for values in (x, y))
    is_start = np.ones(len(order), dtype=bool)
    is_start[1:] = groups[order[1:]] != groups[order[:-1]]
    return _correlate(x, y, np.append(np.flatnonzero(is_start), len(order)), ranks)


@numba.njit(cache=True, nogil=True)
def _correlate(x, y, bounds, ranks):
    """Correlations of the slices between ``bounds``."""
    correlations = np.empty(len(bounds) - 1)
    for group in range(len(correlations)):
        first, second = x[bounds[group] : bounds[group + 1]], y[bounds[group] : bounds[group + 1]]
        if ranks:
            first, second = _rank(first), _rank(second)
        # The shift, to which correlations are blind, makes the variance of a constant exactly zero.
        first, second = first - first[0], second - second[0]
        first -= first.mean()
        second -= second.mean()
        spread = np.sqrt((first * first).sum()) * np.sqrt((second * second).sum())
        correlations[group] = (first * second).sum() / spread if spread > 0.0 else np.nan
    return correlations


@numba.njit(cache=True, nogil=True)
def _rank(values):
    """Ranks, of which ties share the mean; all NaN if a value is."""
    order = np.argsort(values)
    ranked = np.empty(len(values))
    if np.isnan(values[order[-1]]):  # sorted last
        ranked[:] = np.nan
        return ranked
    start = 0
    while start < len(values):
        stop = start + 1
        while stop < len(values) and values[order[stop]] == values[order[start]]:
            stop += 1
        for position in range(start, stop):
            ranked[order[position]] = 0.5 * (start + stop - 1)
        start = stop
    return ranked
