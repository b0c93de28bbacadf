"""PIT values are uniform for the right law, and intervals of counts hold more than they say.

9 statistical tests at a false-alarm rate of 1e-4, and 4 at 6e-7: 0.1% in all, once.
"""

import numpy as np
import pytest
from laws import ALPHA
from scipy import stats

from countsdiff_sc import evaluation

RNG = np.random.default_rng(0)


def assert_coverage(pit):
    for level in (0.5, 0.9):
        error = 5 * np.sqrt(level * (1 - level) / pit.size)
        assert evaluation.coverage(pit, level) == pytest.approx(level, abs=error)


def test_randomised_pit_is_uniform_for_the_right_law_and_not_for_another():
    mean, r = RNG.gamma(2.0, 1.0, 5000), np.full(5000, 2.0)
    draws = stats.nbinom(r, r / (r + mean)).rvs(random_state=2)
    pit = evaluation.randomised_pit(draws, mean, r)
    assert stats.kstest(pit, "uniform").pvalue > ALPHA
    assert stats.kstest(evaluation.randomised_pit(draws, mean, 10 * r), "uniform").pvalue < ALPHA
    assert_coverage(pit)


@pytest.mark.parametrize("n_samples", [1, 4, 19])
@pytest.mark.parametrize("mean", [0.1, 3.0])
def test_pit_from_draws_is_uniform_if_truth_and_draws_are_exchangeable(n_samples, mean):
    rng = np.random.default_rng(1)
    rates = rng.gamma(1.0, mean, 5000)  # of its own for each entry
    pit = evaluation.pit_from_draws(rng.poisson(rates), rng.poisson(rates, (n_samples, 5000)))
    assert 0 <= pit.min() < pit.max() < 1
    assert stats.kstest(pit, "uniform").pvalue > ALPHA


def test_pit_from_draws_shows_draws_that_vary_too_little():
    rng = np.random.default_rng(3)
    truth = rng.negative_binomial(1, 0.2, 5000)
    pit = evaluation.pit_from_draws(truth, rng.poisson(truth.mean(), (9, 5000)))
    assert evaluation.coverage(pit, 0.5) < 0.4
    assert stats.kstest(pit, "uniform").pvalue < ALPHA


def test_pit_from_draws_tends_to_the_randomised_pit():
    truth, mean, r = RNG.poisson(2.0, 300), np.full(300, 2.0), np.full(300, 1.5)
    draws = stats.nbinom(1.5, 1.5 / 3.5).rvs((4000, 300), random_state=4)
    exact, ranked = evaluation.randomised_pit(truth, mean, r, seed=5), evaluation.pit_from_draws(truth, draws, seed=5)
    np.testing.assert_allclose(ranked, exact, atol=0.05)  # 6 standard errors: false alarm below 1e-6 over all


def test_pit_from_draws_counts_ranks_of_any_shape():
    truth, draws = np.array([[2, 0]]), np.array([[[1, 1]], [[3, 5]], [[0, 2]]])
    pit = evaluation.pit_from_draws(truth, draws)
    assert pit.shape == (1, 2)
    assert 0.5 <= pit[0, 0] < 0.75  # third of four
    assert 0.0 <= pit[0, 1] < 0.25
    assert_coverage(evaluation.pit_from_draws(np.zeros(5000), np.zeros((3, 5000))))
    with pytest.raises(ValueError, match=r"each draw has shape \(1, 2\) and truth \(2,\)"):
        evaluation.pit_from_draws(truth[0], draws)


def test_intervals_of_counts_hold_more_than_they_say():
    truth = RNG.poisson(0.1, 5000)
    low, high = np.full(5000, stats.poisson(0.1).ppf(0.25)), np.full(5000, stats.poisson(0.1).ppf(0.75))
    assert evaluation.interval_coverage(truth, low, high) == np.mean(truth == 0) > 0.85
    assert evaluation.interval_coverage(np.arange(4), np.zeros(4), np.full(4, 2)) == 0.75
    with pytest.raises(ValueError, match="high has shape"):
        evaluation.interval_coverage(truth, low, high[0])
