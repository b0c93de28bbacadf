"""Scores of several methods on the same hidden entries, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from countsdiff_sc._counts import dense

from ._calibration import coverage, pit_from_draws
from ._draw_metrics import energy_distance, variance_ratio, wasserstein, zero_fraction_error
from ._metrics import bias, grouped_correlation, mae, pearson, poisson_deviance, r2, rmse, rmse_log1p

#: Scores of means, by name, in the order of the columns.
MEAN_METRICS = {m.__name__: m for m in (poisson_deviance, rmse_log1p, rmse, mae, bias, r2, pearson)}
#: Levels of the central intervals whose coverage is counted.
LEVELS = (0.5, 0.8, 0.9, 0.95)


def compare(
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    entries: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Score predictions of the same hidden counts.

    Parameters
    ----------
    truth
        Hidden counts (molecules), such as ``counts[hidden]``; one-dimensional with ``entries``.
    predictions
        Predicted means by method, each of that shape.
    entries
        Cell and gene of each hidden count, for correlations within cells and within genes.

    Returns
    -------
    One row per method, indexed by name: ``poisson_deviance`` (nats per entry), ``rmse_log1p``, ``rmse``, ``mae`` and ``bias``
    (molecules), ``r2``, ``pearson`` (of ``log1p``) and, with ``entries``, ``spearman_per_cell`` and ``spearman_per_gene``.

    Examples
    --------
    >>> import numpy as np
    >>> from countsdiff_sc import evaluation
    >>> float(evaluation.compare(np.array([0.0, 2.0]), {"ones": np.ones(2)}).loc["ones", "rmse"])
    1.0
    """
    rows = {}
    for name, mean in predictions.items():
        rows[name] = {metric: score(truth, mean) for metric, score in MEAN_METRICS.items()}
        if entries is not None:
            for groups, unit in zip(entries, ("cell", "gene"), strict=True):
                rows[name][f"spearman_per_{unit}"] = grouped_correlation(truth, mean, groups, ranks=True)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def compare_draws(
    truth: np.ndarray, draws: Mapping[str, Sequence[np.ndarray]], hidden: np.ndarray, *, seed: int = 0
) -> pd.DataFrame:
    """Score draws of the same hidden counts, as distributions.

    Parameters
    ----------
    truth
        Complete counts (molecules), cells x genes, dense or sparse.
    draws
        For each method its draws, which are complete matrices too: observed counts as they are, the others drawn; such as
        :meth:`~countsdiff_sc.CountsDiffSC.get_imputed_counts` returns them.
    hidden
        Where counts were hidden, booleans, cells x genes.
    seed
        Seed of the cells compared, and of ties in ranks.

    Returns
    -------
    One row per method, indexed by name. Of the first draw: ``zero_fraction_error``, ``variance_ratio`` (median gene),
    ``wasserstein`` (molecules) and ``energy_distance``. Of the truth's rank among all draws: ``coverage_50`` to
    ``coverage_95``, the fractions of hidden counts in central intervals of 50, 80, 90 and 95%.
    """
    truth, hidden = dense(truth), dense(hidden)
    genes = np.nonzero(hidden)[1]
    rows = {}
    for name, matrices in draws.items():
        drawn = np.stack([dense(matrix)[hidden] for matrix in matrices])
        first, pit = drawn[0], pit_from_draws(truth[hidden], drawn, seed=seed)
        rows[name] = {
            "zero_fraction_error": zero_fraction_error(truth[hidden], first),
            "variance_ratio": variance_ratio(truth[hidden], first, genes),
            "wasserstein": wasserstein(truth[hidden], first),
            "energy_distance": energy_distance(truth, dense(matrices[0]), seed=seed),
            **{f"coverage_{level * 100:.0f}": coverage(pit, level) for level in LEVELS},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
