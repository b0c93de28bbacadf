"""Survival schedules: every one is a survival function on [0, 1], and its rate is its derivative. No chance here."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW

from countsdiff_sc.process import (
    CallableSchedule,
    CosineSchedule,
    FisherInformationSchedule,
    GaussianSchedule,
    LinearBetaSchedule,
    SurvivalSchedule,
    get_schedule,
)

DDPM = torch.cumprod(
    1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0
)  # alphas_cumprod of diffusers' default
SCHEDULES = {
    "cosine": get_schedule("cosine"),
    "blackout": get_schedule("blackout"),
    "jump": get_schedule("jump"),
    "gaussian": GaussianSchedule(DDPM),
    "callable": get_schedule(lambda t: (1 - t) ** 2),
    "open_ends": get_schedule(lambda t: 0.998 - 0.994 * t),  # within the tolerance, to be closed
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
INNER = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000  # between the knots of the table


@every_dtype
@every_schedule
def test_ends_are_exact(schedule, dtype):
    prob = schedule.survival_prob(torch.tensor([0.0, 1.0], dtype=dtype))
    assert prob.tolist() == [1.0, 0.0]
    assert prob.dtype == dtype


@every_schedule
def test_falls_strictly(schedule):
    prob = schedule.survival_prob(torch.linspace(0.0, 1.0, 2001, dtype=torch.float64))
    assert (prob.diff() < 0).all()


@LAW
@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    times=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2).map(sorted),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_later_is_never_more_alive(name, times, dtype):
    earlier, later = SCHEDULES[name].survival_prob(torch.tensor(times, dtype=dtype)).tolist()
    # In single precision neighbouring times may be off by rounding.
    assert 0.0 <= later <= earlier + (1e-6 if dtype == torch.float32 else 1e-12) <= 1.0 + 1e-6


@every_schedule
def test_rate_is_the_derivative_by_autograd(schedule):
    t = INNER.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(schedule.survival_prob(t).sum(), t)
    torch.testing.assert_close(schedule.survival_prob_rate(INNER), derivative, rtol=1e-5, atol=1e-9)


@every_schedule
def test_rate_is_the_derivative_by_differences(schedule):
    step = 1e-6
    slope = (schedule.survival_prob(INNER + step) - schedule.survival_prob(INNER - step)) / (2 * step)
    torch.testing.assert_close(schedule.survival_prob_rate(INNER), slope, rtol=1e-5, atol=1e-8)


@every_dtype
@every_schedule
def test_rate_is_finite_and_never_positive_ends_included(schedule, dtype):
    rate = schedule.survival_prob_rate(torch.linspace(0.0, 1.0, 101, dtype=dtype))
    assert rate.dtype == dtype
    assert torch.isfinite(rate).all()
    assert (rate <= 1e-6).all()


@every_schedule
def test_integral_of_the_rate_is_the_whole_fall(schedule):
    t = torch.linspace(0.0, 1.0, 20001, dtype=torch.float64)
    torch.testing.assert_close(torch.trapezoid(schedule.survival_prob_rate(t), t).item(), -1.0, rtol=0, atol=1e-4)


@every_schedule
def test_shape_is_kept(schedule):
    for shape in [(), (3,), (2, 1, 4)]:
        t = torch.full(shape, 0.3)
        assert schedule.survival_prob(t).shape == schedule.survival_prob_rate(t).shape == shape


def test_cosine_known_values():
    t = torch.tensor([1 / 3, 0.5, 2 / 3], dtype=torch.float64)
    torch.testing.assert_close(CosineSchedule().survival_prob(t), torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64))
    torch.testing.assert_close(CosineSchedule().survival_prob_rate(t)[1].item(), -math.pi / 2)


@pytest.mark.parametrize("t_end", [6.0, 15.0])
def test_blackout_logit_is_linear_in_time_and_ends_on_its_own_clock(t_end):
    schedule = FisherInformationSchedule(t_end=t_end)
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    logit = schedule.curve(t).logit()
    torch.testing.assert_close(logit, torch.lerp(logit[0], logit[-1], t))
    torch.testing.assert_close(schedule.curve(t)[-1].item(), math.exp(-t_end))


def test_blackout_spends_information_evenly_and_symmetrically():
    schedule = get_schedule("blackout")
    prob = schedule.curve(INNER)
    information_rate = schedule.curve_rate(INNER) / (prob * (1 - prob))  # binomial information about p, times dp/dt
    torch.testing.assert_close(information_rate, information_rate[0].expand_as(prob))
    torch.testing.assert_close(schedule.survival_prob(INNER) + schedule.survival_prob(1 - INNER), torch.ones_like(prob))


def test_jump_is_the_square_root_of_a_gaussian_alpha_with_linear_noise_rate():
    schedule = LinearBetaSchedule(end_log_snr=-12.0)
    alpha_bar = schedule.curve(torch.tensor([0.0, 1.0], dtype=torch.float64)).square()
    torch.testing.assert_close(alpha_bar.logit()[-1].item(), -12.0)
    noise_rate = -2 * schedule.curve_rate(INNER) / schedule.curve(INNER)
    torch.testing.assert_close(noise_rate.diff().diff(), torch.zeros_like(INNER)[2:], rtol=0, atol=1e-10)
    torch.testing.assert_close(schedule.curve_rate(torch.zeros(1)).item(), -0.05)


def test_gaussian_table_is_hit_at_its_points():
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(GaussianSchedule(DDPM).curve(t), DDPM)
    torch.testing.assert_close(GaussianSchedule(DDPM.tolist()).survival_prob(t), (DDPM - DDPM[-1]) / (1 - DDPM[-1]))


def test_closing_the_ends_is_affine():
    t = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    torch.testing.assert_close(SCHEDULES["open_ends"].survival_prob(t), 1 - t)


def test_get_schedule_returns_what_was_asked_for():
    assert isinstance(get_schedule("cosine"), CosineSchedule)
    assert isinstance(get_schedule("blackout"), FisherInformationSchedule)
    assert isinstance(get_schedule("jump"), LinearBetaSchedule)
    assert isinstance(get_schedule(lambda t: 1 - t), CallableSchedule)
    own = CosineSchedule()
    assert get_schedule(own) is own
    assert repr(own) == "CosineSchedule()"


@pytest.mark.parametrize("schedule", ["cosin", None, 3])
def test_unknown_schedule(schedule):
    with pytest.raises(ValueError, match=r"is not known\. It must be one of .*'blackout', 'cosine', 'jump'.*callable"):
        get_schedule(schedule)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda t: 0.9 * (1 - t), r"has p\(0\) = 0\.9"),
        (lambda t: 1 - 0.9 * t, r"has p\(1\) = 0\.1"),
        (lambda t: t, r"has p\(0\) = 0"),
        (lambda t: 1 - t + 0.3 * torch.sin(4 * math.pi * t), r"does not decrease at t = 0\.000"),
        (lambda t: (1 - 2 * t).clamp(min=0), r"does not decrease at t = 0\.500"),
        (lambda t: 1.0, "is a float, not a tensor"),
        (lambda t: (1 - t).numpy(), "is a ndarray, not a tensor"),
        (lambda t: (1 - t) * math.nan, "is not one finite number per time"),
        (lambda t: (0.5 - t).sqrt(), "is not one finite number per time"),
        (lambda t: (1 - t)[None], "is not one finite number per time"),
        (lambda t: (1 - t).sum(), "is not one finite number per time"),
    ],
)
def test_callable_that_is_no_survival_function(function, problem):
    with pytest.raises(ValueError, match=f"The survival schedule {problem}.*Rescale"):
        get_schedule(function)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (DDPM[:100], r"has p\(1\) = 0\.8"),
        ([0.7, 0.8, 0.0], "does not decrease at t = 0.333"),
        ([0.7, 0.7, 0.0], "does not decrease at t = 0.333"),
        ([1.0, 0.5, 0.0], "does not decrease at t = 0.000"),
        ([0.7, np.nan, 0.0], "is not one finite number per time"),
        ([], r"has p\(1\) = 1"),
    ],
)
def test_table_that_is_no_survival_function(table, problem):
    with pytest.raises(ValueError, match=f"The survival schedule {problem}"):
        GaussianSchedule(table)


def test_every_schedule_of_the_module_is_under_test():
    assert {type(schedule) for schedule in SCHEDULES.values()} == set(SurvivalSchedule.__subclasses__())


def test_a_schedule_object_is_checked_too():
    with pytest.raises(ValueError, match=r"has p\(0\)"):
        get_schedule(FisherInformationSchedule(t_end=0.8))
