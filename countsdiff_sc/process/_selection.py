r"""Whether counts are missing because of what they are: a selection model, fitted to the mask.

.. math:: \operatorname{logit} P(\text{count } x_{ig} \text{ is observed}) = a_i + b_g + s\, h_g(x_{ig})

Effects of cells and genes say that some lose more than others, whatever their counts are: missing at random. The strength
:math:`s` says that high counts of a gene are observed more often than its low ones, or, below 0, less often: missing not at
random (Rubin 1976). It cannot be told from the mask of a single cell, but that of many cells, together with what a network
expects of the counts, tells it well.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest strength, in either direction, that networks are trained with.
MAX_STRENGTH = 8.0
#: A strength is 0 unless it differs from that by so many standard errors.
MIN_Z_SCORE = 3.0
#: Rounds of fitting the effects of cells and genes alone, and of fitting them and the strength.
_N_ROUNDS_AT_RANDOM, _N_ROUNDS = 3, 10
#: Precision of the prior of an effect, which keeps it finite where all entries of a cell or a gene are missing.
_EFFECT_PRECISION = 0.1
_TINY = 1e-9


def height(counts: Tensor, mean_profile: Tensor) -> Tensor:
    r"""How high a count is for its gene, from -1/2 to 1/2: :math:`\sigma(3 (\sqrt{x} + \sqrt{x + 1} - \sqrt{4 m_g + 1}) / 2) - 1/2`.

    The argument is the Freeman-Tukey residual to the gene's mean, on whose scale counts of all genes spread about alike.

    Parameters
    ----------
    counts
        Counts (molecules), shape ``(B, G)``.
    mean_profile
        Mean count of each gene in an average cell (molecules), shape ``(G,)``.
    """
    residual = counts.sqrt() + (counts + 1.0).sqrt() - (4.0 * mean_profile + 1.0).sqrt()
    return torch.sigmoid(1.5 * residual) - 0.5


def estimate_strength(
    observed: Tensor, seen: Tensor, mean: Tensor, dispersion: Tensor, mean_profile: Tensor, *, seen_prob: float
) -> float:
    r"""Maximum-likelihood estimate of the strength :math:`s` of the selection, 0 unless that is clearly refuted.

    What the counts of an entry may be is the negative binomial law that is expected of it. The hypothesis ``s = 0`` is put to a
    score test, whose standard error is taken over genes: what befalls a gene in a whole group of cells, such as a smaller
    panel in one batch, counts once.

    Parameters
    ----------
    observed
        Whether an entry is observed, bool, shape ``(B, G)``.
    seen
        Entries that the law of the others is read off, some of the observed ones, bool, shape ``(B, G)``. It is the others
        that are judged, so that what is expected of an entry does not depend on its own count.
    mean, dispersion
        Mean (molecules) and inverse dispersion of that law, shape ``(B, G)``.
    mean_profile
        Mean count of each gene in an average cell (molecules), shape ``(G,)``.
    seen_prob
        Probability with which an observed entry is seen, whatever its count.

    Returns
    -------
    The strength, between ``-MAX_STRENGTH`` and ``MAX_STRENGTH``.
    """
    law = [(prob, height(counts, mean_profile)) for prob, counts in _three_counts(mean, dispersion)]
    expected = [(torch.ones_like(mean), sum(prob * h for prob, h in law))]  # all that matters at strength 0
    fit = _SelectionFit(observed.to(mean.dtype), (~seen).to(mean.dtype), expected, 1.0 - seen_prob)
    for _ in range(_N_ROUNDS_AT_RANDOM):
        fit.update_cells()
        fit.update_genes()
    by_gene, _ = fit.score_of_strength()
    z_score = by_gene.sum().abs() / by_gene.square().sum().sqrt().clamp(min=_TINY)
    if not float(z_score) > MIN_Z_SCORE:
        return 0.0
    fit.law = law
    for _ in range(_N_ROUNDS):
        fit.update_cells()
        fit.update_genes(with_strength=True)
    return float(fit.strength)


class _SelectionFit:
    """Fisher scoring of the effects of cells and genes and of the strength, one after the other."""

    def __init__(self, observed: Tensor, judged: Tensor, law: list[tuple[Tensor, Tensor]], judged_prob: float):
        self.observed, self.judged, self.law, self.judged_prob = observed, judged, law, judged_prob
        self.cell = observed.new_zeros(len(observed), 1)
        self.gene = observed.new_zeros(1, observed.shape[1])
        self.strength = observed.new_zeros(())

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """Score and information of each entry's logit, and what a unit of strength adds to that."""
        logit = self.cell + self.gene
        prob = by_logit = by_strength = torch.zeros_like(self.observed)
        for weight, h in self.law:
            of_count = torch.sigmoid(logit + self.strength * h)
            change = weight * of_count * (1.0 - of_count)
            prob, by_logit, by_strength = prob + weight * of_count, by_logit + change, by_strength + change * h
        # Of the entries that are judged as many are observed as odds say that are lower by `judged_prob`.
        expected = self.judged_prob * prob / (1.0 - (1.0 - self.judged_prob) * prob)
        leverage = by_logit / (prob * (1.0 - prob)).clamp(min=_TINY)
        score = self.judged * leverage * (self.observed - expected)
        information = self.judged * leverage.square() * expected * (1.0 - expected)
        return score, information, by_strength / by_logit.clamp(min=_TINY)

    def update_cells(self) -> None:
        score, information, _ = self.derivatives()
        self.cell = self.cell + _step(score, information, self.cell, dim=1)

    def update_genes(self, *, with_strength: bool = False) -> None:
        score, information, slope = self.derivatives()
        self.gene = self.gene + _step(score, information, self.gene, dim=0)
        if with_strength:
            by_gene, of_strength = _apart_from_effects(score, information, slope)
            step = (by_gene.sum() / of_strength.clamp(min=_TINY)).clamp(-MAX_STRENGTH / 4.0, MAX_STRENGTH / 4.0)
            before, self.strength = self.strength, (self.strength + step).clamp(-MAX_STRENGTH, MAX_STRENGTH)
            # What the strength adds on average the gene's effect gives up.
            self.gene = self.gene - (self.strength - before) * _average(slope, information, dim=0)

    def score_of_strength(self) -> tuple[Tensor, Tensor]:
        """Score of the strength, gene by gene ``(G,)``, and its information, both apart from the effects."""
        return _apart_from_effects(*self.derivatives())


def _step(score: Tensor, information: Tensor, effect: Tensor, *, dim: int) -> Tensor:
    gradient = score.sum(dim, keepdim=True) - _EFFECT_PRECISION * effect
    return gradient / (information.sum(dim, keepdim=True) + _EFFECT_PRECISION)


def _average(values: Tensor, weight: Tensor, *, dim: int) -> Tensor:
    return (weight * values).sum(dim, keepdim=True) / (weight.sum(dim, keepdim=True) + _EFFECT_PRECISION)


def _apart_from_effects(score: Tensor, information: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    for dim in (1, 0, 1, 0):
        slope = slope - _average(slope, information, dim=dim)
    return (score * slope).sum(0), (information * slope.square()).sum()


def _three_counts(mean: Tensor, dispersion: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Probabilities and counts that stand for a law: zero, and two positive ones, a log-normal law's standard deviation apart.

    The log-normal law has the mean and the variance of the positive counts.
    """
    zero = torch.exp(-dispersion * torch.log1p(mean / dispersion))
    positive = (1.0 - zero).clamp(min=_TINY)
    centre = (mean / positive).clamp(min=1.0)
    second_moment = (mean + mean.square() * (1.0 + 1.0 / dispersion)) / positive
    log_variance = (second_moment / centre.square()).clamp(min=1.0).log()
    middle, deviation = centre.log() - log_variance / 2.0, log_variance.sqrt()
    counts = [(middle + sign * deviation).exp().clamp(min=1.0) for sign in (-1.0, 1.0)]
    return [(zero, torch.zeros_like(mean)), *((positive / 2.0, count) for count in counts)]
