"""What a model can be compared with, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._baselines import gene_mean_x_depth, label_mean_x_depth, low_rank, nearest_neighbours, zeros


@dataclass(frozen=True)
class Baseline:
    """An imputer as :func:`hold_out` calls it.

    Parameters
    ----------
    impute
        Function of ``(counts, observed_mask, labels)``.
    needs_labels
        Whether it is left out where there are no labels.
    is_fast
        Whether it takes seconds and is always installed.
    """

    impute: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
    needs_labels: bool = False
    is_fast: bool = True


BASELINES = {
    "zeros": Baseline(zeros),
    "gene mean x depth": Baseline(gene_mean_x_depth),
    "label mean x depth": Baseline(label_mean_x_depth, needs_labels=True),
    "nearest neighbours": Baseline(nearest_neighbours),
    "low rank": Baseline(low_rank),
}
FAST_BASELINES = tuple(name for name, baseline in BASELINES.items() if baseline.is_fast)
