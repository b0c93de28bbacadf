"""From what a network reads out to a law of the molecules lost: of one network, and of an equal mixture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from countsdiff_sc import kernels
from countsdiff_sc.process import gamma_poisson_posterior
from countsdiff_sc.process._compiled import arrays, compiles

#: The learned log-ratio to the depth-scaled mean profile, and the log inverse dispersion, are held within these.
LOG_RATIO_RANGE = (-8.0, 8.0)
LOG_DISPERSION_RANGE = (-5.0, 8.0)
_BOUNDS = tuple(
    (np.exp(np.float32(low)), np.exp(np.float32(high))) for low, high in (LOG_RATIO_RANGE, LOG_DISPERSION_RANGE)
)
#: Least divisor.
TINY = 1e-30


def molecules_lost(
    log_ratio: Tensor,
    log_dispersion: Tensor,
    base_rate: Tensor,
    x_t: Tensor,
    survival_prob: Tensor,
    *,
    dispersion_of: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Mean (molecules) of the molecules lost, ``(B, G)``, and inverse dispersion of some cells', as one network has it.

    Each is learned by itself: the mean must not be bent to please the dispersion's likelihood, nor the reverse.
    """
    inputs = (log_ratio, log_dispersion.detach(), base_rate, x_t, survival_prob)
    expected_births = _MeanLost.apply(*inputs) if compiles(*inputs) else mean_lost(*inputs)
    return expected_births, _dispersion(log_dispersion[dispersion_of]) + x_t[dispersion_of]


def mean_lost(
    log_ratio: Tensor, log_dispersion: Tensor, base_rate: Tensor, x_t: Tensor, survival_prob: Tensor
) -> Tensor:
    """Mean of the molecules lost; all ``(B, G)``."""
    rate = base_rate * _ratio(log_ratio)
    return gamma_poisson_posterior(rate, _dispersion(log_dispersion), x_t, survival_prob)[0]


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(*LOG_RATIO_RANGE).exp_()


def _dispersion(log_dispersion: Tensor) -> Tensor:
    return log_dispersion.clamp(*LOG_DISPERSION_RANGE).exp_()


class _MeanLost(torch.autograd.Function):
    """:func:`mean_lost`, differentiable by the log-ratio, in one pass each way."""

    @staticmethod
    def forward(ctx, log_ratio: Tensor, log_dispersion: Tensor, base_rate: Tensor, *visible: Tensor) -> Tensor:
        ratio, dispersion = log_ratio.exp(), log_dispersion.exp()
        inputs = arrays(ratio, dispersion, base_rate, *visible)
        mean = torch.from_numpy(kernels.gamma_poisson_mean(*inputs, bounds=_BOUNDS, n_threads=torch.get_num_threads()))
        ctx.save_for_backward(mean, ratio, dispersion, base_rate, visible[1])
        return mean

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, n_threads = arrays(gradient.contiguous(), *ctx.saved_tensors), torch.get_num_threads()
        by_log_ratio = kernels.gamma_poisson_mean_gradient(*inputs, bounds=_BOUNDS, n_threads=n_threads)
        return torch.from_numpy(by_log_ratio), None, None, None, None


def mixture_lost(
    log_ratio: Tensor, log_dispersion: Tensor, base_rate: Tensor, x_t: Tensor, survival_prob: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and inverse dispersion of the molecules lost, as an equal mixture of ``E`` networks has it.

    Those of the networks are the first two arguments, ``(E, B, G)``; the others are ``(B, G)``.
    """
    others = (base_rate, x_t, survival_prob)
    if len(log_ratio) > 1 and not torch.is_grad_enabled() and compiles(log_ratio[0], log_dispersion[0], *others):
        inputs, n_threads = arrays(log_ratio.exp(), log_dispersion.exp(), *others), torch.get_num_threads()
        found = kernels.gamma_poisson_mixture(*inputs, bounds=_BOUNDS, tiny=TINY, n_threads=n_threads)
        return tuple(map(torch.from_numpy, found))
    return mixture_moments([molecules_lost(*read, *others) for read in zip(log_ratio, log_dispersion, strict=True)])


def mixture_moments(predictions: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    r"""Mean and inverse dispersion of the negative binomial with the mean and variance of an equal mixture.

    With members :math:`(m_k, r_k)` and :math:`m` the average of :math:`m_k`, the variance beyond that of a Poisson law
    is :math:`m^2 / r = \overline{m_k^2 / r_k} + \overline{(m_k - m)^2}`.

    Parameters
    ----------
    predictions
        Mean (molecules) and inverse dispersion of each member, tensors of one shape.
    """
    if len(predictions) == 1:
        return predictions[0]
    mean = sum(mean for mean, _ in predictions) / len(predictions)
    excess = sum(m.square() / r + (m - mean).square() for m, r in predictions) / len(predictions)
    # Where nothing can have been lost the mean is 0 and any dispersion is right, such as 1.
    return mean, (mean.square() + TINY) / (excess + TINY)
