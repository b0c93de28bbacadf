"""A denoiser known in closed form: the yardstick for losses, bound and samplers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from countsdiff_sc import kernels

from ._compiled import arrays, compiles


def gamma_poisson_posterior(
    rate: Tensor, dispersion: Tensor, x_t: Tensor, survival_prob: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Law of the molecules lost when the count is negative binomial: again a negative binomial.

    If :math:`x_0 \sim \mathrm{NB}(\mu, r)`, that is Poisson with a Gamma rate of mean :math:`\mu` and shape
    :math:`r`, then after thinning with probability :math:`p` the rate is Gamma with shape :math:`r + x_t`, and
    :math:`y = x_0 - x_t \mid x_t \sim \mathrm{NB}\big((1-p)(r+x_t)/(r/\mu+p),\; r+x_t\big)`.

    Parameters
    ----------
    rate
        Mean count :math:`\mu` (molecules), positive.
    dispersion
        Inverse dispersion :math:`r`, positive.
    x_t
        Molecules still visible.
    survival_prob
        Probability in ``[0, 1]`` that a molecule is still visible.

    Returns
    -------
    Mean (molecules) and inverse dispersion of the molecules lost.
    """
    shape = dispersion + x_t
    if compiles(rate, dispersion, x_t, survival_prob) and not dispersion.requires_grad:
        return _PosteriorMean.apply(rate, dispersion, x_t, survival_prob), shape
    return (1.0 - survival_prob) * shape * rate / (dispersion + survival_prob * rate), shape


class _PosteriorMean(torch.autograd.Function):
    """The mean of :func:`gamma_poisson_posterior` in one pass, differentiable by the rate."""

    @staticmethod
    def forward(ctx, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return torch.from_numpy(kernels.gamma_poisson_mean(*arrays(*inputs), n_threads=torch.get_num_threads()))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = arrays(gradient.contiguous(), *ctx.saved_tensors)
        by_rate = kernels.gamma_poisson_mean_gradient(*inputs, n_threads=torch.get_num_threads())
        return torch.from_numpy(by_rate), None, None, None


@dataclass(frozen=True)
class GammaPoissonOracle:
    """The exact denoiser of independent negative binomial counts, in the form the samplers call.

    Parameters
    ----------
    rate, dispersion
        Mean and inverse dispersion of each entry, broadcastable to ``(B, G)``.
    schedule
        Survival schedule of the process.
    """

    rate: Tensor
    dispersion: Tensor
    schedule: object

    def __call__(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Expected births and their inverse dispersion at time ``t``."""
        return gamma_poisson_posterior(self.rate, self.dispersion, x_t, self.schedule.survival_prob(t))
