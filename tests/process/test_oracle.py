"""The oracle is Bayes' rule, and with it the bound is the entropy: both by enumeration. No chance here."""

from itertools import product

import numpy as np
import pytest
import torch
from laws import nb
from scipy import stats

from countsdiff_sc.process import (
    CosineSchedule,
    GammaPoissonOracle,
    bound_integrand,
    gamma_poisson_posterior,
    get_schedule,
    likelihood_weight,
)

MEAN, DISPERSION = 3.7, 1.11
ENTROPY = 2.43133  # nats, of the negative binomial with this mean and inverse dispersion
SUPPORT = np.arange(200)  # what lies beyond has probability below 1e-20


def posterior(x_t, prob, *, mean=MEAN, dispersion=DISPERSION):
    values = (torch.as_tensor(value, dtype=torch.float64) for value in (mean, dispersion, x_t, prob))
    return tuple(value.numpy() for value in gamma_poisson_posterior(*values))


def brute_force(x_t, prob, *, mean, dispersion):
    """P(y | x_t) of Bayes' rule, summed over x_0."""
    joint = nb(mean, dispersion).pmf(SUPPORT) * stats.binom.pmf(x_t, SUPPORT, prob)
    return np.append(joint[x_t:], np.zeros(x_t)) / joint.sum()


@pytest.mark.parametrize(("mean", "dispersion"), [(MEAN, DISPERSION), (0.3, 4.0)])
@pytest.mark.parametrize(("prob", "x_t"), [(0.0, 0), *product([0.3, 0.95, 1.0], [0, 1, 6])])  # at p = 0 none is visible
def test_posterior_is_bayes_rule(x_t, prob, mean, dispersion):
    bayes = brute_force(x_t, prob, mean=mean, dispersion=dispersion)
    lost_mean, lost_dispersion = posterior(x_t, prob, mean=mean, dispersion=dispersion)
    law = nb(lost_mean, lost_dispersion).pmf(SUPPORT) if lost_mean > 0 else np.eye(1, len(SUPPORT))[0]
    np.testing.assert_allclose(law, bayes, atol=1e-12)
    np.testing.assert_allclose(lost_mean, bayes @ SUPPORT, atol=1e-10)


def test_nothing_visible_gives_the_prior_and_everything_visible_leaves_nothing():
    np.testing.assert_allclose(posterior(0, 0.0), (MEAN, DISPERSION))
    np.testing.assert_allclose(posterior(5, 1.0), (0.0, DISPERSION + 5))


def test_posterior_is_elementwise():
    x_t, rate = torch.tensor([[0.0, 2.0], [5.0, 1.0]]), torch.tensor([0.5, 4.0])
    mean, dispersion = gamma_poisson_posterior(rate, torch.ones(2), x_t, torch.tensor(0.4))
    for cell, gene in np.ndindex(2, 2):
        one = posterior(x_t[cell, gene], 0.4, mean=rate[gene], dispersion=1.0)
        np.testing.assert_allclose((mean[cell, gene], dispersion[cell, gene]), one, rtol=1e-6)


def test_oracle_is_the_posterior_at_the_schedules_time():
    rate, dispersion, x_t, t = (
        torch.tensor(MEAN),
        torch.tensor(DISPERSION),
        torch.tensor([[0.0, 3.0]]),
        torch.tensor(0.5),
    )
    oracle = GammaPoissonOracle(rate, dispersion, CosineSchedule())
    expected = gamma_poisson_posterior(rate, dispersion, x_t, torch.tensor(0.5))  # cos^2(pi / 4)
    torch.testing.assert_close(oracle(x_t, t), expected)


def test_entropy_of_this_file_is_the_entropy():
    law = nb(MEAN, DISPERSION)
    assert -(law.pmf(SUPPORT) @ law.logpmf(SUPPORT)) == pytest.approx(ENTROPY, abs=1e-5)


def bound(schedule, *, bias=1.0, n_nodes=64):
    """Integral over t of ``likelihood_weight * E[bound_integrand]``, where the denoiser says ``bias`` times the truth.

    Every x_t and y is visited. Times are the squares of Gauss-Legendre nodes: the integrand is like log(t) near 0.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    root = torch.as_tensor((nodes + 1) / 2)
    t = root**2
    time_weight = likelihood_weight(schedule, t) * root * torch.as_tensor(weights)
    x_t, y = SUPPORT[:80, None], SUPPORT[None, :80]
    total = 0.0
    for prob, weight in zip(schedule.survival_prob(t).tolist(), time_weight.tolist(), strict=True):
        joint = nb(MEAN, DISPERSION).pmf(x_t + y) * stats.binom.pmf(x_t, x_t + y, prob)
        expected = torch.as_tensor(bias * posterior(x_t, prob)[0])
        loss = bound_integrand(torch.as_tensor(y, dtype=torch.float64), expected)
        total += weight * (torch.as_tensor(joint) * loss).sum().item()
    return total


@pytest.mark.parametrize("schedule", ["cosine", "blackout", "jump", pytest.param(lambda t: 1 - t, id="callable")])
def test_bound_is_the_entropy_whatever_the_schedule(schedule):
    assert bound(get_schedule(schedule)) == pytest.approx(
        ENTROPY, abs=1e-4
    )  # the weight is floored at 1 - p = 1e-6: 3e-5


@pytest.mark.parametrize("bias", [0.8, 1.25])
def test_bound_is_loose_for_a_wrong_denoiser(bias):
    assert bound(CosineSchedule(), bias=bias) > ENTROPY + 0.02
