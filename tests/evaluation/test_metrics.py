"""Metrics agree with scipy and scikit-learn, and with what they promise at perfect and at calibrated predictions."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from countsdiff_sc import evaluation

RNG = np.random.default_rng(0)
TRUTH, MEAN = RNG.poisson(2.0, 600).astype(float), RNG.gamma(2.0, 1.0, 600)


def test_agreement_with_scikit_learn():
    assert evaluation.rmse(TRUTH, MEAN) == pytest.approx(metrics.root_mean_squared_error(TRUTH, MEAN))
    assert evaluation.mae(TRUTH, MEAN) == pytest.approx(metrics.mean_absolute_error(TRUTH, MEAN))
    assert evaluation.r2(TRUTH, MEAN) == pytest.approx(metrics.r2_score(TRUTH, MEAN))
    assert evaluation.bias(TRUTH, TRUTH + 0.5) == pytest.approx(0.5)
    assert evaluation.pearson(TRUTH, MEAN) == pytest.approx(stats.pearsonr(np.log1p(TRUTH), np.log1p(MEAN))[0])


def test_grouped_correlations_are_means_over_groups_and_skip_constant_ones():
    groups = np.repeat([2, 0, 1], 200)[RNG.permutation(600)]
    truth = np.where(groups == 1, 3.0, TRUTH)
    each = [stats.spearmanr(truth[groups == g], MEAN[groups == g])[0] for g in (0, 2)]
    assert evaluation.grouped_correlation(truth, MEAN, groups, ranks=True) == pytest.approx(np.mean(each))
    assert np.isnan(evaluation.grouped_correlation(np.ones(4), MEAN[:4], np.zeros(4, int)))


def test_log_score_is_least_for_the_truth():
    draws = stats.nbinom(1.5, 1.5 / (1.5 + 3.0)).rvs(20_000, random_state=1)
    score = {
        (mean, r): evaluation.negative_binomial_log_score(draws, np.full(20_000, mean), np.full(20_000, r))
        for mean in (2.0, 3.0, 4.5)
        for r in (0.7, 1.5, 4.0)
    }
    assert min(score, key=score.get) == (3.0, 1.5)


def test_metrics_of_draws_vanish_for_the_same_draws():
    groups = np.arange(600) % 7
    assert evaluation.zero_fraction_error(TRUTH, TRUTH) == 0
    assert evaluation.wasserstein(TRUTH, TRUTH) == 0
    assert evaluation.variance_ratio(TRUTH, TRUTH, groups) == pytest.approx(1.0)
    assert evaluation.wasserstein(TRUTH, TRUTH + 2) == pytest.approx(2.0)
    assert evaluation.variance_ratio(TRUTH, 2 * TRUTH, groups) == pytest.approx(4.0)
    assert evaluation.zero_fraction_error(TRUTH, np.zeros(600)) == pytest.approx((TRUTH > 0).mean())


def test_energy_distance_is_unbiased_and_grows_with_the_difference():
    def distance(shift, seed):
        rng = np.random.default_rng(seed)
        return evaluation.energy_distance(rng.poisson(2.0, (60, 5)), rng.poisson(2.0 + shift, (60, 5)))

    same = np.array([distance(0.0, seed) for seed in range(100)])
    assert abs(same.mean()) < 4 * same.std() / 10  # a false alarm of 6e-5
    assert same.min() < 0 < np.mean([distance(1.0, seed) for seed in range(5)])
    x, y = RNG.poisson(2.0, (30, 4)), RNG.poisson(3.0, (30, 4))
    pairs = metrics.pairwise_distances(np.log1p(np.concatenate([x, y])))
    naive = 2 * pairs[:30, 30:].mean() - (pairs[:30, :30].sum() + pairs[30:, 30:].sum()) / (30 * 29)
    assert evaluation.energy_distance(x, y) == pytest.approx(naive)


def test_randomised_pit_is_uniform_for_the_right_law_and_not_for_another():
    mean, r = RNG.gamma(2.0, 1.0, 5000), np.full(5000, 2.0)
    draws = stats.nbinom(r, r / (r + mean)).rvs(random_state=2)
    pit = evaluation.randomised_pit(draws, mean, r)
    assert stats.kstest(pit, "uniform").pvalue > 1e-4
    assert stats.kstest(evaluation.randomised_pit(draws, mean, 10 * r), "uniform").pvalue < 1e-4
    for level in (0.5, 0.9):
        error = 5 * np.sqrt(level * (1 - level) / 5000)
        assert evaluation.coverage(pit, level) == pytest.approx(level, abs=error)
