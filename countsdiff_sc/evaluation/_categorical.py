"""Counts as categories: the classes, and a network that predicts them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from countsdiff_sc.nn import CellContext, Conditions, GeneSetTransformer

#: Cells that a gene's negative binomial law counts as, beside its observed counts, in the frequencies of its classes.
PRIOR_CELLS = 10.0


class CountClasses:
    """Classes of counts, and what each stands for in each gene.

    Counts have a class of their own as long as there are enough classes. If not, half of the classes are single counts
    and the others ranges of about equal ratio, the last one open: a class stands for the gene's known counts in it.
    With 64 classes and counts up to 3,000 a range is about 15% wide, less than the noise of such counts.

    Parameters
    ----------
    counts, known
        Training counts (molecules), 0 where they are not known, and where they are, cells x genes.
    n_classes
        Largest number of classes.
    """

    def __init__(self, counts: np.ndarray, known: np.ndarray, n_classes: int):
        largest = max(int(counts.max()), 1)
        lower = np.arange(largest + 1)
        if largest >= n_classes:
            n_single = math.ceil(n_classes / 2)
            ranges = np.geomspace(n_single, largest + 1, n_classes - n_single + 1)[:-1]
            lower = np.unique(np.concatenate([np.arange(n_single), np.ceil(ranges)]))
        self.lower = torch.as_tensor(lower, dtype=torch.float32)
        genes, x = known.nonzero()[1], torch.as_tensor(counts[known])
        n_genes, self.n = counts.shape[1], len(lower)
        index = torch.as_tensor(genes) * self.n + self.encode(x)
        order = index.argsort(stable=True)
        self._members = x[order]  # known counts by gene and class, from which draws are taken
        self._size = torch.bincount(index, minlength=n_genes * self.n)
        self._start = self._size.cumsum(0) - self._size
        total = torch.bincount(index, weights=x.double(), minlength=n_genes * self.n).view(n_genes, -1)
        size = self._size.view(n_genes, -1)
        # Where a gene has no count in a class the mean of all genes stands for it, or else its least count.
        overall = torch.where(size.sum(0) > 0, total.sum(0) / size.sum(0).clamp(min=1), self.lower)
        #: Mean count of each class of each gene, shape ``(G, C)``.
        self.mean = torch.where(size > 0, total / size.clamp(min=1), overall).float()
        self.log_frequency = self._log_frequency(counts, known, size.double())

    def encode(self, x: Tensor) -> Tensor:
        """Class of each count."""
        return torch.bucketize(x, self.lower, right=True) - 1

    def draw(self, genes: Tensor, classes: Tensor, generator: torch.Generator | None) -> Tensor:
        """A known count of the gene in the class, drawn at random; the rounded mean where there is none."""
        index = genes * self.n + classes
        u = torch.rand(len(index), generator=generator) * self._size[index]
        member = (self._start[index] + u.long()).clamp(max=len(self._members) - 1)
        return torch.where(self._size[index] > 0, self._members[member], self.mean[genes, classes].round())

    def _log_frequency(self, counts: np.ndarray, known: np.ndarray, size: Tensor) -> Tensor:
        """Log frequency of the classes of each gene, smoothed by the negative binomial law of its mean and variance."""
        n = np.maximum(known.sum(0), 1.0)
        mean = np.maximum(counts.sum(0, dtype=np.float64), 0.5) / n
        variance = np.where(known, np.square(counts - mean), 0.0).sum(0) / n
        r = np.clip(mean**2 / np.maximum(variance - mean, 1e-9), 1e-3, 1e3)[:, None]
        below = stats.nbinom.cdf(self.lower.numpy() - 1.0, r, r / (r + mean[:, None]))
        law = np.maximum(np.diff(below, axis=1, append=1.0), 1e-9)
        smoothed = size + PRIOR_CELLS * torch.as_tensor(law / law.sum(1, keepdims=True))
        return (smoothed / smoothed.sum(1, keepdim=True)).log().float()


class CategoricalDenoiser(nn.Module):
    """Class logits of entries from the visible counts: the default backbone with a categorical head of low rank.

    Parameters
    ----------
    depth, profile
        Depths of the training cells, 1 on average, and mean profile (molecules): they scale what the backbone reads.
    classes
        The classes. Training starts from their frequencies in each gene.
    rank
        Functions of the class by which a cell may differ from them; an entry has a factor of each.
    **backbone_kwargs
        Passed to :class:`~countsdiff_sc.nn.GeneSetTransformer`.
    """

    def __init__(self, depth: np.ndarray, profile: np.ndarray, classes: CountClasses, *, rank: int, **backbone_kwargs):
        super().__init__()
        n_genes = len(profile)
        self.backbone = GeneSetTransformer(n_genes, **backbone_kwargs)
        # A factor of each function is read out, in place of a log-ratio and a dispersion.
        del self.backbone.read_log_ratio, self.backbone.read_log_dispersion
        self.read_factors = nn.Linear(self.backbone.n_features, n_genes * rank)
        nn.init.normal_(self.read_factors.weight, std=2e-3)
        nn.init.zeros_(self.read_factors.bias)
        self.context = CellContext(self.backbone.context_width, selection=False)
        place = classes.lower.log1p() / classes.lower[-1].log1p()
        self.basis = nn.Parameter(torch.stack([torch.cos(math.pi * (r + 1) * place) for r in range(rank)]))
        self.depth_factor = nn.Parameter(torch.zeros(n_genes, rank))
        self.register_buffer("log_frequency", classes.log_frequency)
        self.register_buffer("profile", torch.as_tensor(np.maximum(profile, 0.5 / len(depth)), dtype=torch.float32))
        self.depth_concentration = 1.0 / max(float(np.var(depth)), 1e-3)

    def forward(self, x: Tensor, visible: Tensor, entries: tuple[Tensor, ...]) -> Tensor:
        """Logits ``(n_entries, C)`` from counts, 0 where masked, and where they are visible, each ``(B, G)``."""
        seen = visible.to(x.dtype)
        expected = (seen @ self.profile).unsqueeze(1)
        depth = (x.sum(1, keepdim=True) + self.depth_concentration) / (expected + self.depth_concentration)
        nothing = Conditions(
            x.new_empty(1, len(x), 0, dtype=torch.long), x.new_empty(1, len(x), 0), x.new_zeros(1, len(x), 1)
        )
        inputs = (tensor.unsqueeze(0) for tensor in (x, seen, depth * self.profile, depth, 1.0 - seen.mean(1)))
        x_1, seen_1, rate_1, depth_1, t_1 = inputs  # with the axis of networks, of which there is one
        context = self.context(x_1, seen_1, depth_1, t_1, nothing)
        tokens = self.backbone.encode(x_1, seen_1, rate_1, context)
        factors = self.read_factors(self.backbone.features(tokens, context))
        factors = factors.view(*x.shape, -1) + depth.log().unsqueeze(2) * self.depth_factor
        factors = factors.flatten(0, 1).index_select(0, entries[0] * x.shape[1] + entries[1])
        return torch.addmm(F.embedding(entries[1], self.log_frequency), factors, self.basis)
