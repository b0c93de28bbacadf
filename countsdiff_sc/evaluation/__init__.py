"""Judging an imputation on entries that were hidden from it."""

from ._baselines import gene_mean_x_depth, label_mean_x_depth, low_rank, nearest_neighbours, zeros
from ._calibration import coverage, interval_coverage, pit_from_draws, randomised_pit
from ._draw_metrics import (
    energy_distance,
    k_sample_scores,
    mmd,
    sliced_wasserstein,
    variance_ratio,
    wasserstein,
    zero_fraction_error,
)
from ._holdout import Holdout, hold_out
from ._masked_diffusion import MaskedDiffusion
from ._masks import mar, mcar, mnar_high, mnar_low, modality, panel, split_molecules, valid_entries
from ._metrics import (
    bias,
    grouped_correlation,
    mae,
    negative_binomial_log_score,
    pearson,
    poisson_deviance,
    r2,
    rmse,
    rmse_log1p,
)
from ._null_check import NullCheck, null_check
from ._scfid import ScFID, frechet_distance
from ._scvi import ScviImputer
from ._tables import compare, compare_draws
from ._tools import halra, magic

__all__ = [
    "Holdout",
    "MaskedDiffusion",
    "NullCheck",
    "ScFID",
    "ScviImputer",
    "bias",
    "compare",
    "compare_draws",
    "coverage",
    "energy_distance",
    "frechet_distance",
    "gene_mean_x_depth",
    "grouped_correlation",
    "halra",
    "hold_out",
    "interval_coverage",
    "k_sample_scores",
    "label_mean_x_depth",
    "low_rank",
    "mae",
    "magic",
    "mar",
    "mcar",
    "mmd",
    "mnar_high",
    "mnar_low",
    "modality",
    "nearest_neighbours",
    "negative_binomial_log_score",
    "null_check",
    "panel",
    "pearson",
    "pit_from_draws",
    "poisson_deviance",
    "r2",
    "randomised_pit",
    "rmse",
    "rmse_log1p",
    "sliced_wasserstein",
    "split_molecules",
    "valid_entries",
    "variance_ratio",
    "wasserstein",
    "zero_fraction_error",
    "zeros",
]
