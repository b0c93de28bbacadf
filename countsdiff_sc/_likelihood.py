"""Bound on the likelihood of one block of cells, on tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from countsdiff_sc._module import CountsDiffModule
from countsdiff_sc.nn import Conditions
from countsdiff_sc.process import bound_integrand, gamma_poisson_posterior, negative_binomial_nll, thin
from countsdiff_sc.process._times import times_at


def likelihood_bound(
    module: CountsDiffModule,
    x_0: Tensor,
    known: Tensor,
    conditions: Conditions,
    *,
    n_times: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    r"""Estimate a lower bound of each cell's log-likelihood (nats), and the variance of the estimate.

    :math:`-\int_0^1 \lambda(t)\, E[y \log(y / \hat y) - y + \hat y]\, dt` over known entries, by Monte Carlo
    (this package):

    - With :math:`\lambda\, dt = d \log(1 - p)` the schedule matters only for the time the network is told, so survival
      probabilities are drawn rather than times: :math:`p = \cos^2(\pi u / 2)` with uniform ``u``. Near :math:`p = 1` a
      molecule is lost with probability :math:`1 - p` and then weighs :math:`1 / (1 - p)`, which has infinite variance if
      ``p`` is uniform; near :math:`p = 0` one of many molecules tells the depth. This law visits both ends more often.
    - For independent negative binomial counts the integral is known: it is their negative log-probability, for every
      :math:`x_0`. Only the difference to such a law is estimated, on the same draws. It is the law that the model predicts
      from nothing, scaled to the depth of the cell; any other would give the same expectation.

    Parameters
    ----------
    module
        Trained module in evaluation mode.
    x_0
        Counts (molecules), 0 where not known, shape ``(B, G)``.
    known
        True where a count is known, shape ``(B, G)``.
    conditions
        Labels and covariates of the cells.
    n_times
        Strata of ``u``. Two draws are taken from each, whose difference gives an unbiased estimate of the variance.
    generator
        Source of randomness on the device of ``x_0``.

    Returns
    -------
    Bound and variance, each of shape ``(B,)``, double precision.
    """
    net, known = module.denoiser, known.to(x_0)
    n_cells, like_u = len(x_0), {"dtype": torch.float64, "device": x_0.device}
    nothing = torch.zeros_like(x_0)
    rate, dispersion = net(nothing, nothing, x_0.new_ones(n_cells), conditions)
    rate = rate * (net.infer_depth(x_0, known) @ net.membership.T)
    bound = -(known * negative_binomial_nll(x_0, rate, dispersion)).sum(1, dtype=torch.float64)
    variance = torch.zeros_like(bound)
    for stratum in range(n_times):
        u = (stratum + torch.rand((2, n_cells), generator=generator, **like_u)) / n_times
        angle = 0.5 * math.pi * u
        p = angle.cos().square()
        t = times_at(module.schedule, p)
        weight = math.pi / angle.tan()  # d log(1 - p) / du
        excess = torch.empty_like(u)
        for draw in range(2):
            survival_prob = known * p[draw].to(x_0).unsqueeze(1)
            x_t = thin(x_0, survival_prob, generator=generator)
            births, _ = net(x_t, survival_prob, t[draw].to(x_0), conditions)
            births_apart, _ = gamma_poisson_posterior(rate, dispersion, x_t, survival_prob)
            lost = x_0 - x_t
            difference = known * (bound_integrand(lost, births) - bound_integrand(lost, births_apart))
            excess[draw] = weight[draw] * difference.sum(1, dtype=torch.float64)
        bound -= excess.mean(0) / n_times
        variance += (excess[0] - excess[1]).square() / (4.0 * n_times**2)
    return bound, variance
