"""Geometric guidance is a line in the logarithm of the rate. No chance here."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW

from countsdiff_sc.process import geometric_guidance, product_guidance

CONDITIONAL, UNCONDITIONAL = torch.tensor([[0.5, 4.0], [1e-3, 90.0]]), torch.tensor([[2.0, 1.0], [1e-3, 30.0]])

rates = st.floats(1e-6, 1e6)
scales = st.floats(0, 5)


def guide(conditional, unconditional, scale):
    pair = (torch.tensor(rate, dtype=torch.float64) for rate in (conditional, unconditional))
    return geometric_guidance(*pair, scale).item()


def test_scale_one_is_conditional_and_scale_zero_unconditional():
    torch.testing.assert_close(geometric_guidance(CONDITIONAL, UNCONDITIONAL, 1.0), CONDITIONAL)
    torch.testing.assert_close(geometric_guidance(CONDITIONAL, UNCONDITIONAL, 0.0), UNCONDITIONAL)


def test_scale_two_squares_the_ratio():
    guided = geometric_guidance(CONDITIONAL, UNCONDITIONAL, 2.0)
    torch.testing.assert_close(guided, CONDITIONAL**2 / UNCONDITIONAL)


@LAW
@given(conditional=rates, unconditional=rates, low=scales, high=scales)
def test_log_rate_is_linear_in_the_scale(conditional, unconditional, low, high):
    middle = guide(conditional, unconditional, (low + high) / 2)
    ends = guide(conditional, unconditional, low), guide(conditional, unconditional, high)
    assert math.isclose(math.log(middle), (math.log(ends[0]) + math.log(ends[1])) / 2, rel_tol=1e-9, abs_tol=1e-9)


@LAW
@given(conditional=rates, unconditional=rates, scale=scales, factor=st.floats(1e-1, 1e1))
def test_scaling_both_rates_scales_the_guided_one(conditional, unconditional, scale, factor):
    scaled = guide(conditional * factor, unconditional * factor, scale)
    # Rates stay clear of the floor: 1e-7 is above 1e-8.
    assert math.isclose(scaled, factor * guide(conditional, unconditional, scale), rel_tol=1e-9)


@LAW
@given(rate=rates, scale=scales)
def test_agreement_is_left_alone(rate, scale):
    assert math.isclose(guide(rate, rate, scale), rate, rel_tol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_rates_of_zero_stay_finite_forward_and_backward(scale):
    conditional = torch.tensor([0.0, 0.0, 2.0, 2.0], requires_grad=True)
    unconditional = torch.tensor([0.0, 3.0, 0.0, 3.0], requires_grad=True)
    guided = geometric_guidance(conditional, unconditional, scale)
    guided.sum().backward()
    assert torch.isfinite(guided).all()
    assert torch.isfinite(conditional.grad).all()
    assert torch.isfinite(unconditional.grad).all()
    assert guided[0] < 1e-7
    assert (guided >= 0).all()


# --- several conditions ---


@LAW
@given(rate=rates, first=rates, second=rates, scale=scales, other=scales)
def test_each_condition_has_its_own_exponent(rate, first, second, scale, other):
    rate, first, second = (torch.tensor(value, dtype=torch.float64) for value in (rate, first, second))
    guided = product_guidance(rate, [(first, scale), (second, other)])
    expected = math.log(rate) + (scale - 1) * math.log(rate / first) + (other - 1) * math.log(rate / second)
    assert math.isclose(math.log(guided), expected, rel_tol=1e-9, abs_tol=1e-9)


def test_one_condition_is_geometric_guidance_and_none_changes_nothing():
    for scale in (0.0, 0.5, 1.0, 2.5):
        one = product_guidance(CONDITIONAL, [(UNCONDITIONAL, scale)])
        torch.testing.assert_close(one, CONDITIONAL**scale * UNCONDITIONAL ** (1 - scale))
    torch.testing.assert_close(product_guidance(CONDITIONAL, []), CONDITIONAL)


def test_independent_conditions_are_tempered_independently():
    """Rates that are a base times a factor of each condition: the scales become the factors' exponents."""
    base, label, donor = torch.tensor([2.0, 0.5]), torch.tensor([3.0, 0.1]), torch.tensor([0.7, 4.0])
    guided = product_guidance(base * label * donor, [(base * donor, 2.0), (base * label, 0.0)])
    torch.testing.assert_close(guided, base * label**2)
