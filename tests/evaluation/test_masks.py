"""Masks hide what they say. 5 standard errors in each statistical test: a false alarm below 1e-6."""

import numpy as np
import pytest
from helpers import make_counts
from scipy import sparse

from countsdiff_sc import evaluation

COUNTS = make_counts(400, 50)
MECHANISMS = [evaluation.mcar, evaluation.mar, evaluation.mnar_low, evaluation.mnar_high, evaluation.panel]


def close(observed_fraction, expected, n):
    return abs(observed_fraction - expected) < 5 * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_same_seed_gives_the_same_mask_and_another_another(mechanism):
    mask = mechanism(COUNTS, 0.3, seed=0)
    assert mask.dtype == bool
    assert mask.shape == COUNTS.shape
    np.testing.assert_array_equal(mask, mechanism(sparse.csr_matrix(COUNTS), 0.3, seed=0))
    assert (mask != mechanism(COUNTS, 0.3, seed=1)).any()


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("fraction", [-0.1, 1.1, np.nan])
def test_a_fraction_is_a_probability(mechanism, fraction):
    with pytest.raises(ValueError, match="fraction=.* is out of range"):
        mechanism(COUNTS, fraction, seed=0)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_ends(mechanism):
    assert mechanism(COUNTS, 0.0, seed=0).all()
    hidden = ~mechanism(COUNTS, 1.0, seed=0)
    assert hidden.all() if mechanism is not evaluation.mar else hidden.mean() == 0.9


@pytest.mark.parametrize("mechanism", [evaluation.mnar_low, evaluation.mnar_high])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_mnar_hides_the_fraction_in_every_gene_rare_ones_included(mechanism, fraction):
    counts = COUNTS.copy()
    counts[:, 0] = 0
    counts[:3, 0] = 1
    hidden = np.mean([~mechanism(counts, fraction, seed=seed) for seed in range(20)], axis=0)
    assert all(close(rate, fraction, 20 * len(counts)) for rate in hidden.mean(axis=0))


def test_mnar_direction():
    for mechanism, sign in ((evaluation.mnar_low, 1), (evaluation.mnar_high, -1)):
        observed = mechanism(COUNTS, 0.5, seed=0)
        assert sign * (COUNTS[observed].mean() - COUNTS[~observed].mean()) > 0.5


def test_mar_depends_on_genes_that_stay_visible_and_on_nothing_else():
    observed = evaluation.mar(COUNTS, 0.4, seed=0)
    driver = observed.all(axis=0)
    assert driver.sum() == 5
    hidden = 1 - observed[:, ~driver].mean(axis=1)
    depth = COUNTS[:, driver].sum(axis=1)
    assert close(hidden.mean(), 0.4, observed[:, ~driver].size)
    assert np.corrcoef(hidden, depth)[0, 1] < -0.5
    other = COUNTS.copy()
    other[:, ~driver] = 7
    np.testing.assert_array_equal(evaluation.mar(other, 0.4, seed=0), observed)


def test_panel_hides_whole_genes():
    observed = evaluation.panel(COUNTS, 0.3, seed=0)
    assert set(observed.sum(axis=0)) == {0, 400}
    assert (~observed[0]).sum() == 15


def test_modality_hides_its_columns_in_whole_cells():
    columns = np.arange(40, 50)
    observed = evaluation.modality(COUNTS, 0.5, columns=columns, seed=0)
    assert observed[:, :40].all()
    per_cell = observed[:, 40:].sum(axis=1)
    assert set(per_cell) == {0, 10}
    assert close((per_cell == 0).mean(), 0.5, 400)


def test_valid_entries_are_non_zeros_and_zeros_of_genes_the_label_never_shows():
    counts, labels = np.array([[1, 0, 0], [0, 0, 2], [0, 3, 0]]), np.array(["a", "a", "b"])
    expected = np.array([[True, True, False], [False, True, True], [True, True, True]])
    np.testing.assert_array_equal(evaluation.valid_entries(counts, labels), expected)


def test_split_molecules_adds_up_and_thins():
    kept, held_out = evaluation.split_molecules(sparse.csr_matrix(COUNTS), 0.25, seed=0)
    np.testing.assert_array_equal(kept + held_out, COUNTS)
    assert kept.min() >= 0
    assert close(held_out.sum() / COUNTS.sum(), 0.25, COUNTS.sum())


@pytest.mark.parametrize("value", [1.5, -1.0, np.inf])
def test_only_molecules_can_be_split(value):
    counts = COUNTS.astype(float)
    counts[3, 2] = value
    with pytest.raises(ValueError, match=rf"counts\[3, 2\]={value} is not a count\. .* or NaN\. Pass raw counts"):
        evaluation.split_molecules(counts, 0.25, seed=0)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_is_not_known_is_not_observed(mechanism):
    counts = COUNTS.copy()
    counts[:50, :7] = np.nan
    assert not mechanism(counts, 0.3, seed=0)[:50, :7].any()
    assert not evaluation.modality(counts, 0.3, columns=np.arange(20, 50), seed=0)[:50, :7].any()
    kept, held_out = evaluation.split_molecules(counts, 0.3, seed=0)
    assert np.isnan(kept[:50, :7]).all()
    assert np.isnan(held_out[:50, :7]).all()
    np.testing.assert_array_equal(kept + held_out, counts)


@pytest.mark.parametrize("is_shallow", [True, False])
def test_mar_hides_the_fraction_where_depth_tells_what_is_known(is_shallow):
    """By cells as a whole shallow ones, of which little is known, would have counted as much as others: 0.2 or 0.4."""
    rng = np.random.default_rng(0)
    depth = rng.lognormal(0.0, 0.7, (2000, 1))
    counts = rng.poisson(depth * rng.gamma(1.0, 2.0, 200)).astype(float)
    poor = (depth < np.median(depth)) == is_shallow
    counts[poor & (rng.random(counts.shape) < 0.8)] = np.nan
    observed, known = evaluation.mar(counts, 0.3, seed=0), ~np.isnan(counts)
    may_be_hidden = known & (known & ~observed).any(axis=0)
    assert abs((~observed)[may_be_hidden].mean() - 0.3) < 0.01


@pytest.mark.parametrize("mechanism", ["mar", "mnar_low", "mnar_high"])
def test_what_is_not_known_has_no_part_in_what_is_hidden(mechanism):
    """Of the known entries the stated fraction is hidden, half of them at random, or a panel in half of the cells, unknown."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 2.0, 200), (2000, 200)).astype(float)
    for known in (rng.random(counts.shape) < 0.5, (np.arange(2000)[:, None] < 1000) | (np.arange(200) < 100)):
        observed = evaluation._masks.MECHANISMS[mechanism](np.where(known, counts, np.nan), 0.5, seed=0)
        assert not observed[~known].any()
        may_be_hidden = known & (known & ~observed).any(axis=0)  # not the genes that drive mar
        for genes in (slice(None), slice(100, None)):
            assert abs((~observed)[:, genes][may_be_hidden[:, genes]].mean() - 0.5) < 0.02
