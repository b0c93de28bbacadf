"""What a model can be compared with, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._baselines import gene_mean_x_depth, label_mean_x_depth, low_rank, nearest_neighbours, zeros
from ._masked_diffusion import MaskedDiffusion
from ._scvi import ScviImputer
from ._tools import halra, magic


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


def _train_and_impute(imputer: type) -> Callable[..., np.ndarray]:
    """A model that is trained, with its default settings, on what it then imputes."""

    def impute(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        return imputer().fit(counts, observed_mask).impute(counts, observed_mask)

    return impute


BASELINES = {
    "zeros": Baseline(zeros),
    "gene mean x depth": Baseline(gene_mean_x_depth),
    "label mean x depth": Baseline(label_mean_x_depth, needs_labels=True),
    "nearest neighbours": Baseline(nearest_neighbours),
    "low rank": Baseline(low_rank),
    "MAGIC": Baseline(magic, is_fast=False),
    "halra": Baseline(halra, is_fast=False),
    "scVI": Baseline(_train_and_impute(ScviImputer), is_fast=False),
    "masked diffusion": Baseline(_train_and_impute(MaskedDiffusion), is_fast=False),
}
FAST_BASELINES = tuple(name for name, baseline in BASELINES.items() if baseline.is_fast)
