"""Compiled loops for what vectors cannot do well on a CPU. Each has a plain counterpart that its tests compare it with."""

from ._csr import dense_to_csr
from ._negative_binomial import MAX_MEAN, draw_negative_binomial, negative_binomial_nll
from ._posterior import (
    bregman,
    freeman_tukey,
    gamma_poisson_mean,
    gamma_poisson_mean_gradient,
    gamma_poisson_mixture,
)
from ._random import uniform
from ._ranks import group_correlations
from ._thinning import corrupt, thin_counts

__all__ = [
    "MAX_MEAN",
    "bregman",
    "corrupt",
    "dense_to_csr",
    "draw_negative_binomial",
    "freeman_tukey",
    "gamma_poisson_mean",
    "gamma_poisson_mean_gradient",
    "gamma_poisson_mixture",
    "group_correlations",
    "negative_binomial_nll",
    "thin_counts",
    "uniform",
]
