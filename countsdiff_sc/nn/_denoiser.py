"""What every denoiser shares: depth from the visible molecules, and a posterior of the molecules lost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from countsdiff_sc import kernels
from countsdiff_sc.process import gamma_poisson_posterior
from countsdiff_sc.process._compiled import arrays, compiles, drawn_seed

from ._context import CellContext, Conditions

#: The learned log-ratio to the depth-scaled mean profile, and the log inverse dispersion, are held within these.
LOG_RATIO_RANGE = (-8.0, 8.0)
LOG_DISPERSION_RANGE = (-5.0, 8.0)
#: Least divisor.
TINY = 1e-30


class CountDenoiser(nn.Module):
    r"""Predict the molecules lost from those still visible.

    Each entry has its own survival probability ``p``: 1 where it is observed, ``p(t)`` where it is missing, 0 where
    nothing is known. A cell's depth is read off the visible molecules and ``p``; the backbone learns, per gene, the
    log-ratio of the rate :math:`\mu` to the depth-scaled mean profile and the inverse dispersion :math:`r`. The
    molecules lost then follow :func:`~countsdiff_sc.process.gamma_poisson_posterior`, so that dependence on an
    entry's own visible count and on time is exact rather than learned (this package).

    There may be several networks: in training each learns from its own share of a minibatch, afterwards the law of the
    molecules lost is that of their equal mixture (Lakshminarayanan et al. 2017).

    Parameters
    ----------
    backbone
        Called as ``backbone(x_t, survival_prob, base_rate, context)``; returns log-ratio and log inverse dispersion. It has
        an attribute ``width`` (``H``). A module that is a single network gets ``(B, G)`` tensors and a context ``(B, H)``, and
        returns ``(B, G)`` tensors. One with an attribute ``n_members`` (``E``) is that many networks: tensors then have a
        leading axis of that size, or of size 1 where all networks get the same, and what it returns has that of size ``E``.
    modality_sizes
        Genes (or proteins, ...) of each of the ``D`` modalities; they add up to ``G``. Each has a depth of its own.
    n_categories, n_continuous
        Conditions, see :class:`CellContext`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        modality_sizes: tuple[int, ...],
        n_categories: tuple[int, ...] = (),
        n_continuous: int = 0,
    ):
        super().__init__()
        self.backbone = backbone
        self.n_members = getattr(backbone, "n_members", 1)
        self.context = CellContext(backbone.width, len(modality_sizes), n_categories, n_continuous, self.n_members)
        membership = torch.block_diag(*(torch.ones(size, 1) for size in modality_sizes))
        self.register_buffer("membership", membership, persistent=False)  # (G, D), one-hot
        self.register_buffer("mean_profile", torch.ones(len(membership)))
        self.register_buffer("depth_concentration", torch.ones(len(modality_sizes)))
        self.register_buffer("continuous_location", torch.zeros(n_continuous))
        self.register_buffer("continuous_scale", torch.ones(n_continuous))

    def infer_depth(self, x_t: Tensor, survival_prob: Tensor) -> Tensor:
        r"""Depth of each cell in each modality relative to the average cell, shape ``(B, D)``.

        Posterior mean of a Gamma depth of mean 1 and shape ``depth_concentration``, given the visible molecules and
        how many an average cell would show: with nothing visible the depth is 1.
        """
        visible = x_t @ self.membership
        expected = survival_prob @ (self.membership * self.mean_profile.unsqueeze(1))
        return (visible + self.depth_concentration) / (expected + self.depth_concentration)

    def forward(self, x_t: Tensor, survival_prob: Tensor, t: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Mean (molecules) and inverse dispersion of the molecules lost, each ``(B, G)``.

        Parameters
        ----------
        x_t
            Visible counts (molecules), 0 where nothing is known, shape ``(B, G)``.
        survival_prob
            Survival probability of each entry, shape ``(B, G)``.
        t
            Time of the missing entries, shape ``(B,)``.
        conditions
            Labels and covariates of the cells.
        """
        depth = self.infer_depth(x_t, survival_prob)
        base_rate = depth @ (self.membership * self.mean_profile.unsqueeze(1)).T
        continuous = (conditions.continuous - self.continuous_location) / self.continuous_scale
        inputs = (x_t, survival_prob, base_rate, depth, t, conditions.categories, continuous)
        if self.training:
            rate, dispersion = (value.flatten(0, 1)[: len(x_t)] for value in self._read(*map(self._shares, inputs)))
            return _posterior(rate, dispersion, x_t, survival_prob)
        laws = zip(*self._read(*(tensor.unsqueeze(0) for tensor in inputs)), strict=True)
        return mixture_moments([_posterior(rate, dispersion, x_t, survival_prob) for rate, dispersion in laws])

    def _shares(self, cells: Tensor) -> Tensor:
        """Each network's share of the cells, ``(B, ...)`` to ``(E, B / E, ...)``; the first cells fill up the last share."""
        size = -(-len(cells) // self.n_members)
        if size * self.n_members > len(cells):
            cells = cells[torch.arange(size * self.n_members, device=cells.device) % len(cells)]
        return cells.unflatten(0, (self.n_members, size))

    def _read(
        self,
        x_t: Tensor,
        survival_prob: Tensor,
        base_rate: Tensor,
        depth: Tensor,
        t: Tensor,
        categories: Tensor,
        continuous: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Rate (molecules) and inverse dispersion of each entry by each network, ``(E, B, G)``."""
        context = self.context(x_t, survival_prob, depth, t, Conditions(categories, continuous))
        if hasattr(self.backbone, "n_members"):
            log_ratio, log_dispersion = self.backbone(x_t, survival_prob, base_rate, context)
        else:
            read = self.backbone(*(tensor.squeeze(0) for tensor in (x_t, survival_prob, base_rate, context)))
            log_ratio, log_dispersion = (value.unsqueeze(0) for value in read)
        ratio, dispersion = bounded_exp(log_ratio, LOG_RATIO_RANGE), bounded_exp(log_dispersion, LOG_DISPERSION_RANGE)
        return base_rate * ratio, dispersion


def _posterior(rate: Tensor, dispersion: Tensor, x_t: Tensor, survival_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse dispersion of the molecules lost, of which each is learned by itself."""
    # The mean must not be bent to please the dispersion's likelihood, nor the reverse.
    expected_births, _ = gamma_poisson_posterior(rate, dispersion.detach(), x_t, survival_prob)
    return expected_births, dispersion + x_t


def bounded_exp(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Exponential of ``x`` held within ``bounds``, elementwise; constant, with gradient 0, at and beyond them."""
    if x.is_contiguous() and compiles(x.flatten(0, -2)):
        return _BoundedExp.apply(x, *bounds)
    return x.clamp(*bounds).exp()


class _BoundedExp(torch.autograd.Function):
    """The same with a gradient in one pass."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        value = x.clamp(low, high).exp_()
        ctx.save_for_backward(value)
        # The ends as single precision has them, so that a value at a bound is recognised.
        ctx.ends = torch.tensor([low, high], dtype=x.dtype).exp().tolist()
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (value,) = ctx.saved_tensors
        inputs = arrays(*(tensor.flatten(0, -2) for tensor in (gradient.contiguous(), value)))
        low, high = ctx.ends
        by_x = kernels.bounded_exp_gradient(*inputs, low=low, high=high, n_threads=torch.get_num_threads())
        return torch.from_numpy(by_x).view_as(value), None, None


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


def freeman_tukey_residual(x_t: Tensor, survival_prob: Tensor, rate: Tensor, *, dropout: float = 0.0) -> Tensor:
    r"""Surprise of visible counts, :math:`\sqrt{x} + \sqrt{x + 1} - \sqrt{4 p m + 1}`; 0 where nothing is expected.

    Of about unit variance under a Poisson law of mean ``p m`` at any depth, and growing as a square root only, so that a
    few abundant genes do not drown the rest (Freeman & Tukey 1950).

    Parameters
    ----------
    x_t, survival_prob, rate
        Visible counts (molecules), probability that a molecule is visible, and expected count ``m``; shape ``(B, G)``.
    dropout
        Probability with which a residual is left out; the others are scaled up to the same mean.
    """
    if compiles(x_t, survival_prob, rate):
        seed, n_threads = drawn_seed(None) if dropout else 0, torch.get_num_threads()
        inputs = arrays(x_t, survival_prob, rate)
        return torch.from_numpy(kernels.freeman_tukey(*inputs, dropout=dropout, seed=seed, n_threads=n_threads))
    residual = x_t.sqrt() + (x_t + 1.0).sqrt() - (4.0 * survival_prob * rate + 1.0).sqrt()
    return F.dropout(residual, dropout)
