"""The law of the toy study: ten negative binomials that share a size factor, with its exact moments and denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import nbinom
from torch import Tensor

from countsdiff_sc.process import SurvivalSchedule

#: Standard deviation of the log size factor, whose mean is 0.
SIZE_FACTOR_SD = 0.6
#: Where the size factor is tabulated, in its standard deviations: steps narrower than any posterior of it.
NODES = np.linspace(-5.0, 5.0, 41)
#: Least divisor: where nothing can have been lost the mean is 0 and any dispersion is right.
TINY = 1e-30


@dataclass(frozen=True)
class Law:
    r"""``x_j ~ NB(s mu_j, overdispersion alpha_j)`` given a size factor ``s``: variance ``s mu_j + alpha_j (s mu_j)^2``.

    The dimensions are independent given ``s``, and correlated without it.

    Parameters
    ----------
    mean, overdispersion
        ``mu`` (molecules) and ``alpha``, each of shape ``(G,)``.
    """

    mean: np.ndarray
    overdispersion: np.ndarray

    @classmethod
    def random(cls, seed: int, n_dims: int = 10) -> Law:
        """Means log-uniform in [0.05, 5], overdispersions log-uniform in [0.05, 0.5]."""
        rng = np.random.default_rng(seed)
        mean = np.exp(rng.uniform(np.log(0.05), np.log(5.0), n_dims))
        return cls(mean, np.exp(rng.uniform(np.log(0.05), np.log(0.5), n_dims)))

    def draw(self, n_rows: int, seed: int) -> np.ndarray:
        """Independent rows of counts."""
        rng = np.random.default_rng(seed)
        size_factor = np.exp(SIZE_FACTOR_SD * rng.standard_normal((n_rows, 1)))
        gamma = rng.gamma(1.0 / self.overdispersion, self.overdispersion, (n_rows, len(self.mean)))
        return rng.poisson(size_factor * self.mean * gamma).astype(np.float32)

    def cdf(self, max_count: int) -> np.ndarray:
        """Probability that each dimension is at most 0, 1, ..., ``max_count``, by quadrature over the size factor.

        Shape ``(max_count + 1, G)``.
        """
        weight = np.exp(-0.5 * NODES**2)
        mean = np.exp(SIZE_FACTOR_SD * NODES)[:, None, None] * self.mean
        shape = 1.0 / self.overdispersion
        given_size = nbinom.cdf(np.arange(max_count + 1)[:, None], shape, shape / (shape + mean))
        return np.tensordot(weight / weight.sum(), given_size, axes=1)

    @property
    def variance(self) -> np.ndarray:
        """Exact variance of each dimension (squared molecules)."""
        first, second = np.exp(np.array([0.5, 2.0]) * SIZE_FACTOR_SD**2)  # E s and E s^2
        return self.mean * first + self.mean**2 * (self.overdispersion * second + second - first**2)


class ExactDenoiser:
    """The law of the molecules lost, by quadrature over the size factor; in the form the samplers call.

    Given ``s`` it is :func:`~countsdiff_sc.process.gamma_poisson_posterior`. Its mean over the posterior of ``s`` is exact;
    the law itself is replaced by the negative binomial of the same mean and variance, as for a trained network.
    """

    def __init__(self, law: Law, schedule: SurvivalSchedule):
        nodes = torch.as_tensor(NODES, dtype=torch.float32).unsqueeze(1)
        self.log_prior = -0.5 * nodes.squeeze(1).square()
        self.rate = (SIZE_FACTOR_SD * nodes).exp() * torch.as_tensor(law.mean, dtype=torch.float32)  # (nodes, G)
        self.dispersion = torch.as_tensor(1.0 / law.overdispersion, dtype=torch.float32)
        self.schedule, self.n_dims = schedule, len(law.mean)

    def __call__(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (molecules) and inverse dispersion of the molecules lost, each ``(B, G)``; ``t`` for all rows or each."""
        if t.ndim:
            return tuple(part.squeeze(1) for part in torch.vmap(self)(x_t.unsqueeze(1), t))
        p, shape = self.schedule.survival_prob(t), self.dispersion + x_t
        visible = self.dispersion + p * self.rate
        # log NB(x_t | p rate), up to what does not depend on the size factor
        log_likelihood = x_t @ self.rate.log().T - shape @ visible.log().T
        weight = (log_likelihood + self.log_prior).softmax(1)
        per_shape = (1.0 - p) * self.rate / visible  # the mean, given the size factor, is this times the shape
        expected, square = shape * (weight @ per_shape), weight @ per_shape.square()
        excess = (shape + shape.square()) * square - expected.square()
        return expected, (expected.square() + TINY) / (excess.clamp(min=0.0) + TINY)
