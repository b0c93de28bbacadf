"""Formulas in one compiled pass agree with chains of tensor operations, gradients included."""

import pytest
import torch
from laws import generator

from countsdiff_sc.kernels import _threads
from countsdiff_sc.nn._denoiser import freeman_tukey_residual
from countsdiff_sc.nn._molecules_lost import (
    LOG_DISPERSION_RANGE,
    LOG_RATIO_RANGE,
    Readout,
    dispersion_loss,
    mean_loss,
    molecules_lost,
)
from countsdiff_sc.process._losses import negative_binomial_loss

SHAPE = (120, 301)
TYPES = torch.float32, torch.float64
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


def slopes(n_members):
    """Powers of the rate that dispersions go with, of each network and cell."""
    return 0.4 * torch.randn((n_members, SHAPE[0], 1), generator=generator(11))


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_mean_loss_and_its_gradient(entries, factor, spread):
    counts, prob, rate, _ = entries
    rate[:, 2] = 0.0  # means below the least number of which a logarithm is taken
    n_deaths = torch.poisson(2.0 * rate, generator=generator(9)).masked_fill(prob == 1.0, torch.nan)
    log_ratio, log_dispersion = logarithms(6, (1, *SHAPE), spread=spread), logarithms(7, (1, *SHAPE))
    weight, slope = torch.rand(len(prob), 1, generator=generator(8)), slopes(1)
    single, double = log_ratio.clone().requires_grad_(), log_ratio.double().requires_grad_()
    found = mean_loss(Readout(single, log_dispersion, slope, rate, counts, prob), n_deaths, weight)
    about = plain(log_dispersion, slope, rate, counts, prob)
    exact = mean_loss(Readout(double, *about), *plain(n_deaths, weight))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0.0)
    (factor * found).backward()
    (factor * exact).backward()
    inside = (log_ratio > LOG_RATIO_RANGE[0]) & (log_ratio < LOG_RATIO_RANGE[1])
    # The gradient is a difference of the mean and the count, which may cancel.
    size = 1.0 + molecules_lost(Readout(double.detach(), *about))[0]
    torch.testing.assert_close((single.grad / size)[inside], (double.grad / size)[inside], check_dtype=False, **CLOSE)
    beyond = (log_ratio < LOG_RATIO_RANGE[0]) | (log_ratio > LOG_RATIO_RANGE[1])
    assert not single.grad[beyond].any()  # at a bound itself either one-sided derivative would do
    assert not single.grad[0][n_deaths.isnan()].any()


@pytest.mark.parametrize("n_members", [1, 3])
def test_mixture(entries, n_members):
    counts, prob, rate, _ = entries
    log_ratio, log_dispersion = (logarithms(seed, (n_members, *SHAPE), spread=2.0) for seed in (6, 7))
    log_ratio[:, 3] = log_ratio[0, 3].clone()  # members that agree
    inputs = (log_ratio, log_dispersion, slopes(n_members), rate, counts, prob)
    with torch.no_grad():
        found, exact = molecules_lost(Readout(*inputs)), molecules_lost(Readout(*plain(*inputs)))
    for single, double in zip(found, exact, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("depth", [0.7, 30.0])
def test_dispersion_loss_and_its_gradient(entries, depth, every):
    """Counts of one and of many molecules, with plain sums and series; of all cells, and of some."""
    counts, prob, rate, _ = entries
    n_deaths = torch.poisson(torch.full(SHAPE, depth), generator=generator(9)).masked_fill(prob == 1.0, torch.nan)
    log_ratio, log_dispersion = (logarithms(seed, (1, *SHAPE), spread=1.0) for seed in (6, 7))
    log_dispersion[..., 5, :4] = torch.tensor([*LOG_DISPERSION_RANGE, -100.0, 100.0])
    log_dispersion[..., 3] = 6.9
    slope = slopes(1)
    single, double = ([x.to(dtype).clone().requires_grad_() for x in (log_dispersion, slope)] for dtype in TYPES)
    about = plain(rate, counts, prob)
    weight = torch.rand(SHAPE[0], 1, generator=generator(10))
    found = dispersion_loss(Readout(log_ratio, *single, rate, counts, prob), n_deaths, weight, every=every)
    exact = dispersion_loss(Readout(log_ratio.double(), *double, *about), *plain(n_deaths, weight), every=every)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0.0)
    found.backward()
    exact.backward()
    (low, high), log_rate = LOG_DISPERSION_RANGE, log_ratio.clamp(*LOG_RATIO_RANGE) + rate.log()
    log_r = log_dispersion + slope * log_rate
    inside, beyond = (log_r > low) & (log_r < high), (log_r < low) | (log_r > high)
    torch.testing.assert_close(single[0].grad.double()[inside], double[0].grad[inside], rtol=1e-4, atol=1e-5)
    assert not single[0].grad[beyond].any()  # at a bound either derivative would do
    torch.testing.assert_close(single[1].grad.double(), double[1].grad, rtol=1e-4, atol=1e-4)
    assert single[0].grad.any(2)[0].nonzero().flatten().tolist() == list(range(0, len(counts), every))


def test_loss_of_counts_is_the_sum_of_logarithms(entries):
    counts, prob, rate, dispersion = entries
    counts = counts.masked_fill(prob < 0.4, torch.nan)
    with torch.no_grad():
        found = negative_binomial_loss(counts, rate, dispersion)
    torch.testing.assert_close(
        found.double(), negative_binomial_loss(*plain(counts, rate, dispersion)), rtol=1e-6, atol=0.0
    )


def test_nan_does_not_pass_for_a_bound(entries):
    counts, prob, rate, _ = entries
    log_ratio, log_dispersion = logarithms(6, (2, *SHAPE)), logarithms(7, (2, *SHAPE))
    log_ratio[0, 5, 7], log_dispersion[0, 6, 8] = torch.nan, torch.nan
    with torch.no_grad():
        found, _ = molecules_lost(Readout(log_ratio, log_dispersion, slopes(2), rate, counts, prob))
    assert found.isnan().nonzero().tolist() == [[5, 7], [6, 8]]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("which", ["log_ratio", "log_dispersion"])
def test_a_loss_of_nan_is_nan(entries, which, n_threads):
    counts, prob, rate, _ = entries
    readout = Readout(logarithms(6, (1, *SHAPE)), logarithms(7, (1, *SHAPE)), slopes(1), rate, counts, 0.5 * prob)
    getattr(readout, which)[0, 5, 7] = torch.nan
    readout.log_ratio.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        weight = torch.ones(len(counts), 1)
        loss = mean_loss(readout, counts, weight)
        assert dispersion_loss(readout, counts, weight).isnan()
    finally:
        torch.set_num_threads(before)
    assert loss.isnan()
    loss.backward()
    assert readout.log_ratio.grad[0, 5, 7].isnan() == (which == "log_dispersion")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_for_all_cells_is_one_for_each(entries, dtype):
    counts, prob, rate, _ = (tensor.to(dtype) for tensor in entries)
    read = (tensor.to(dtype) for tensor in (logarithms(6, (1, *SHAPE)), logarithms(7, (1, *SHAPE)), slopes(1)))
    readout = Readout(*read, rate, counts, prob)
    of_one, of_each = (
        mean_loss(readout, counts, weight) for weight in (torch.tensor(2.5), torch.full((len(prob), 1), 2.5))
    )
    assert of_one == of_each
    with pytest.raises(RuntimeError, match="expand"):
        mean_loss(readout, counts, prob)
