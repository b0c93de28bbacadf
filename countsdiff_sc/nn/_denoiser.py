"""What every denoiser shares: depth from the visible molecules, and a posterior of the molecules lost."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from countsdiff_sc import kernels
from countsdiff_sc.process._compiled import arrays, compiles, drawn_seed
from countsdiff_sc.process._residual import freeman_tukey

from ._context import CellContext, Conditions
from ._molecules_lost import Readout, molecules_lost


class CountDenoiser(nn.Module):
    r"""Predict the molecules lost from those still visible.

    Each entry has its own survival probability ``p``: 1 where it is observed, ``p(t)`` where it is missing, 0 where
    nothing is known. A cell's depth is read off the visible molecules and ``p``; the backbone learns, per gene, the
    log-ratio of the rate :math:`\mu` to the depth-scaled mean profile and the inverse dispersion at a rate of one molecule.
    The inverse dispersion :math:`r` is that times :math:`\mu^s`, with a learned power :math:`s` that is common to all entries.
    The molecules lost then follow
    :func:`~countsdiff_sc.process.gamma_poisson_posterior`, so that dependence on an entry's own visible count and on time is exact
    rather than learned (this package).

    There may be several networks: in training each learns from its own share of a minibatch, afterwards a cell follows one
    of them through all times, or the law of the molecules lost is that of their equal mixture (Lakshminarayanan et al.
    2017).

    Parameters
    ----------
    backbone
        Called as ``backbone(x_t, survival_prob, base_rate, context)``; returns log-ratio, and log inverse dispersion at a rate of
        one molecule. It has an attribute ``context_width`` (``C``). A module that is a single network gets ``(B, G)`` tensors and a
        context ``(B, C)``, and returns ``(B, G)`` tensors. One with an attribute ``n_members`` (``E``) is that many networks: tensors
        then have a leading axis of that size, or of size 1 where all networks get the same, and what it returns has that of size
        ``E``. It gets the ``genes`` to read out as a further argument, a slice or an index.
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
        if not hasattr(backbone, "context_width"):
            msg = (
                f"{type(backbone).__name__} has no attribute context_width. It is the number of features of a cell's context, which "
                "a backbone is given beside the counts. Set it, for example to 64."
            )
            raise AttributeError(msg)
        self.backbone = backbone
        self.n_members = getattr(backbone, "n_members", 1)
        self.context = CellContext(
            backbone.context_width, len(modality_sizes), n_categories, n_continuous, self.n_members
        )
        self.dispersion_slope = nn.Parameter(torch.zeros(self.n_members, 1, 1))
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

    def forward(
        self,
        x_t: Tensor,
        survival_prob: Tensor,
        t: Tensor,
        conditions: Conditions,
        *,
        apart: bool = False,
        genes: slice | Tensor = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Mean (molecules) and inverse dispersion of the molecules lost, each ``(B, G)`` where all genes are asked for.

        Parameters are those of :meth:`read`; with ``apart`` the law is that of one network for each cell, else of their equal
        mixture.
        """
        return molecules_lost(self.read(x_t, survival_prob, t, conditions, apart=apart, genes=genes))

    def read(
        self,
        x_t: Tensor,
        survival_prob: Tensor,
        t: Tensor,
        conditions: Conditions,
        *,
        apart: bool = False,
        genes: slice | Tensor = slice(None),
    ) -> Readout:
        """What the networks read out, which is what they are trained on.

        Parameters
        ----------
        x_t
            Visible counts (molecules), 0 where nothing is known, shape ``(B, G)``.
        survival_prob
            Survival probability of each entry, shape ``(B, G)``.
        t
            Time of the missing entries, shape ``(B,)``.
        conditions
            Labels, batches, covariates and selection of the cells.
        apart
            Whether each network reads its share of the cells, the first ones for the first, so that there is one readout of
            each cell (``E = 1``), or all read all of them.
        genes
            The genes that are predicted, in what is returned the only ones.
        """
        # Sums of counts are beyond the range of 16 bits, or of their precision.
        with torch.autocast(x_t.device.type, enabled=False):
            depth = self.infer_depth(x_t, survival_prob)
            base_rate = depth @ (self.membership * self.mean_profile.unsqueeze(1)).T
        continuous = (conditions.continuous - self.continuous_location) / self.continuous_scale
        inputs = (x_t, survival_prob, base_rate, depth, t, conditions.categories, continuous, conditions.selection)
        of_networks = self._shares if apart else partial(torch.unsqueeze, dim=0)
        read = self._read(*map(of_networks, inputs), genes)
        read = (*read, self.dispersion_slope.expand(-1, read[0].shape[1], -1))
        if apart:
            read = (_joined(share, len(x_t)).unsqueeze(0) for share in read)
        about = (tensor[:, genes] for tensor in (base_rate, x_t, survival_prob))
        # Formulas are computed in single precision at least, whatever the products are in.
        return Readout(*(tensor.float() if tensor.itemsize < 4 else tensor for tensor in (*read, *about)))

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
        selection: Tensor,
        genes: slice | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Log-ratio and log inverse dispersion of each entry by each network, ``(E, B, G)``."""
        context = self.context(x_t, survival_prob, depth, t, Conditions(categories, continuous, selection))
        if hasattr(self.backbone, "n_members"):
            return self.backbone(x_t, survival_prob, base_rate, context, genes)
        read = self.backbone(*(tensor.squeeze(0) for tensor in (x_t, survival_prob, base_rate, context)))
        return tuple(value[:, genes].unsqueeze(0) for value in read)


def _joined(shares: Tensor, n_cells: int) -> Tensor:
    """The networks' shares of the cells, ``(E, B / E, ...)``, as ``(B, ...)``, without those that filled up the last."""
    cells = shares.flatten(0, 1)
    return cells if len(cells) == n_cells else cells[:n_cells]


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
    return F.dropout(freeman_tukey(x_t, survival_prob * rate), dropout)
