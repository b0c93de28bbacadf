r"""Whether counts are missing because of what they are: a selection model, fitted to the mask.

.. math:: \operatorname{logit} P(\text{count } x_{ig} \text{ is observed}) = a_i + b_g + s\, h_g(x_{ig})

Effects of cells and genes say that some lose more than others, whatever their counts are: missing at random. The strength
:math:`s` says that high counts of a gene are observed more often than its low ones, or, below 0, less often: missing not at
random (Rubin 1976). It cannot be told from the mask of a single cell, but that of many cells, together with what a network
expects of the counts, tells it well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._residual import freeman_tukey

#: Largest strength, in either direction, that networks are trained with.
MAX_STRENGTH = 8.0
#: A strength is 0 unless it differs from that by so many standard errors.
MIN_Z_SCORE = 3.0
#: Rounds of fitting the effects of cells and genes alone, and at most of fitting them and the strength.
_N_ROUNDS_AT_RANDOM, _N_ROUNDS = 2, 10
#: Alternating projections, on cells and on genes, that take the effects out of a slope; after two little is left of them.
_N_PROJECTIONS = 2
#: A change of the strength that ends the rounds before.
_TOLERANCE = 0.01
#: Precision of the prior of an effect, which keeps it finite where a pattern tells all missing entries of a gene.
_EFFECT_PRECISION = 0.1
#: Most patterns that masks are searched for, and how many times as strong as the strongest in noise they have to be:
#: at 1.1 selective masks of a few hundred genes were found to have patterns, which then hid the selection.
_MAX_PATTERNS, _CLEARLY = 8, 1.6
_TINY = 1e-9
#: How fast a height rises with the residual.
_SLOPE = 1.5


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
    return torch.sigmoid(_SLOPE * freeman_tukey(counts, mean_profile)) - 0.5


def estimate_strength(
    observed: Tensor, seen: Tensor, mean: Tensor, dispersion: Tensor, mean_profile: Tensor, *, seen_prob: float
) -> float:
    r"""Maximum-likelihood estimate of the strength :math:`s` of the selection, 0 unless ``s = 0`` is clearly refuted.

    What it goes by is whether genes are observed more often, or less often, in the cells in which more is expected of them. A
    mask that depends on what is *expected*, as panels would that were chosen by what each cell type expresses, looks the
    same. What the counts of an entry may be is the negative binomial law that is expected of it. The hypothesis ``s = 0`` is put to a
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

    Raises
    ------
    ValueError
        If a law is not finite, as those of a network that diverged.
    """
    if not torch.isfinite(mean.sum() + dispersion.sum()):
        msg = (
            "Predicted laws are not finite, so nothing can be told from the mask. Means and dispersions must be. Bring continuous "
            "covariates into the range of the training data, or train the model again if its loss is NaN."
        )
        raise ValueError(msg)
    law = [(prob, height(counts, mean_profile)) for prob, counts in _three_counts(mean, dispersion)]
    expected = [(torch.ones_like(mean), sum(prob * h for prob, h in law))]  # all that matters at strength 0
    judged = _informative(~seen, observed)
    fit = _SelectionFit(observed.to(mean.dtype), judged.to(mean.dtype), expected, 1.0 - seen_prob)
    fit.fit_effects()
    if not fit.refutes_randomness():
        return 0.0
    if fit.add_patterns():
        fit.fit_effects()
        if not fit.refutes_randomness():
            return 0.0
    fit.fit_strength(law)
    return float(fit.strength)


def _informative(judged: Tensor, observed: Tensor) -> Tensor:
    """The judged entries of cells and genes of which some are observed and some are missing.

    Others are explained by the effect of the cell or gene, which would have to be infinite: a panel says nothing about counts.
    """
    while True:
        before = judged
        for dim in (0, 1):
            n, n_observed = judged.sum(dim, keepdim=True), (judged & observed).sum(dim, keepdim=True)
            judged = judged & (n_observed > 0) & (n_observed < n)
        if torch.equal(before, judged):
            return judged


class _SelectionFit:
    """Fisher scoring of the effects of cells and genes and of the strength, one after the other.

    A gene may have a further effect for each pattern that cells follow: ``patterns``, of shape ``(B, K)``, has a column of
    ones for the effect that it has in all of them.
    """

    def __init__(self, observed: Tensor, judged: Tensor, law: list[tuple[Tensor, Tensor]], judged_prob: float):
        self.observed, self.judged, self.law, self.judged_prob = observed, judged, law, judged_prob
        self.patterns, self.strength = observed.new_ones(len(observed), 1), observed.new_zeros(())
        # Exact where effects are of cells alone or of genes alone; being judged takes from the odds of being observed.
        of_cells, of_genes, of_all = (self._observed_log_odds(dim) for dim in (1, 0, (0, 1)))
        self.cell, self.gene = of_cells - of_all, of_genes - math.log(judged_prob)

    def _observed_log_odds(self, dim: int | tuple[int, int]) -> Tensor:
        n, n_observed = self.judged.sum(dim, keepdim=True), (self.judged * self.observed).sum(dim, keepdim=True)
        return torch.log((n_observed + 0.5) / (n - n_observed + 0.5))

    def fit_effects(self) -> None:
        """Fit the effects alone."""
        for _ in range(_N_ROUNDS_AT_RANDOM):
            self._update_cells()
            self._update_genes()

    def fit_strength(self, law: list[tuple[Tensor, Tensor]]) -> None:
        """Fit the strength as well, now that it matters what the counts may be."""
        self.law = law
        for _ in range(_N_ROUNDS):
            if abs(self._update_all()) < _TOLERANCE:
                break

    def refutes_randomness(self) -> bool:
        """Whether there is more than the effects, as fitted, by a score test."""
        score, information, slope = self.derivatives()
        by_gene, of_strength = _WeightedEffects(information, self.patterns).score_apart(score, slope)
        # Over genes or over entries, whichever is larger: where nothing is left to chance the former is next to nothing.
        variance = torch.maximum(by_gene.square().sum(), of_strength)
        return bool(by_gene.sum().abs() > MIN_Z_SCORE * variance.sqrt())

    def add_patterns(self) -> bool:
        """Let genes have effects for what many masks have in common beyond effects; return whether there is such a thing."""
        score, information, _ = self.derivatives()
        residual = score / information.clamp(min=_TINY).sqrt()
        vectors, values, _ = torch.linalg.svd(residual, full_matrices=False)
        # The largest singular value of noise of that variance (Marchenko & Pastur 1967).
        noise = residual.square().mean().sqrt() * sum(size**0.5 for size in residual.shape)
        patterns = vectors[:, :_MAX_PATTERNS][:, values[:_MAX_PATTERNS] > _CLEARLY * noise] * len(vectors) ** 0.5
        self.patterns = torch.cat([self.patterns, patterns], dim=1)
        self.gene = torch.cat([self.gene, self.gene.new_zeros(patterns.shape[1], self.gene.shape[1])])
        return patterns.shape[1] > 0

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """Score and information of each entry's logit, and what a unit of strength adds to that."""
        logit = self.cell + self.patterns @ self.gene
        prob = by_logit = by_strength = torch.zeros_like(self.observed)
        for weight, h in self.law:
            of_count = torch.sigmoid(logit + self.strength * h)
            change = weight * of_count * (1.0 - of_count)
            prob, by_logit, by_strength = prob + weight * of_count, by_logit + change, by_strength + change * h
        # Odds of being observed, times the probability of not being seen all the same.
        expected = self.judged_prob * prob / (1.0 - (1.0 - self.judged_prob) * prob)
        leverage = by_logit / (prob * (1.0 - prob)).clamp(min=_TINY)
        score = self.judged * leverage * (self.observed - expected)
        information = self.judged * leverage.square() * expected * (1.0 - expected)
        return score, information, by_strength / by_logit.clamp(min=_TINY)

    def _update_all(self) -> float:
        """A step of the effects of cells, then one of those of genes and of the strength, which is returned."""
        self._update_cells()
        score, slope, effects = self._update_genes()
        by_gene, of_strength = effects.score_apart(score, slope)
        step = (by_gene.sum() / of_strength.clamp(min=_TINY)).clamp(-MAX_STRENGTH / 4.0, MAX_STRENGTH / 4.0)
        before, self.strength = self.strength, (self.strength + step).clamp(-MAX_STRENGTH, MAX_STRENGTH)
        # What the strength adds on average the effects of genes give up.
        self.gene = self.gene - (self.strength - before) * effects.of_genes(effects.information * slope)
        return float(self.strength - before)

    def _update_cells(self) -> None:
        score, information, _ = self.derivatives()
        self.cell = self.cell + _WeightedEffects(information, self.patterns).of_cells(score, self.cell)

    def _update_genes(self) -> tuple[Tensor, Tensor, _WeightedEffects]:
        score, information, slope = self.derivatives()
        effects = _WeightedEffects(information, self.patterns)
        self.gene = self.gene + effects.of_genes(score, self.gene)
        return score, slope, effects


class _WeightedEffects:
    """Least squares by effects of cells, ``(B, 1)``, and of genes, ``(K, G)``, where entries weigh by ``information``."""

    def __init__(self, information: Tensor, patterns: Tensor):
        self.information, self.patterns = information, patterns
        self._cell_curvature = information.sum(1, keepdim=True) + _EFFECT_PRECISION
        pairs = (patterns.unsqueeze(2) * patterns.unsqueeze(1)).flatten(1)
        ridge = _EFFECT_PRECISION * torch.eye(patterns.shape[1], device=patterns.device)
        self._gene_curvature = (pairs.T @ information).T.unflatten(1, ridge.shape) + ridge

    def of_cells(self, score: Tensor, effect: Tensor | float = 0.0) -> Tensor:
        """Step of the effects of cells."""
        return (score.sum(1, keepdim=True) - _EFFECT_PRECISION * effect) / self._cell_curvature

    def of_genes(self, score: Tensor, effect: Tensor | float = 0.0) -> Tensor:
        """Step of the effects of genes."""
        gradient = (self.patterns.T @ score - _EFFECT_PRECISION * effect).T
        if self.patterns.shape[1] == 1:  # as it mostly is: no systems of equations
            return (gradient / self._gene_curvature.squeeze(2)).T
        return torch.linalg.solve(self._gene_curvature, gradient).T

    def score_apart(self, score: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Score of the strength, gene by gene ``(G,)``, and its information, by what effects do not explain of the slope."""
        for _ in range(_N_PROJECTIONS):
            slope = slope - self.of_cells(self.information * slope)
            slope = slope - self.patterns @ self.of_genes(self.information * slope)
        return (score * slope).sum(0), (self.information * slope.square()).sum()


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
