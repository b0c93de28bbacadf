"""The reverse step keeps the marginal law, for every allowed attrition.

Most of it exactly, by enumeration; 14 statistical tests at a false-alarm rate of 1e-4: 0.14% in all, once.
"""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW, assert_law, generator
from scipy import stats

from countsdiff_sc.process import (
    birth_death_step,
    birth_prob,
    capped_attrition,
    get_attrition,
    max_attrition,
    no_attrition,
    rescaled_attrition,
    thin,
)

ATTRITIONS = {
    "none": None,
    "max": "max",
    "capped": capped_attrition(0.2),
    "rescaled": rescaled_attrition(0.7),
    "fraction": 0.3,
    "too_much": lambda p_s, p_t: torch.full_like(p_t, 2.0),  # to be clamped
    "negative": lambda p_s, p_t: torch.full_like(p_t, -1.0),  # to be clamped
}
every_attrition = pytest.mark.parametrize("attrition", ATTRITIONS.values(), ids=ATTRITIONS)
# (p_s, p_t): ordinary, wide, narrow, from nothing, to everything, both, and no step at all.
PAIRS = [
    (0.7, 0.2),
    (0.999, 0.001),
    (0.3, 0.29),
    (0.4, 0.0),
    (1.0, 0.6),
    (1.0, 0.0),
    (0.5, 0.5),
    (1.0, 1.0),
    (0.0, 0.0),
]
every_pair = pytest.mark.parametrize(("p_s", "p_t"), PAIRS)

probs = st.floats(0.0, 1.0, width=32)
prob_pairs = st.lists(probs, min_size=2, max_size=2).map(lambda pair: sorted(pair, reverse=True))


def double(*values):
    return (torch.tensor(value, dtype=torch.float64) for value in values)


def step_probs(attrition, p_s, p_t):
    """Attrition and birth probability of one step, in double precision."""
    p_s, p_t = double(p_s, p_t)
    sigma = get_attrition(attrition)(p_s, p_t)
    return sigma.item(), birth_prob(p_s, p_t, sigma).item()


def binom_pmf(count, prob):
    return stats.binom.pmf(np.arange(count + 1), count, prob)


def step_pmf(x_0, x_t, sigma, beta):
    """P(x_s | x_t, x_0) of one reverse step: survivors plus births."""
    return np.convolve(binom_pmf(x_t, 1 - sigma), binom_pmf(x_0 - x_t, beta))


@every_pair
@every_attrition
def test_marginal_law_is_kept_exactly(attrition, p_s, p_t):
    sigma, beta = step_probs(attrition, p_s, p_t)
    for x_0 in range(7):
        law = binom_pmf(x_0, p_t) @ np.stack([step_pmf(x_0, x_t, sigma, beta) for x_t in range(x_0 + 1)])
        np.testing.assert_allclose(law, binom_pmf(x_0, p_s), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("p_s", "p_t"), [(0.7, 0.2), (0.3, 0.29), (1.0, 0.6)])
def test_without_attrition_the_step_is_the_time_reversal(p_s, p_t):
    sigma, beta = step_probs(None, p_s, p_t)
    for x_0 in range(5):
        for x_t in range(x_0 + 1):
            backward = binom_pmf(x_0, p_t)[x_t] * step_pmf(x_0, x_t, sigma, beta)
            forward = binom_pmf(x_0, p_s) * stats.binom.pmf(x_t, np.arange(x_0 + 1), p_t / p_s)
            np.testing.assert_allclose(backward, forward, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("p_s", "p_t"), [(0.7, 0.2), (1.0, 0.6)])
@every_attrition
def test_marginal_law_is_kept_in_draws(attrition, p_s, p_t):
    p_s, p_t, rng = torch.tensor(p_s), torch.tensor(p_t), generator(1)
    x_0 = torch.full((20_000,), 9.0)
    x_t = thin(x_0, p_t, generator=rng)
    sigma = get_attrition(attrition)(p_s, p_t)
    x_s = birth_death_step(x_t, x_0 - x_t, p_s=p_s, p_t=p_t, attrition=sigma, generator=rng)
    assert_law(x_s, stats.binom(9, float(p_s)))


@every_attrition
def test_last_step_returns_everything(attrition):
    p_s, p_t = torch.tensor(1.0), torch.tensor([0.0, 1e-7, 0.5, 0.999, 1.0])
    sigma = get_attrition(attrition)(p_s, p_t)
    assert torch.equal(sigma, torch.zeros(5))  # at s = 0 nothing may die
    x_t, n_deaths = torch.tensor([0.0, 0.0, 3.0, 7.0, 9.0]), torch.tensor([9.0, 9.0, 6.0, 2.0, 0.0])
    x_s = birth_death_step(x_t, n_deaths, p_s=p_s, p_t=p_t, attrition=sigma)
    assert torch.equal(x_s, torch.full((5,), 9.0))


@LAW
@given(pair=prob_pairs, eta=probs, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_molecule_is_alive_at_s_with_probability_p_s(pair, eta, dtype):
    p_s, p_t = torch.tensor(pair, dtype=dtype)
    for attrition in (no_attrition, max_attrition, capped_attrition(eta), rescaled_attrition(eta)):
        sigma = attrition(p_s, p_t)
        beta = birth_prob(p_s, p_t, sigma)
        assert 0 <= sigma <= 1
        assert 0 <= beta <= 1
        torch.testing.assert_close(p_t * (1 - sigma) + (1 - p_t) * beta, p_s, rtol=0, atol=4 * torch.finfo(dtype).eps)


@LAW
@given(pair=prob_pairs)
def test_maximal_attrition_is_maximal(pair):
    p_s, p_t = double(*pair)
    sigma = max_attrition(p_s, p_t)
    if sigma < 1 and p_t < 1:  # then a larger one would need births with probability above 1
        torch.testing.assert_close(birth_prob(p_s, p_t, sigma).item(), 1.0)


@every_pair
def test_attrition_schedules_are_what_they_say(p_s, p_t):
    p_s, p_t = double(p_s, p_t)
    largest = max_attrition(p_s, p_t)
    assert largest == (min(1.0, (1 - p_s) / p_t) if p_t > 0 else float(p_s < 1))
    assert no_attrition(p_s, p_t) == 0
    assert capped_attrition(0.2)(p_s, p_t) == min(0.2, largest)
    assert rescaled_attrition(0.2)(p_s, p_t) == 0.2 * largest


@every_pair
def test_get_attrition(p_s, p_t):
    p_s, p_t = double(p_s, p_t)
    assert get_attrition(None)(p_s, p_t) == 0
    assert get_attrition("max")(p_s, p_t) == max_attrition(p_s, p_t)
    assert get_attrition(0)(p_s, p_t) == 0
    assert get_attrition(1)(p_s, p_t) == max_attrition(p_s, p_t)
    assert get_attrition(0.3)(p_s, p_t) == rescaled_attrition(0.3)(p_s, p_t)


FRACTIONS = torch.tensor([[0.0, 0.2, 1.0], [0.7, 0.4, 0.1]], dtype=torch.float64)


@every_pair
def test_marginal_law_of_each_entry_is_kept_exactly(p_s, p_t):
    """By enumeration: the attrition of each entry is its own fraction of the maximum."""
    p_s, p_t = double(p_s, p_t)
    sigma = get_attrition(FRACTIONS)(p_s, p_t)
    assert torch.equal(sigma, FRACTIONS * max_attrition(p_s, p_t))
    beta = birth_prob(p_s, p_t, sigma)
    for x_0, entry in product(range(4), np.ndindex(2, 3)):
        pmfs = [step_pmf(x_0, x_t, sigma[entry].item(), beta[entry].item()) for x_t in range(x_0 + 1)]
        law = binom_pmf(x_0, p_t.item()) @ np.stack(pmfs)
        np.testing.assert_allclose(law, binom_pmf(x_0, p_s.item()), rtol=0, atol=1e-12)


@every_pair
def test_a_callable_may_return_anything_and_never_nan(p_s, p_t):
    p_s, p_t = double(p_s, p_t)
    largest = max_attrition(p_s, p_t)
    values = torch.tensor([[-1.0, 0.3, 9.0], [np.nan, np.inf, -np.inf]], dtype=torch.float64)
    clamped = torch.tensor([[0.0, 0.3, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    assert torch.equal(get_attrition(lambda p_s, p_t: values)(p_s, p_t), torch.minimum(clamped, largest))
    assert get_attrition(lambda p_s, p_t: 0.3)(p_s, p_t) == min(0.3, largest.item())  # a plain number
    assert get_attrition(lambda p_s, p_t: (1 - p_s) / p_t * 0)(p_s, p_t) == 0  # 0 / 0 where no molecule is left


@pytest.mark.parametrize("fractions", [[0.5, 1.1], [-0.1, 0.5], [0.5, float("nan")]], ids=str)
def test_fractions_of_entries_out_of_range(fractions):
    with pytest.raises(ValueError, match=r"is not an attrition schedule. .* an array of such fractions.* Pass one"):
        get_attrition(torch.tensor(fractions))


@every_pair
def test_out_of_range_attrition_is_clamped_and_an_allowed_one_is_not(p_s, p_t):
    p_s, p_t = double(p_s, p_t)
    assert get_attrition(ATTRITIONS["too_much"])(p_s, p_t) == max_attrition(p_s, p_t)
    assert get_attrition(ATTRITIONS["negative"])(p_s, p_t) == 0
    assert get_attrition(lambda p_s, p_t: 0.4 * max_attrition(p_s, p_t))(p_s, p_t) == 0.4 * max_attrition(p_s, p_t)


@pytest.mark.parametrize("attrition", [-0.1, 1.1, float("nan"), "maximal", "0.5", [0.5]], ids=str)
def test_no_attrition_schedule(attrition):
    with pytest.raises(ValueError, match="is not an attrition schedule. It must be None, 'max', a fraction"):
        get_attrition(attrition)


def test_each_entry_may_have_its_own_probabilities():
    p_t, p_s = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [0.0]])  # observed cell, untouched cell
    x_t, n_deaths = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [5.0, 6.0]])
    x_s = birth_death_step(x_t, n_deaths, p_s=p_s, p_t=p_t, attrition=max_attrition(p_s, p_t))
    assert torch.equal(x_s, x_t)


def test_generator_decides_everything():
    p_s, p_t, state = torch.tensor(0.6), torch.tensor(0.3), torch.get_rng_state()
    x_t = n_deaths = torch.full((100,), 50.0)

    def step(seed):
        return birth_death_step(x_t, n_deaths, p_s=p_s, p_t=p_t, attrition=p_t, generator=generator(seed))

    assert torch.equal(step(2), step(2))
    assert not torch.equal(step(2), step(3))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("attrition", [capped_attrition, rescaled_attrition])
@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_is_a_fraction(attrition, eta):
    with pytest.raises(ValueError, match="eta=.*out of range"):
        attrition(eta)
