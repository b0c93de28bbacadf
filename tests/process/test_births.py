"""How the molecules lost are drawn. 14 statistical tests at a false-alarm rate of 1e-4: 0.14% in all, once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import LAW, assert_law, assert_mean, generator, nb
from scipy import stats

from countsdiff_sc.process import (
    get_birth_rule,
    nearest_births,
    negative_binomial_births,
    poisson_births,
    stochastic_births,
)

RULES = {
    "negative_binomial": negative_binomial_births,
    "poisson": poisson_births,
    "stochastic": stochastic_births,
    "nearest": nearest_births,
}
every_rule = pytest.mark.parametrize("name", RULES)


def draw(name, mean, dispersion=1.11, *, n_draws=20_000, seed=1):
    shape = (n_draws, *torch.as_tensor(mean).shape)
    mean, dispersion = (torch.as_tensor(value, dtype=torch.float32).expand(shape) for value in (mean, dispersion))
    return get_birth_rule(name)(mean, dispersion, generator(seed))


@pytest.mark.parametrize(("mean", "dispersion"), [(3.7, 1.11), (0.05, 0.3), (0.4, 50.0), (40.0, 7.0)])
def test_negative_binomial_law(mean, dispersion):
    assert_law(draw("negative_binomial", mean, dispersion), nb(mean, dispersion))


def test_negative_binomial_of_each_entry():
    means, dispersions = [0.5, 8.0, 2.0], [3.0, 0.6, 1e6]
    draws = draw("negative_binomial", means, dispersions)
    for gene, law in enumerate([nb(0.5, 3.0), nb(8.0, 0.6), stats.poisson(2.0)]):
        assert_law(draws[:, gene], law)


@pytest.mark.parametrize("mean", [0.05, 3.7, 40.0])
def test_poisson_law_ignores_the_dispersion(mean):
    assert_law(draw("poisson", mean, 0.01), stats.poisson(mean))


@pytest.mark.parametrize("mean", [0.05, 0.5, 3.7, 40.25])
def test_stochastic_rounding_is_unbiased_and_never_off_by_one(mean):
    draws = draw("stochastic", mean)
    assert set(draws.tolist()) == {mean // 1, mean // 1 + 1}
    assert_mean(draws, mean)


@LAW
@given(mean=st.floats(0, 2**20, width=32))
def test_nearest_is_nearest(mean):
    (births,) = draw("nearest", mean, n_draws=1)
    assert births == births.round()
    assert abs(births - mean) <= 0.5


@pytest.mark.parametrize("name", ["stochastic", "nearest"])
def test_whole_numbers_stay(name):
    whole = torch.arange(100.0)
    assert torch.equal(get_birth_rule(name)(whole, torch.ones(100), generator()), whole)


@every_rule
def test_nothing_expected_nothing_born(name):
    assert not draw(name, 0.0, n_draws=1000).any()


@every_rule
def test_births_are_counts_of_the_same_shape_and_dtype(name):
    for dtype in (torch.float32, torch.float64):
        mean = torch.linspace(0.0, 9.0, 12, dtype=dtype).reshape(3, 4)
        births = RULES[name](mean, torch.ones_like(mean), generator())
        assert (births.shape, births.dtype) == (mean.shape, dtype)
        assert torch.equal(births, births.floor())
        assert (births >= 0).all()


@every_rule
def test_generator_decides_everything(name):
    state = torch.get_rng_state()
    assert torch.equal(draw(name, 7.3), draw(name, 7.3))
    assert torch.equal(draw(name, 7.3), draw(name, 7.3, seed=2)) == (name == "nearest")
    assert torch.equal(state, torch.get_rng_state())


@every_rule
def test_rules_go_by_their_names(name):
    assert get_birth_rule(name) is RULES[name]


def test_a_callable_is_its_own_rule():
    def own(mean, dispersion, generator):
        return mean.ceil()

    mean = torch.tensor([[0.3, 2.0]])
    assert get_birth_rule(own)(mean, torch.ones(1, 2), None).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("wrong", [0.5, -1.0, float("nan")])
def test_what_a_callable_returns_must_be_counts(wrong):
    rule = get_birth_rule(lambda *_: torch.tensor([[1.0, wrong]]))
    with pytest.raises(ValueError, match=f"births returned 1 values that are not counts .first: {wrong:g}"):
        rule(torch.ones(1, 2), torch.ones(1, 2), None)


@pytest.mark.parametrize("births", ["nb", "", None, 2])
def test_unknown_rule(births):
    with pytest.raises(
        ValueError, match=r"is not known\. It must be one of \['nearest', 'negative_binomial', .*callable"
    ):
        get_birth_rule(births)


@pytest.mark.parametrize(("mean", "shape"), [(float("nan"), 1.0), (1.0, float("nan")), (float("inf"), 1.0), (1.0, 0.0)])
def test_a_law_that_is_none_is_not_drawn_from(mean, shape):
    law = torch.full((2, 30), 0.5), torch.ones(2, 30)
    law[0][1, 2], law[1][1, 2] = mean, shape
    for part in law:  # for a zero may be drawn before the law is looked at
        part[1] = part[1, 2]
    with pytest.raises(ValueError, match="predicted laws are not finite.*at cell 1 of a block"):
        negative_binomial_births(*law, generator(1))


@every_rule
@pytest.mark.parametrize("mean", [float("nan"), float("inf"), 2.0**25])
def test_no_rule_makes_counts_of_what_is_no_law(name, mean):
    """Thinning makes a small count of NaN, which looks like any other."""
    with pytest.raises(ValueError, match=r"2 predicted laws are not finite.*Lower guidance_scale"):
        draw(name, [1.0, mean], n_draws=2)
