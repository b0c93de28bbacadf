"""Compiled loops for what vectors cannot do well on a CPU. Tests compare each with a plain counterpart, or with its law."""

from ._csr import COUNT_TYPE, MAX_COUNT, dense_to_csr
from ._filling import fill_with_draws
from ._losses import dispersion_loss, mean_loss, negative_binomial_nll
from ._negative_binomial import MAX_MEAN, draw_negative_binomial
from ._posterior import freeman_tukey, gamma_poisson_mixture
from ._ranks import group_correlations
from ._thinning import PENDING, corrupt, thin_counts

__all__ = [
    "COUNT_TYPE",
    "MAX_COUNT",
    "MAX_MEAN",
    "PENDING",
    "corrupt",
    "dense_to_csr",
    "dispersion_loss",
    "draw_negative_binomial",
    "fill_with_draws",
    "freeman_tukey",
    "gamma_poisson_mixture",
    "group_correlations",
    "mean_loss",
    "negative_binomial_nll",
    "thin_counts",
]
