"""Losses have the minimisers and the units they claim. No chance here."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW, nb
from scipy import stats

from countsdiff_sc.process import (
    CosineSchedule,
    bound_integrand,
    bregman_loss,
    get_loss_weighting,
    get_schedule,
    likelihood_weight,
    negative_binomial_nll,
    paper_weight,
    uniform_weight,
)

GRID = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
COUNTS = torch.tensor([0.0, 0.0, 1.0, 3.0, 10.0], dtype=torch.float64)

counts = st.integers(0, 1000).map(lambda count: torch.tensor(float(count), dtype=torch.float64))
rates = st.floats(1e-6, 1e4).map(lambda rate: torch.tensor(rate, dtype=torch.float64))


@pytest.mark.parametrize("loss", [bregman_loss, bound_integrand])
def test_minimiser_is_the_mean(loss):
    candidates = torch.linspace(0.05, 12.0, 2391, dtype=torch.float64)  # steps of 0.005
    risk = loss(COUNTS, candidates[:, None]).mean(1)
    assert candidates[risk.argmin()].item() == pytest.approx(COUNTS.mean().item(), abs=0.0026)


@pytest.mark.parametrize("loss", [bregman_loss, bound_integrand])
def test_gradient_is_one_minus_the_ratio(loss):
    expected = torch.linspace(0.1, 9.0, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(COUNTS, expected).sum(), expected)
    torch.testing.assert_close(gradient, 1 - COUNTS / expected.detach())


@LAW
@given(n_deaths=counts, expected=rates)
def test_bound_is_positive_away_from_equality(n_deaths, expected):
    assert bound_integrand(n_deaths, expected) >= -1e-9
    if abs(n_deaths - expected) > 0.01 * expected:
        assert bound_integrand(n_deaths, expected) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bound_is_zero_at_equality(dtype):
    same = torch.tensor([0.0, 1.0, 3.0, 1000.0], dtype=dtype)
    assert torch.equal(bound_integrand(same, same), torch.zeros(4, dtype=dtype))


@LAW
@given(n_deaths=counts, first=rates, second=rates)
def test_bound_differs_from_bregman_by_a_term_free_of_the_network(n_deaths, first, second):
    def gap(expected):
        return bound_integrand(n_deaths, expected) - bregman_loss(n_deaths, expected)

    torch.testing.assert_close(gap(first), gap(second), rtol=1e-9, atol=1e-8)


def test_a_rate_of_zero_costs_much_but_not_infinity():
    for loss in (bregman_loss, bound_integrand):
        assert torch.isfinite(loss(COUNTS, torch.zeros(5))).all()
        assert loss(torch.tensor(3.0), torch.tensor(0.0)) > 40
        assert loss(torch.tensor(0.0), torch.tensor(0.0)) == 0


@pytest.mark.parametrize(("mean", "dispersion"), [(3.7, 1.11), (0.02, 0.1), (50.0, 4.0), (2.0, 300.0)])
def test_negative_binomial_nll_is_scipys(mean, dispersion):
    support = np.arange(1500)
    mean_, dispersion_ = torch.tensor([mean, dispersion], dtype=torch.float64)
    nll = negative_binomial_nll(torch.as_tensor(support, dtype=torch.float64), mean_, dispersion_)
    np.testing.assert_allclose(nll, -nb(mean, dispersion).logpmf(support), rtol=1e-9)
    assert torch.exp(-nll).sum().item() == pytest.approx(1.0, abs=1e-9)
    assert (torch.exp(-nll) * torch.as_tensor(support)).sum().item() == pytest.approx(mean, rel=1e-9)


def test_negative_binomial_nll_tends_to_poisson():
    support = torch.arange(30, dtype=torch.float64)
    nll = negative_binomial_nll(support, torch.tensor(3.7).double(), torch.tensor(1e8).double())
    np.testing.assert_allclose(nll, -stats.poisson.logpmf(support, float(torch.tensor(3.7))), atol=1e-5)


def test_negative_binomial_nll_in_single_precision_and_at_rate_zero():
    support = torch.arange(200.0)
    nll = negative_binomial_nll(support, torch.tensor(3.7), torch.tensor(1.11))
    np.testing.assert_allclose(nll, -nb(3.7, 1.11).logpmf(support), rtol=1e-4)
    assert negative_binomial_nll(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1.0)).item() == pytest.approx(
        0, abs=1e-6
    )
    assert torch.isfinite(negative_binomial_nll(torch.tensor(5.0), torch.tensor(0.0), torch.tensor(1.0)))


@pytest.mark.parametrize("name", ["cosine", "blackout", "jump"])
def test_weightings_are_their_formulas(name):
    schedule, t = get_schedule(name), GRID[10:-1]  # from 0.1: 1 - p is clear of its floor
    death_rate = -schedule.survival_prob_rate(t)
    torch.testing.assert_close(paper_weight(schedule, t), death_rate)
    torch.testing.assert_close(likelihood_weight(schedule, t) * (1 - schedule.survival_prob(t)), death_rate)
    assert torch.equal(uniform_weight(schedule, t), torch.ones_like(t))


def test_paper_weight_sees_nothing_at_the_ends_of_cosine_and_the_likelihood_nothing_at_one():
    ends = GRID[[0, -1]]
    np.testing.assert_allclose(paper_weight(CosineSchedule(), ends), 0.0, atol=1e-12)
    np.testing.assert_allclose(likelihood_weight(CosineSchedule(), ends[1:]), 0.0, atol=1e-12)
    assert paper_weight(CosineSchedule(), GRID).argmax() == 50


def test_likelihood_weight_of_cosine_is_a_cotangent():
    t = GRID[1:-1]
    torch.testing.assert_close(likelihood_weight(CosineSchedule(), t), math.pi / torch.tan(math.pi * t / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["paper", "likelihood", "uniform"])
@pytest.mark.parametrize("schedule", ["cosine", "blackout", "jump"])
def test_weights_are_finite_and_not_negative_ends_included(schedule, name, dtype):
    weight = get_loss_weighting(name)(get_schedule(schedule), GRID.to(dtype))
    assert (weight.shape, weight.dtype) == (GRID.shape, dtype)
    assert torch.isfinite(weight).all()
    assert (weight >= -1e-6).all()


def test_get_loss_weighting():
    assert get_loss_weighting("paper") is paper_weight
    assert get_loss_weighting("likelihood") is likelihood_weight
    assert get_loss_weighting("uniform") is uniform_weight
    assert get_loss_weighting(math.hypot) is math.hypot  # any callable


@pytest.mark.parametrize("loss_weighting", ["elbo", "", None, 1])
def test_unknown_loss_weighting(loss_weighting):
    with pytest.raises(
        ValueError, match=r"is not known\. It must be one of \['likelihood', 'paper', 'uniform'\].*callable"
    ):
        get_loss_weighting(loss_weighting)


@pytest.mark.parametrize("dispersion", [1e2, 9e2, 1.1e3, 1e4, 1e6, 1e8])
def test_single_precision_is_enough_at_any_dispersion(dispersion):
    """Within 2e-3 nats of scipy in double precision; the plain difference of lgammas is wrong by 0.9 at 1e6."""
    count, mean = np.array([0.0, 1.0, 4.0, 30.0]), 3.7
    exact = -stats.nbinom.logpmf(count, dispersion, dispersion / (dispersion + mean))
    single = negative_binomial_nll(torch.tensor(count).float(), torch.tensor(mean), torch.tensor(dispersion))
    np.testing.assert_allclose(single, exact, atol=2e-3)
