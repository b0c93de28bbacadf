"""Metrics of means agree with scipy and scikit-learn, and with what they promise at perfect predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW
from scipy import sparse, stats
from sklearn import metrics

from countsdiff_sc import evaluation

RNG = np.random.default_rng(0)
TRUTH, MEAN = RNG.poisson(2.0, 600).astype(float), RNG.gamma(2.0, 1.0, 600)
OF_MEANS = [
    evaluation.bias,
    evaluation.mae,
    evaluation.pearson,
    evaluation.poisson_deviance,
    evaluation.r2,
    evaluation.rmse,
    evaluation.rmse_log1p,
]


def test_agreement_with_scikit_learn():
    assert evaluation.rmse(TRUTH, MEAN) == pytest.approx(metrics.root_mean_squared_error(TRUTH, MEAN))
    assert evaluation.mae(TRUTH, MEAN) == pytest.approx(metrics.mean_absolute_error(TRUTH, MEAN))
    assert evaluation.r2(TRUTH, MEAN) == pytest.approx(metrics.r2_score(TRUTH, MEAN))
    assert evaluation.r2(TRUTH, 9 - TRUTH) == pytest.approx(metrics.r2_score(TRUTH, 9 - TRUTH))
    assert evaluation.r2(TRUTH, 9 - TRUTH) < 0
    assert evaluation.bias(TRUTH, TRUTH + 0.5) == pytest.approx(0.5)
    assert evaluation.pearson(TRUTH, MEAN) == pytest.approx(stats.pearsonr(np.log1p(TRUTH), np.log1p(MEAN))[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("metric", OF_MEANS)
def test_counts_of_any_type_have_the_same_score(metric, dtype):
    """Differences of unsigned numbers wrap around, squares of integers overflow, logarithms of bytes have half precision."""
    truth, mean = (
        np.concatenate([counts, [largest]]) for counts, largest in ((TRUTH, 250.0), (RNG.poisson(2.0, 600), 1.0))
    )
    scale = 1.0 if dtype == np.uint8 else 240.0  # up to 60,000
    expected = metric(scale * truth, scale * mean)
    assert metric((scale * truth).astype(dtype), (scale * mean).astype(dtype)) == pytest.approx(expected)


def test_what_does_not_vary_explains_nothing():
    constant = np.ones(600)
    assert np.isnan(evaluation.pearson(TRUTH, constant))
    assert np.isnan(evaluation.pearson(constant, MEAN))
    assert np.isnan(evaluation.r2(constant, MEAN))
    assert evaluation.r2(TRUTH, constant) < 0


@pytest.mark.parametrize("metric", OF_MEANS)
def test_shapes_that_would_broadcast_are_refused(metric):
    with pytest.raises(
        ValueError, match=r"mean has shape \(600, 1\) and truth \(600,\)\. .* must be equal\. Index both"
    ):
        metric(TRUTH, MEAN[:, None])


@pytest.mark.parametrize("metric", OF_MEANS)
def test_what_a_mask_takes_from_a_sparse_matrix_is_scored_and_a_sparse_matrix_refused(metric):
    truth, mean, hidden = TRUTH.reshape(30, 20), MEAN.reshape(30, 20), RNG.random((30, 20)) < 0.5
    expected = metric(truth[hidden], mean[hidden])
    assert metric(sparse.csr_matrix(truth)[hidden], mean[hidden]) == expected
    with pytest.raises(TypeError, match=r"A csr_matrix was given\. .* Convert it with \.toarray\(\)"):
        metric(sparse.csr_matrix(truth), mean)


@pytest.mark.parametrize("metric", OF_MEANS)
def test_matrices_are_scored_as_their_entries(metric):
    assert metric(TRUTH.reshape(30, 20), MEAN.reshape(30, 20)) == pytest.approx(metric(TRUTH, MEAN), rel=1e-12)


def test_grouped_correlations_are_means_over_groups_and_skip_constant_ones():
    groups = np.repeat([2, 0, 1], 200)[RNG.permutation(600)]
    truth = np.where(groups == 1, 3.0, TRUTH)
    for ranks, scale, correlate in ((True, np.asarray, stats.spearmanr), (False, np.log1p, stats.pearsonr)):
        each = [correlate(scale(truth[groups == g]), scale(MEAN[groups == g]))[0] for g in (0, 2)]
        found = evaluation.grouped_correlation(truth, MEAN, groups, ranks=ranks)
        assert found == pytest.approx(np.mean(each), abs=1e-10)
    assert np.isnan(evaluation.grouped_correlation(np.ones(4), MEAN[:4], np.zeros(4, int)))
    with pytest.raises(ValueError, match="groups has shape"):
        evaluation.grouped_correlation(TRUTH, MEAN, groups[1:])


@LAW
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40), st.integers(1, 3))
def test_equal_groups_count_equally(pairs, n_copies):
    truth, mean = np.array(pairs, dtype=float).T
    one = evaluation.grouped_correlation(truth, mean, np.zeros(len(truth), int), ranks=True)
    groups = np.repeat(np.arange(n_copies), len(truth))
    many = evaluation.grouped_correlation(np.tile(truth, n_copies), np.tile(mean, n_copies), groups, ranks=True)
    assert many == pytest.approx(one, abs=1e-12, nan_ok=True)
    assert np.isnan(one) == (np.ptp(truth) * np.ptp(mean) == 0)


def test_log_score_is_least_for_the_truth():
    draws = stats.nbinom(1.5, 1.5 / (1.5 + 3.0)).rvs(20_000, random_state=1)
    score = {
        (mean, r): evaluation.negative_binomial_log_score(draws, np.full(20_000, mean), np.full(20_000, r))
        for mean in (2.0, 3.0, 4.5)
        for r in (0.7, 1.5, 4.0)
    }
    assert min(score, key=score.get) == (3.0, 1.5)
