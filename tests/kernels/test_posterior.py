"""Formulas in one compiled pass agree with chains of tensor operations, gradients included."""

import pytest
import torch
from laws import generator

from countsdiff_sc.kernels import _threads
from countsdiff_sc.nn._denoiser import freeman_tukey_residual
from countsdiff_sc.nn._molecules_lost import LOG_RATIO_RANGE, mean_lost, mixture_lost, molecules_lost
from countsdiff_sc.process._losses import dispersion_loss, weighted_bregman_loss

SHAPE = (120, 301)
CLOSE = {"rtol": 2e-5, "atol": 1e-6}


@pytest.fixture
def entries(monkeypatch):
    """Counts, survival probabilities (0 and 1 among them), rates and dispersions; rows are shared out over threads."""
    monkeypatch.setattr(_threads, "MIN_ENTRIES", 1)
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


def logarithms(seed, shape=SHAPE, *, spread=4.0):
    """Log-ratios, at and beyond their bounds among them."""
    x = spread * torch.randn(shape, generator=generator(seed))
    x[..., 0, :4] = torch.tensor([*LOG_RATIO_RANGE, -100.0, 100.0])
    return x


def test_mean_lost_and_its_gradient(entries):
    counts, prob, rate, _ = entries
    log_ratio, log_dispersion = logarithms(6), logarithms(7)
    single, double = log_ratio.clone().requires_grad_(), log_ratio.double().requires_grad_()
    found, _ = molecules_lost(single, log_dispersion, rate, counts, prob)
    exact = mean_lost(double, *plain(log_dispersion, rate, counts, prob))
    torch.testing.assert_close(found.double(), exact, **CLOSE)
    weight = torch.rand(SHAPE, generator=generator(5))
    (found * weight).sum().backward()
    (exact * weight.double()).sum().backward()
    inside = (log_ratio > LOG_RATIO_RANGE[0]) & (log_ratio < LOG_RATIO_RANGE[1])
    torch.testing.assert_close(single.grad.double()[inside], double.grad[inside], **CLOSE)
    assert not single.grad[~inside].any()  # at a bound itself either one-sided derivative would do


def test_mixture(entries):
    counts, prob, rate, _ = entries
    log_ratio, log_dispersion = logarithms(6, (3, *SHAPE), spread=2.0), logarithms(7, (3, *SHAPE), spread=2.0)
    log_ratio[:, 3] = log_ratio[0, 3]  # members that agree
    inputs = (log_ratio, log_dispersion, rate, counts, prob)
    with torch.no_grad():
        found, exact = mixture_lost(*inputs), mixture_lost(*plain(*inputs))
    for single, double in zip(found, exact, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


def test_a_weight_for_all_cells_is_one_for_each(entries):
    counts, prob, births, _ = entries
    of_one, of_each = (
        weighted_bregman_loss(counts, births, prob, weight)
        for weight in (torch.tensor(2.5), torch.full((len(prob), 1), 2.5))
    )
    assert of_one == of_each
    with pytest.raises(RuntimeError, match="expand"):
        weighted_bregman_loss(counts, births, prob, prob)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_weighted_loss_and_its_gradient(entries, factor):
    counts, prob, births, _ = entries
    births[:, 2] = 0.0  # below the least number of which a logarithm is taken
    target, weight = (prob > 0.4).float(), torch.rand(len(prob), 1, generator=generator(8))
    found_births, exact_births = births.clone().requires_grad_(), births.double().requires_grad_()
    found = weighted_bregman_loss(counts, found_births, target, weight)
    exact = weighted_bregman_loss(counts.double(), exact_births, target.double(), weight.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)
    (factor * found).backward()
    (factor * exact).backward()
    torch.testing.assert_close(found_births.grad.double(), exact_births.grad, **CLOSE)


@pytest.mark.parametrize("depth", [0.7, 30.0])
def test_dispersion_loss_and_its_gradient(entries, depth):
    """Counts of one and of many molecules, with plain sums and series."""
    _, prob, rate, dispersion = entries
    counts, target = torch.poisson(torch.full(SHAPE, depth), generator=generator(9)), (prob > 0.4).float()
    dispersion[:, 3] = 1e3
    found_dispersion, exact_dispersion = dispersion.clone().requires_grad_(), dispersion.double().requires_grad_()
    found = dispersion_loss(counts, rate, found_dispersion, target)
    exact = dispersion_loss(counts.double(), rate.double(), exact_dispersion, target.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0.0)
    found.backward()
    exact.backward()
    torch.testing.assert_close(found_dispersion.grad.double(), exact_dispersion.grad, **CLOSE)


def test_nan_does_not_pass_for_a_bound(entries):
    counts, prob, rate, _ = entries
    log_ratio, log_dispersion = logarithms(6, (2, *SHAPE)), logarithms(7, (2, *SHAPE))
    log_ratio[0, 5, 7], log_dispersion[0, 6, 8] = torch.nan, torch.nan
    with torch.no_grad():
        for found in (
            molecules_lost(log_ratio[0], log_dispersion[0], rate, counts, prob)[0],
            mixture_lost(log_ratio, log_dispersion, rate, counts, prob)[0],
        ):
            assert found.isnan().nonzero().tolist() == [[5, 7], [6, 8]]
