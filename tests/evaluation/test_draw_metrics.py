"""Metrics of draws agree with scipy and with double loops, and are unbiased where they say so.

4 statistical tests at a false-alarm rate of 1e-4: 0.04% in all, once.
"""

import numpy as np
import pytest
from laws import assert_mean
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from countsdiff_sc import evaluation

RNG = np.random.default_rng(0)
TRUTH = RNG.poisson(2.0, 600).astype(float)
CELLS, OTHERS = RNG.poisson(2.0, (30, 4)), RNG.poisson(3.0, (30, 4))
OF_CELLS = [evaluation.energy_distance, evaluation.mmd, evaluation.sliced_wasserstein]
UNBIASED = OF_CELLS[:2]


def test_metrics_of_entries_vanish_for_the_same_draws():
    groups = np.arange(600) % 7
    assert evaluation.zero_fraction_error(TRUTH, TRUTH) == 0
    assert evaluation.wasserstein(TRUTH, TRUTH) == 0
    assert evaluation.variance_ratio(TRUTH, TRUTH, groups) == pytest.approx(1.0)
    assert evaluation.wasserstein(TRUTH, TRUTH + 2) == pytest.approx(2.0)
    assert evaluation.variance_ratio(TRUTH, 2 * TRUTH, groups) == pytest.approx(4.0)
    assert np.isnan(evaluation.variance_ratio(0 * TRUTH, 0 * TRUTH, groups))


def test_sparse_genes_of_the_same_law_have_the_same_variance():
    """Chosen by the truth alone, whose variance is above 0, genes of these laws have 0.8 to 0.9: some draws happen not to vary."""
    rng = np.random.default_rng(0)
    genes = np.repeat(np.arange(4000), 30)
    mean = rng.lognormal(-3.0, 1.0, 4000)[genes]
    truth, draws = rng.poisson(mean, (2, len(genes)))
    # Five standard errors of the median of some 500 ratios, whose logarithms have a standard deviation of 0.6.
    assert abs(np.log(evaluation.variance_ratio(truth, draws, genes))) < 5 * 1.25 * 0.6 / 500**0.5
    assert evaluation.zero_fraction_error(TRUTH, np.zeros(600)) == pytest.approx((TRUTH > 0).mean())


def test_one_draw_and_the_mean_of_many_are_scored_as_means():
    draws = RNG.poisson(2.0, (5, 600)).astype(float)
    scores = evaluation.k_sample_scores(TRUTH, draws)
    assert list(scores.index) == ["1 draw", "mean of 5 draws"]
    for metric in (evaluation.rmse, evaluation.rmse_log1p, evaluation.mae, evaluation.pearson):
        each = [metric(TRUTH, draw) for draw in draws]
        assert scores.loc["1 draw", metric.__name__] == pytest.approx(np.mean(each))
        assert scores.loc["mean of 5 draws", metric.__name__] == pytest.approx(metric(TRUTH, draws.mean(0)))
    single = evaluation.k_sample_scores(TRUTH, draws[:1])
    np.testing.assert_allclose(single.loc["1 draw"], single.loc["mean of 1 draws"])
    with pytest.raises(ValueError, match="each draw has shape"):
        evaluation.k_sample_scores(TRUTH, draws.T)


@pytest.mark.parametrize("k", [1, 5])
def test_the_mean_of_k_draws_of_the_true_law_has_1_plus_1_over_k_times_the_variance(k):
    rng = np.random.default_rng(1)
    truth, draws = rng.poisson(2.0, 20_000), rng.poisson(2.0, (k, 20_000))
    assert_mean(np.square(truth - draws.mean(0)), 2.0 * (1 + 1 / k))
    row = evaluation.k_sample_scores(truth, draws).loc[f"mean of {k} draws"]
    assert row["rmse"] ** 2 == pytest.approx(np.square(truth - draws.mean(0)).mean())


def loop(cells, others, kernel):
    """Mean over pairs of distinct rows, one by one."""
    pairs = [(i, j) for i in range(len(cells)) for j in range(len(cells)) if i != j]
    return np.mean(
        [kernel(cells[i], cells[j]) + kernel(others[i], others[j]) - 2 * kernel(cells[i], others[j]) for i, j in pairs]
    )


def test_mmd_and_energy_distance_are_double_loops():
    x, y = np.log1p(CELLS), np.log1p(OTHERS)
    bandwidth = np.median(pdist(x))
    gaussian = loop(x, y, lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * bandwidth**2)))
    assert evaluation.mmd(CELLS, OTHERS) == pytest.approx(gaussian, rel=1e-9)
    assert evaluation.energy_distance(CELLS, OTHERS) == pytest.approx(-loop(x, y, lambda a, b: np.linalg.norm(a - b)))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("metric", UNBIASED)
def test_mean_zero_under_equal_laws_also_if_rows_share_observed_entries(metric, paired):
    def distance(seed):
        rng = np.random.default_rng(seed)
        cells, draws = rng.poisson(2.0, (2, 30, 5))
        if paired:
            draws[:, :4] = cells[:, :4]
        return metric(cells, draws)

    values = [distance(seed) for seed in range(300)]
    assert_mean(values, 0.0)
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize("metric", OF_CELLS)
def test_the_further_the_larger_and_the_order_of_cells_is_no_matter(metric):
    order = np.random.default_rng(2).permutation(30)
    assert metric(CELLS[order], OTHERS[order]) == pytest.approx(metric(CELLS, OTHERS))
    values = [metric(CELLS, CELLS[order] + shift) for shift in range(4)]
    assert values == sorted(values)
    assert values[3] > 10 * abs(values[0])


@pytest.mark.parametrize("metric", OF_CELLS)
def test_cells_are_chosen_by_the_seed_alone(metric):
    some = [metric(CELLS, OTHERS, max_cells=20, seed=seed) for seed in (3, 3, 4)]
    assert some[0] == some[1] != some[2]


@pytest.mark.parametrize("metric", OF_CELLS)
@pytest.mark.parametrize(
    ("truth", "draws", "match"),
    [
        (CELLS, OTHERS[:, :3], r"draws has shape \(30, 3\) and truth \(30, 4\)\. .* equal\. Index"),
        (CELLS[:1], OTHERS[:1], r"truth has shape \(1, 4\) .* at least 2 cells.* Pass cells x genes"),
        (TRUTH, TRUTH, r"truth has shape \(600,\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(metric, truth, draws, match):
    with pytest.raises(ValueError, match=match):
        metric(truth, draws)


@pytest.mark.parametrize("constant", [0.0, 3.0, 1e4])
def test_mmd_needs_cells_that_differ(constant):
    with pytest.raises(ValueError, match="half of the pairs are identical.* must be positive. Leave out"):
        evaluation.mmd(np.full((10, 50), constant), np.ones((10, 50)))


def test_mmd_has_the_truths_bandwidth_whatever_the_draws():
    far = CELLS + 1e6  # no kernel reaches it
    truth = np.exp(-0.5 * np.square(cdist(np.log1p(CELLS), np.log1p(CELLS)) / np.median(pdist(np.log1p(CELLS)))))
    assert evaluation.mmd(CELLS, far) == pytest.approx((truth.sum() - 30) / (30 * 29) + 1.0, abs=1e-4)


def test_sliced_wasserstein_is_scipys_in_one_dimension():
    x, y = RNG.poisson(2.0, (50, 1)), RNG.poisson(4.0, (50, 1))
    expected = stats.wasserstein_distance(np.log1p(x[:, 0]), np.log1p(y[:, 0]))
    assert evaluation.sliced_wasserstein(x, y) == pytest.approx(expected)
    assert evaluation.sliced_wasserstein(x, x[::-1]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_sliced_wasserstein_is_a_mean_over_directions(order):
    shift = np.array([3.0, 4.0])
    x = np.full((2, 2), 0.0)
    # Of a point and one at distance 5, each direction sees 5 |cos(angle)|: 10 / pi on average, and 12.5 when squared.
    expected = {1: 10 / np.pi, 2: np.sqrt(12.5)}[order]
    found = evaluation.sliced_wasserstein(x, x + np.expm1(shift), order=order, n_projections=20_000)
    assert found == pytest.approx(expected, rel=0.02)  # 5 standard errors or more
