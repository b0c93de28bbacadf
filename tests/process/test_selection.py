"""How counts were selected, told from masks whose law is known."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom

from countsdiff_sc.process._selection import MAX_STRENGTH, _SelectionFit, _three_counts, estimate_strength, height

N_CELLS, N_GENES = 200, 300
SEEN_PROB = 0.5
DISPERSION = torch.full((N_CELLS, N_GENES), 2.0)


@pytest.fixture(scope="module")
def mean():
    """Expected counts of four groups of cells, each with its own profile, at various depths."""
    generator = torch.Generator().manual_seed(0)
    profile = torch.exp(1.5 * torch.randn(N_GENES, generator=generator) - 0.5)
    group = torch.exp(torch.randn(4, N_GENES, generator=generator))
    depth = torch.exp(0.4 * torch.randn(N_CELLS, 1, generator=generator))
    return depth * profile * group[torch.arange(N_CELLS) % 4]


def mask_of(logit, seed):
    return torch.rand(N_CELLS, N_GENES, generator=torch.Generator().manual_seed(seed)) < torch.sigmoid(logit)


def drawn(mean, seed):
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.poisson(mean.numpy() * rng.gamma(2.0, 0.5, mean.shape)).astype(np.float32))


def estimate(observed, mean, seed=0):
    generator = torch.Generator().manual_seed(1000 + seed)
    seen = observed & (torch.rand(observed.shape, generator=generator) < SEEN_PROB)
    return estimate_strength(observed, seen, mean, DISPERSION, mean.mean(0), seen_prob=SEEN_PROB)


def test_a_height_rises_from_the_lowest_to_the_highest_count():
    counts, mean_profile = torch.arange(1000.0).unsqueeze(1), torch.tensor([0.01, 1.0, 30.0])
    found = height(counts, mean_profile)
    assert (found.diff(dim=0) >= 0).all()
    assert (found > -0.5).all()
    assert (found <= 0.5).all()
    # Of a gene that is hardly ever seen a molecule is a high count, and none is an average one.
    assert abs(found[0, 0]) < 0.02
    assert found[1, 0] > 0.3
    # The formula by itself, at one point.
    residual = 4.0**0.5 + 5.0**0.5 - (4.0 * 30.0 + 1.0) ** 0.5
    np.testing.assert_allclose(found[4, 2], 1.0 / (1.0 + np.exp(-1.5 * residual)) - 0.5, rtol=1e-5)


@pytest.mark.parametrize("dispersion", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("gene_mean", [0.1, 1.0, 10.0])
def test_three_counts_stand_for_the_law(gene_mean, dispersion):
    """Zeros are exact, and the expected height of a count about so, of cells that express a gene from a quarter to four times."""
    mean = gene_mean * torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0]).double()
    counts, profile = np.arange(2000), torch.tensor(gene_mean).double()
    law = _three_counts(mean, torch.full_like(mean, dispersion))
    torch.testing.assert_close(sum(prob for prob, _ in law), torch.ones_like(mean))
    exact = nbinom.pmf(counts, dispersion, dispersion / (dispersion + mean.numpy()[:, None]))
    np.testing.assert_allclose(law[0][0], exact[:, 0])
    expected = exact @ height(torch.as_tensor(counts).double(), profile).numpy()
    np.testing.assert_allclose(sum(prob * height(x, profile) for prob, x in law), expected, atol=0.1)


@pytest.mark.parametrize("strength", [-6.0, -2.0, -1.0, 1.0, 2.0, 4.0, 6.0])
def test_the_strength_is_found(mean, strength):
    counts = drawn(mean, seed=1)
    found = estimate(mask_of(0.5 + strength * height(counts, mean.mean(0)), seed=2), mean)
    assert found == pytest.approx(strength, rel=0.15, abs=0.25)


def test_the_strength_is_found_beside_effects_of_cells_and_genes(mean):
    generator = torch.Generator().manual_seed(3)
    effects = torch.randn(N_CELLS, 1, generator=generator) + torch.randn(1, N_GENES, generator=generator)
    counts = drawn(mean, seed=4)
    found = estimate(mask_of(effects + 3.0 * height(counts, mean.mean(0)), seed=5), mean)
    assert found == pytest.approx(3.0, rel=0.2)


def at_random(mean, kind, seed):
    """Masks that do not depend on the counts given cell and gene, of which some depend on what is expected of these."""
    rng = np.random.default_rng(seed)
    by_gene, by_cell = mean.log().mean(0), mean.sum(1, keepdim=True).log()
    by_gene, by_cell = (by_gene - by_gene.mean()) / by_gene.std(), (by_cell - by_cell.mean()) / by_cell.std()
    panels, of_groups = (torch.as_tensor(rng.random((n, N_GENES)) < 0.7) for n in (2, 4))
    frequent, half = (by_gene > by_gene.median()).unsqueeze(0), torch.as_tensor(rng.random((N_CELLS, 1)) < 0.5)
    return {
        "few": lambda: mask_of(torch.full_like(mean, 2.2), seed),
        "half": lambda: mask_of(torch.zeros_like(mean), seed),
        "most": lambda: mask_of(torch.full_like(mean, -2.2), seed),
        "shallow cells and rare genes": lambda: mask_of(1.0 + by_gene + by_cell, seed),
        "deep cells and frequent genes": lambda: mask_of(-1.0 - by_gene - by_cell, seed),
        "a panel": lambda: panels[:1].expand(N_CELLS, N_GENES),
        "a panel for each batch": lambda: panels[torch.as_tensor(rng.integers(0, 2, N_CELLS))],
        "the most frequent genes": lambda: frequent.expand(N_CELLS, N_GENES),
        "the rarest genes": lambda: ~frequent.expand(N_CELLS, N_GENES),
        "the rarest genes in half of the cells": lambda: ~frequent | half,
        "the rarest genes in half of the cells, and others at random": lambda: (
            (~frequent | half) & mask_of(torch.full_like(mean, 1.4), seed)
        ),
        "a panel for each group": lambda: of_groups[torch.arange(N_CELLS) % 4],
        "nothing": lambda: torch.ones(N_CELLS, N_GENES, dtype=torch.bool),
        "everything": lambda: torch.zeros(N_CELLS, N_GENES, dtype=torch.bool),
    }[kind]()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "kind",
    [
        "few",
        "half",
        "most",
        "shallow cells and rare genes",
        "deep cells and frequent genes",
        "a panel",
        "a panel for each batch",
        "the most frequent genes",
        "the rarest genes",
        "the rarest genes in half of the cells",
        "the rarest genes in half of the cells, and others at random",
        "a panel for each group",
        "nothing",
        "everything",
    ],
)
def test_a_mask_at_random_is_taken_for_one(mean, kind, seed):
    """Three standard errors have a false alarm rate of 0.3% a mask; the seeds are fixed."""
    assert estimate(at_random(mean, kind, seed), mean, seed) == 0.0


def test_false_alarms_are_as_rare_as_stated(mean):
    """Of 200 masks at random fewer than 6 are taken for selective; 6 or more have probability 4e-5 by a rate of 0.3%."""
    rng = np.random.default_rng(7)
    few = mean[:40]
    alarms = 0
    for _ in range(200):
        observed = torch.as_tensor(rng.random(few.shape) < 0.6)
        seen = observed & torch.as_tensor(rng.random(few.shape) < SEEN_PROB)
        found = estimate_strength(observed, seen, few, DISPERSION[:40], mean.mean(0), seen_prob=SEEN_PROB)
        alarms += found != 0.0
    assert alarms < 6


@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_a_strength_stays_within_what_networks_are_trained_for(mean, direction):
    """Also where counts above the gene's mean are all that is observed, or all that is not."""
    highest = drawn(mean, seed=8) > mean.mean(0)
    found = estimate(highest if direction > 0 else ~highest, mean)
    assert 1.0 < direction * found <= MAX_STRENGTH


def test_order_does_not_matter(mean):
    observed = mask_of(3.0 * height(drawn(mean, seed=9), mean.mean(0)), seed=10)
    seen = observed & (torch.rand(mean.shape, generator=torch.Generator().manual_seed(11)) < SEEN_PROB)
    cells, genes = (torch.randperm(n, generator=torch.Generator().manual_seed(12)) for n in (N_CELLS, N_GENES))
    found = [
        estimate_strength(
            *(tensor[rows][:, columns] for tensor in (observed, seen, mean, DISPERSION)),
            mean.mean(0)[columns],
            seen_prob=SEEN_PROB,
        )
        for rows, columns in ((slice(None), slice(None)), (cells, genes))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("extreme", [1e-9, 1e9])
def test_extreme_expectations_stay_finite(mean, extreme):
    law = torch.full_like(mean, extreme)
    assert np.isfinite(estimate(mask_of(torch.zeros_like(mean), seed=12), law))


@pytest.mark.parametrize("n_cells", [1, 2, 5])
def test_few_cells_on_a_panel_are_at_random(mean, n_cells):
    few = mean[:n_cells]
    frequent = (mean.mean(0) > mean.mean(0).median()).expand_as(few)
    seen = frequent & (torch.rand(few.shape, generator=torch.Generator().manual_seed(13)) < SEEN_PROB)
    assert estimate_strength(frequent, seen, few, DISPERSION[:n_cells], mean.mean(0), seen_prob=SEEN_PROB) == 0.0


def test_the_score_is_the_derivative_of_the_likelihood(mean):
    """By the logit of an entry and by the strength, against finite differences in double precision."""
    few = mean[:6, :5].double()
    observed = mask_of(torch.zeros_like(mean), seed=14)[:6, :5].double()
    law = [(prob, height(x, mean.mean(0)[:5].double())) for prob, x in _three_counts(few, torch.full_like(few, 2.0))]
    fit = _SelectionFit(observed, torch.ones_like(few), law, 0.4)
    fit.cell, fit.gene = torch.linspace(-1, 1, 6).double().unsqueeze(1), torch.zeros_like(fit.gene)
    fit.strength = fit.strength + 1.5

    def log_likelihood(cell, strength):
        prob = sum(weight * torch.sigmoid(cell + strength * h) for weight, h in law)
        expected = 0.4 * prob / (1.0 - 0.6 * prob)
        return torch.where(observed > 0, expected, 1.0 - expected).log()

    score, _, slope = fit.derivatives()
    step = 1e-5
    by_logit, by_strength = (
        (log_likelihood(fit.cell + a, fit.strength + b) - log_likelihood(fit.cell - a, fit.strength - b)) / (2 * step)
        for a, b in ((step, 0.0), (0.0, step))
    )
    torch.testing.assert_close(score, by_logit, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(score * slope, by_strength, rtol=1e-6, atol=1e-8)
