"""A denoiser known in closed form: the yardstick for losses, bound and samplers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
    return (1.0 - survival_prob) * shape * rate / (dispersion + survival_prob * rate), shape


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
