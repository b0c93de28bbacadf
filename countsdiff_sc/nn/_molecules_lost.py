"""From what networks read out to the law of the molecules lost, and what its mean and dispersion learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from countsdiff_sc import kernels
from countsdiff_sc.process import gamma_poisson_posterior
from countsdiff_sc.process._compiled import arrays, compiles
from countsdiff_sc.process._guidance import RATE_FLOOR
from countsdiff_sc.process._losses import negative_binomial_loss, weighted_bregman_loss

#: The learned log-ratio to the depth-scaled mean profile, and the log inverse dispersion, are held within these.
LOG_RATIO_RANGE = (-8.0, 8.0)
LOG_DISPERSION_RANGE = (-5.0, 8.0)
_BOUNDS = tuple((np.float32(low), np.float32(high)) for low, high in (LOG_RATIO_RANGE, LOG_DISPERSION_RANGE))
#: Least divisor.
TINY = 1e-30


@dataclass(frozen=True)
class Readout:
    """What ``E`` networks read out about the same cells, and the tensors that it is about.

    Parameters
    ----------
    log_ratio, log_dispersion
        Logarithms of the rate over ``base_rate``, and of the inverse dispersion at a rate of one molecule; shape ``(E, B, G)``.
    dispersion_slope
        Power of the rate that the inverse dispersion goes with, shape ``(E, B, 1)``.
    base_rate
        Depth-scaled mean profile (molecules), shape ``(B, G)``.
    x_t, survival_prob
        Visible counts (molecules) and the probability that a molecule is visible, shape ``(B, G)``.
    """

    log_ratio: Tensor
    log_dispersion: Tensor
    dispersion_slope: Tensor
    base_rate: Tensor
    x_t: Tensor
    survival_prob: Tensor

    @property
    def dispersion_parts(self) -> tuple[Tensor, Tensor]:
        """``log_dispersion`` and ``dispersion_slope``, of which the inverse dispersion comes."""
        return self.log_dispersion, self.dispersion_slope

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """``base_rate``, ``x_t`` and ``survival_prob``, which it was read from."""
        return self.base_rate, self.x_t, self.survival_prob

    def of(self, cells: slice) -> Readout:
        """That about some of the cells."""
        read = (tensor[:, cells] for tensor in (self.log_ratio, *self.dispersion_parts))
        return Readout(*read, *(tensor[cells] for tensor in self.inputs))


def molecules_lost(readout: Readout) -> tuple[Tensor, Tensor]:
    """Mean (molecules) and inverse dispersion of the molecules lost, ``(B, G)``, as an equal mixture of the networks has it."""
    log_ratio, (log_dispersion, slope), about = readout.log_ratio, readout.dispersion_parts, readout.inputs
    if not torch.is_grad_enabled() and compiles(log_ratio[0], log_dispersion[0], *about):
        inputs, n_threads = arrays(log_ratio, log_dispersion, slope.squeeze(2), *about), torch.get_num_threads()
        found = kernels.gamma_poisson_mixture(*inputs, bounds=_BOUNDS, tiny=TINY, n_threads=n_threads)
        return tuple(map(torch.from_numpy, found))
    return mixture_moments([_lost_by_one(*read, *about) for read in zip(log_ratio, log_dispersion, slope, strict=True)])


def _lost_by_one(
    log_ratio: Tensor, log_dispersion: Tensor, slope: Tensor, base_rate: Tensor, x_t: Tensor, survival_prob: Tensor
) -> tuple[Tensor, Tensor]:
    log_change = log_ratio.clamp(*LOG_RATIO_RANGE)
    # The rate is the mean's to learn.
    log_rate = log_change.detach() + base_rate.clamp(min=torch.finfo(torch.float32).tiny).log()
    dispersion = (log_dispersion + slope * log_rate).clamp(*LOG_DISPERSION_RANGE).exp()
    return gamma_poisson_posterior(base_rate * log_change.exp(), dispersion, x_t, survival_prob)


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


# Mean and dispersion are learned each by itself: the mean must not be bent to please the dispersion's likelihood, nor the
# reverse. Both losses are those of a single network (``E = 1``).


def mean_loss(readout: Readout, n_deaths: Tensor, weight: Tensor) -> Tensor:
    """Sum of :func:`~countsdiff_sc.process._losses.weighted_bregman_loss` over cells, which the log-ratio learns from."""
    log_dispersion, slope = (tensor.detach() for tensor in readout.dispersion_parts)
    readout = replace(readout, log_dispersion=log_dispersion, dispersion_slope=slope)
    # Not by an index, whose gradient is a copy.
    read, about = (readout.log_ratio.squeeze(0), log_dispersion.squeeze(0)), (*readout.inputs, n_deaths)
    if compiles(*read, *about):
        return _MeanLoss.apply(*read, slope, *about, weight.to(n_deaths.dtype).expand(len(n_deaths), 1))
    return weighted_bregman_loss(n_deaths, molecules_lost(readout)[0], weight).sum()


class _MeanLoss(torch.autograd.Function):
    """Value, and gradient by the log-ratio, in one pass."""

    @staticmethod
    def forward(ctx, log_ratio: Tensor, log_dispersion: Tensor, slope: Tensor, *others: Tensor) -> Tensor:
        read, (*about, weight) = arrays(log_ratio, log_dispersion, slope.flatten()), arrays(*others)
        total, gradient = kernels.mean_loss(
            *read, *about, weight.ravel(), bounds=_BOUNDS, floor=RATE_FLOOR, n_threads=torch.get_num_threads()
        )
        ctx.save_for_backward(torch.from_numpy(gradient))
        return log_ratio.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled(ctx.saved_tensors[0], gradient), *[None] * 7


def dispersion_loss(readout: Readout, n_deaths: Tensor, weight: Tensor, *, every: int = 1) -> Tensor:
    """Sum of ``weight`` times :func:`~countsdiff_sc.process._losses.negative_binomial_loss`, which the dispersion learns from.

    Of every ``every``-th cell, the first one included; the others are not looked at.
    """
    readout = replace(readout, log_ratio=readout.log_ratio.detach())
    read, about = (readout.log_dispersion.squeeze(0), readout.log_ratio.squeeze(0)), (*readout.inputs, n_deaths)
    if compiles(*read, *about):
        return _DispersionLoss.apply(every, readout.dispersion_slope, *read, *about, weight)
    cells = slice(None, None, every)
    mean, dispersion = molecules_lost(readout.of(cells))
    return (weight[cells].squeeze(1) * negative_binomial_loss(n_deaths[cells], mean.detach(), dispersion)).sum()


class _DispersionLoss(torch.autograd.Function):
    """Value, and gradients by what the inverse dispersion comes of."""

    @staticmethod
    def forward(ctx, every: int, slope: Tensor, log_dispersion: Tensor, log_ratio: Tensor, *others: Tensor) -> Tensor:
        read, (*about, weight) = arrays(log_ratio, log_dispersion, slope.flatten()), arrays(*others)
        total, gradient, by_slope = kernels.dispersion_loss(
            *read,
            *about,
            weight.ravel(),
            every=every,
            bounds=_BOUNDS,
            floor=RATE_FLOOR,
            n_threads=torch.get_num_threads(),
        )
        ctx.save_for_backward(torch.from_numpy(by_slope).view_as(slope), torch.from_numpy(gradient))
        return log_dispersion.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(_scaled(each, gradient) for each in ctx.saved_tensors), *[None] * 6


def _scaled(by_log: Tensor, gradient: Tensor) -> Tensor:
    """The product; as a rule a loss is where gradients start, and a pass over all entries is saved."""
    return by_log if gradient == 1.0 else gradient * by_log
