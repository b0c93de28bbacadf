"""Tables put every score beside its method."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import spearmanr

from countsdiff_sc import evaluation

RNG = np.random.default_rng(0)
TRUTH = RNG.poisson(3.0, (40, 6)).astype(float)
HIDDEN = RNG.random((40, 6)) < 0.6


def draws(n_samples, mean=3.0):
    return [np.where(HIDDEN, RNG.poisson(mean, TRUTH.shape), TRUTH) for _ in range(n_samples)]


def test_every_score_of_means_is_the_metric_of_its_name():
    cells, genes = np.nonzero(HIDDEN)
    truth, mean = TRUTH[HIDDEN], RNG.gamma(2.0, 1.5, HIDDEN.sum())
    table = evaluation.compare(truth, {"a": mean, "b": truth}, entries=(cells, genes))
    assert list(table.index) == ["a", "b"]
    for name in ("poisson_deviance", "rmse_log1p", "rmse", "mae", "bias", "r2", "pearson"):
        assert table.loc["a", name] == getattr(evaluation, name)(truth, mean)
    by_gene = np.mean([spearmanr(truth[genes == g], mean[genes == g])[0] for g in range(6)])
    assert table.loc["a", "spearman_per_gene"] == pytest.approx(by_gene)
    assert table.loc["b", ["spearman_per_cell", "r2", "pearson"]].to_numpy() == pytest.approx(1.0)
    assert "spearman_per_cell" not in evaluation.compare(truth, {"a": mean})


def test_counts_may_come_from_a_sparse_matrix():
    mean, entries = RNG.gamma(2.0, 1.5, HIDDEN.sum()), np.nonzero(HIDDEN)
    tables = [
        evaluation.compare(kind(TRUTH)[HIDDEN], {"a": mean}, entries=entries)
        for kind in (np.asarray, sparse.csr_matrix)
    ]
    assert tables[0].equals(tables[1])


def test_draws_may_be_sparse():
    dense = draws(3)
    tables = [
        evaluation.compare_draws(kind(TRUTH), {"a": list(map(kind, dense))}, HIDDEN)
        for kind in (np.asarray, sparse.csr_matrix)
    ]
    assert tables[0].equals(tables[1])


def test_draws_of_the_right_law_score_well_and_of_another_badly():
    table = evaluation.compare_draws(TRUTH, {"right": draws(19), "low": draws(19, 0.5)}, HIDDEN)
    right, low = table.loc["right"], table.loc["low"]
    n = HIDDEN.sum()
    for level in (50, 80, 90, 95):
        error = 5 * np.sqrt(level / 100 * (1 - level / 100) / n)  # false alarm below 1e-6
        assert right[f"coverage_{level}"] == pytest.approx(level / 100, abs=error)
    assert low["coverage_90"] < 0.6
    assert abs(right["zero_fraction_error"]) < 5 * np.sqrt(2 * 0.05 / n)
    assert low["zero_fraction_error"] > 0.3
    assert right["energy_distance"] < low["energy_distance"]
    assert right["wasserstein"] < low["wasserstein"]
    assert 0.5 < right["variance_ratio"] < 2.0
    assert low["variance_ratio"] < 0.5
