"""Objectives for the molecules lost, in nats per entry, and how times are weighted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from countsdiff_sc import kernels

from ._compiled import arrays, compiles
from ._guidance import RATE_FLOOR
from ._schedules import SurvivalSchedule

#: Maps ``(schedule, t)`` to the weight of the loss at ``t``.
LossWeighting = Callable[[SurvivalSchedule, Tensor], Tensor]


def bregman_loss(n_deaths: Tensor, expected_births: Tensor) -> Tensor:
    r"""Poisson loss :math:`\hat y - y \log \hat y`; its minimiser is the posterior mean :math:`E[y \mid x_t]`.

    Equation 6 of CountsDiff. ``expected_births`` must be positive; the result is elementwise.
    """
    return expected_births - n_deaths * expected_births.clamp(min=RATE_FLOOR).log()


def weighted_bregman_loss(n_deaths: Tensor, expected_births: Tensor, weight: Tensor) -> Tensor:
    """Sum of ``weight`` times :func:`bregman_loss` over each cell's entries of which ``n_deaths`` is not NaN, shape ``(B,)``.

    ``weight`` is one number per cell, ``(B, 1)``, or one for all; the others are of shape ``(B, G)``.
    """
    weight = weight.to(n_deaths.dtype).expand(len(n_deaths), 1)
    mask, n_deaths = _mask_and_counts(n_deaths)
    return (weight * mask * bregman_loss(n_deaths, expected_births)).sum(1)


def _mask_and_counts(n_deaths: Tensor) -> tuple[Tensor, Tensor]:
    """1 for entries that are not NaN and 0 for others, and the entries with 0 for NaN."""
    return (n_deaths == n_deaths).to(n_deaths.dtype), n_deaths.nan_to_num()


def bound_integrand(n_deaths: Tensor, expected_births: Tensor) -> Tensor:
    r"""Poisson divergence :math:`y \log(y / \hat y) - y + \hat y`, at least 0.

    Integrated over time with weight :func:`likelihood_weight` its expectation bounds :math:`-\log P(x_0)` from
    above, with equality for the posterior mean. It differs from :func:`bregman_loss` by a term free of the network.
    """
    # Not xlogy of the ratio: its gradient is NaN where nothing died.
    log_births = expected_births.clamp(min=RATE_FLOOR).log()
    return torch.xlogy(n_deaths, n_deaths) - n_deaths * log_births - n_deaths + expected_births


def negative_binomial_nll(count: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    r"""``-log P(count)`` of a negative binomial with variance ``mean + mean^2 / dispersion``.

    Parameters
    ----------
    count
        Counts (molecules).
    mean
        Mean (molecules), positive.
    dispersion
        *Inverse* dispersion, positive: the Poisson law is its limit at infinity.
    """
    mean = mean.clamp(min=RATE_FLOOR)
    log_excess = (mean / dispersion).log1p()
    return (
        torch.lgamma(count + 1.0)
        - _log_rising_factorial(dispersion, count)
        + (dispersion + count) * log_excess
        + count * (dispersion.log() - mean.log())
    )


def negative_binomial_loss(n_deaths: Tensor, expected_births: Tensor, dispersion: Tensor) -> Tensor:
    """Sum of :func:`negative_binomial_nll` over each cell's entries of which ``n_deaths`` is not NaN, ``(B, G)`` to ``(B,)``."""
    if not torch.is_grad_enabled() and compiles(n_deaths, expected_births, dispersion):
        inputs, n_threads = arrays(n_deaths, expected_births, dispersion), torch.get_num_threads()
        nll = kernels.negative_binomial_nll(*inputs, floor=RATE_FLOOR, n_threads=n_threads)
        return torch.from_numpy(nll).to(n_deaths)
    mask, n_deaths = _mask_and_counts(n_deaths)
    return (mask * negative_binomial_nll(n_deaths, expected_births, dispersion)).sum(1)


#: Above this, ``lgamma(r + x) - lgamma(r)`` cancels in single precision, and Stirling's series is exact in it.
_STIRLING_FROM = 1e3


def _log_rising_factorial(dispersion: Tensor, count: Tensor) -> Tensor:
    r""":math:`\log\Gamma(r + x) - \log\Gamma(r)`."""
    small = dispersion.clamp(max=_STIRLING_FROM)
    direct = torch.lgamma(small + count) - torch.lgamma(small)
    series = count * dispersion.log() + (dispersion + count - 0.5) * (count / dispersion).log1p() - count
    return torch.where(dispersion > _STIRLING_FROM, series, direct)


def paper_weight(schedule: SurvivalSchedule, t: Tensor) -> Tensor:
    """``-p'(t)``, the weighting of the CountsDiff paper. It vanishes at both ends of the cosine schedule."""
    return -schedule.survival_prob_rate(t)


def likelihood_weight(schedule: SurvivalSchedule, t: Tensor) -> Tensor:
    """``-p'(t) / (1 - p(t))``, the birth rate of a lost molecule: makes the loss a bound on ``-log P(x_0)``.

    ``1 - p`` counts as 1e-6 at least: so near to the data float32 does not resolve it.
    """
    return -schedule.survival_prob_rate(t) / (1.0 - schedule.survival_prob(t)).clamp(min=1e-6)


def uniform_weight(schedule: SurvivalSchedule, t: Tensor) -> Tensor:
    """Weight 1 at all times."""
    return torch.ones_like(t)


def paper_step_weight(schedule: SurvivalSchedule, t: Tensor, *, n_times: int) -> Tensor:
    r""":math:`T p_k \log(p_{k-1} / p_k)` at :math:`t = k/T`: that of Blackout diffusion, and :math:`-p'` for large ``T``.

    In Blackout's own clock :math:`\tau = -\log p` it reads :math:`e^{-\tau_k} (\tau_k - \tau_{k-1})` (Santos et al. 2023).
    """
    earlier, p = _step(schedule, t, n_times)
    return (n_times * (torch.xlogy(p, earlier) - torch.xlogy(p, p))).to(t.dtype)  # 0 at p = 0


def likelihood_step_weight(schedule: SurvivalSchedule, t: Tensor, *, n_times: int) -> Tensor:
    r""":math:`T (p_{k-1} - p_k) / (1 - p_k)` at :math:`t = k/T`: ``T`` times the birth probability of the step.

    With it the loss is, up to a constant, the bound on :math:`-\log P(x_0)` of the chain with ``T`` steps whose births are
    Poisson with mean :math:`\beta_k \hat y`. It is finite at every step (this package).
    """
    earlier, p = _step(schedule, t, n_times)
    return (n_times * (earlier - p) / (1.0 - p).clamp(min=torch.finfo(p.dtype).tiny)).to(t.dtype)


def _step(schedule: SurvivalSchedule, t: Tensor, n_times: int) -> tuple[Tensor, Tensor]:
    """Survival probabilities at ``(k - 1) / T`` and at ``k / T``, in double precision; ``k`` is the integer nearest ``t T``."""
    k = (t.double() * n_times).round()
    earlier, p = (schedule.survival_prob(index.clamp(min=0.0) / n_times) for index in (k - 1.0, k))
    return earlier, p


#: Weighting in continuous time, and that of the steps of a discrete one.
_WEIGHTINGS: dict[str, tuple[LossWeighting, Callable[..., Tensor] | None]] = {
    "paper": (paper_weight, paper_step_weight),
    "likelihood": (likelihood_weight, likelihood_step_weight),
    "uniform": (uniform_weight, None),
}


def get_loss_weighting(loss_weighting: str | LossWeighting, *, n_times: int | None = None) -> LossWeighting:
    """Turn ``"paper"``, ``"likelihood"``, ``"uniform"`` or a callable ``(schedule, t)`` into a weighting.

    Parameters
    ----------
    loss_weighting
        Its name, or a callable, which is used as it is.
    n_times
        Number ``T`` of discrete times ``k / T``; ``"paper"`` and ``"likelihood"`` then weigh the steps between them.
    """
    if callable(loss_weighting):
        return loss_weighting
    if loss_weighting in _WEIGHTINGS:
        continuous, step = _WEIGHTINGS[loss_weighting]
        return continuous if n_times is None or step is None else partial(step, n_times=n_times)
    msg = (
        f"loss_weighting={loss_weighting!r} is not known. It must be one of {sorted(_WEIGHTINGS)} or a callable "
        "(schedule, t) -> weight. Pass one of these."
    )
    raise ValueError(msg)
