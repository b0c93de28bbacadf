"""Formulas in one compiled pass agree with chains of tensor operations, gradients included."""

import numpy as np
import pytest
import torch
from laws import generator

from countsdiff_sc.nn._denoiser import bounded_exp, freeman_tukey_residual
from countsdiff_sc.process import bregman_loss, gamma_poisson_posterior, weighted_bregman_loss

SHAPE = (120, 301)  # enough entries for several threads
CLOSE = {"rtol": 2e-5, "atol": 1e-6}


@pytest.fixture
def entries():
    """Counts, survival probabilities (0 and 1 among them), rates and dispersions."""
    counts = torch.poisson(torch.full(SHAPE, 0.7), generator=generator(1))
    prob, rate, dispersion = (torch.rand(SHAPE, generator=generator(seed)) for seed in (2, 3, 4))
    prob[:, 0], prob[:, 1] = 0.0, 1.0
    return counts, prob, 4.0 * rate + 1e-3, 9.0 * dispersion + 1e-2


def plain(*tensors):
    """The same numbers in double precision, for which nothing is compiled."""
    return [tensor.detach().double() for tensor in tensors]


def test_residual(entries):
    counts, prob, rate, _ = entries
    torch.testing.assert_close(
        freeman_tukey_residual(counts, prob, rate).double(), freeman_tukey_residual(*plain(counts, prob, rate)), **CLOSE
    )


def test_dropout_of_the_residual_keeps_its_mean(entries):
    counts, prob, rate, _ = entries
    torch.manual_seed(0)
    residual = freeman_tukey_residual(counts, prob, rate)
    dropped = freeman_tukey_residual(counts, prob, rate, dropout=0.25)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], residual[kept] / 0.75)
    assert abs(float(kept[residual != 0].double().mean()) - 0.75) < 0.01  # 4.4 standard deviations
    assert not torch.equal(dropped, freeman_tukey_residual(counts, prob, rate, dropout=0.25))


def test_posterior_mean_and_its_gradient(entries):
    counts, prob, rate, dispersion = entries
    found_rate, exact_rate = rate.clone().requires_grad_(), rate.double().requires_grad_()
    found, found_shape = gamma_poisson_posterior(found_rate, dispersion, counts, prob)
    exact, exact_shape = gamma_poisson_posterior(exact_rate, *plain(dispersion, counts, prob))
    torch.testing.assert_close(found.double(), exact, **CLOSE)
    torch.testing.assert_close(found_shape.double(), exact_shape, **CLOSE)
    weight = torch.rand(SHAPE, generator=generator(5))
    (found * weight).sum().backward()
    (exact * weight.double()).sum().backward()
    torch.testing.assert_close(found_rate.grad.double(), exact_rate.grad, **CLOSE)


def test_weighted_loss_and_its_gradient(entries):
    counts, weight, births, _ = entries
    births[:, 2] = 0.0  # below the least number of which a logarithm is taken
    found_births, exact_births = births.clone().requires_grad_(), births.double().requires_grad_()
    found = weighted_bregman_loss(counts, found_births, weight)
    exact = (weight.double() * bregman_loss(counts.double(), exact_births)).sum()
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)
    (3.0 * found).backward()
    (3.0 * exact).backward()
    torch.testing.assert_close(found_births.grad.double(), exact_births.grad, **CLOSE)


def test_posterior_with_a_dispersion_to_learn_is_differentiable_by_it(entries):
    counts, prob, rate, dispersion = entries
    dispersion = dispersion.requires_grad_()
    gamma_poisson_posterior(rate, dispersion, counts, prob)[0].sum().backward()
    assert np.isfinite(dispersion.grad).all()
    assert dispersion.grad.abs().sum() > 0


@pytest.mark.parametrize("bounds", [(-8.0, 8.0), (-5.0, 8.0), (-0.3, 0.7)])
def test_bounded_exponential_and_its_gradient(bounds):
    x = 4.0 * torch.randn(2, 90, 101, generator=generator(6))
    x[0, 0, :4] = torch.tensor([*bounds, -100.0, 100.0])
    single, double = x.clone().requires_grad_(), x.double().requires_grad_()
    found, exact = bounded_exp(single, bounds), bounded_exp(double, bounds)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0.0)
    weight = torch.rand(x.shape, generator=generator(7))
    (found * weight).sum().backward()
    (exact * weight.double()).sum().backward()
    inside = (x > bounds[0]) & (x < bounds[1])  # at a bound itself either one-sided derivative would do
    torch.testing.assert_close(single.grad.double()[inside], double.grad[inside], rtol=1e-5, atol=0.0)
    assert not single.grad[~inside].any()
