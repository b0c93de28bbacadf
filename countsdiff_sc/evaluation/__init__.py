"""Judging an imputation on entries that were hidden from it."""

from ._baselines import gene_mean_x_depth, label_mean_x_depth, zeros
from ._holdout import Holdout, compare, hold_out
from ._masks import mcar
from ._metrics import poisson_deviance, rmse_log1p

__all__ = [
    "Holdout",
    "compare",
    "gene_mean_x_depth",
    "hold_out",
    "label_mean_x_depth",
    "mcar",
    "poisson_deviance",
    "rmse_log1p",
    "zeros",
]
