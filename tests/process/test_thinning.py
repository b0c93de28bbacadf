"""Thinning keeps each molecule on its own. 19 statistical tests at a false-alarm rate of 1e-4: 0.2% in all, once."""

import pytest
import torch
from laws import ALPHA, assert_law, assert_mean, generator, p_value
from scipy import stats

from countsdiff_sc.process import thin

N_DRAWS = 20_000


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("prob", [0.03, 0.5, 0.9])
def test_law_is_binomial(count, prob):
    draws = thin(torch.full((N_DRAWS,), float(count)), torch.tensor(prob), generator=generator(1))
    assert_law(draws, stats.binom(count, prob))


def test_the_chi_square_test_tells_neighbouring_laws_apart():
    draws = thin(torch.full((N_DRAWS,), 5.0), torch.tensor(0.5), generator=generator(1))
    assert p_value(draws, stats.binom(5, 0.52)) < ALPHA
    assert p_value(draws + 0.5, stats.binom(5, 0.5)) == 0.0  # not integers
    assert p_value(draws + 1, stats.binom(5, 0.5)) == 0.0  # six of five


def test_each_entry_has_its_own_count_and_probability():
    counts, probs = torch.tensor([0.0, 2.0, 9.0]), torch.tensor([0.7, 0.1, 0.8])
    draws = thin(counts.expand(N_DRAWS, 3), probs, generator=generator(2))
    for gene in range(3):
        assert_law(draws[:, gene], stats.binom(int(counts[gene]), float(probs[gene])))


def test_entries_are_independent():
    first, second = thin(torch.full((N_DRAWS, 2), 3.0), torch.tensor(0.4), generator=generator(3)).unbind(1)
    assert_law(first + second, stats.binom(6, 0.4))


@pytest.mark.parametrize(("first", "second"), [(0.9, 0.5), (0.3, 0.7)])
def test_thinning_twice_is_thinning_by_the_product(first, second):
    rng = generator(4)
    once = thin(torch.full((N_DRAWS,), 8.0), torch.tensor(first), generator=rng)
    assert_law(thin(once, torch.tensor(second), generator=rng), stats.binom(8, first * second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_certain_survival_and_death_are_exact(dtype):
    counts = torch.tensor([[0.0, 1.0, 7.0, 1e6, 2.0**24 - 1]], dtype=dtype)
    assert torch.equal(thin(counts, torch.ones((), dtype=dtype)), counts)
    assert torch.equal(thin(counts, torch.zeros((), dtype=dtype)), torch.zeros_like(counts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0, 3)])
def test_shape_and_dtype_are_kept(shape, dtype):
    thinned = thin(torch.ones(shape, dtype=dtype), torch.tensor(0.5, dtype=dtype))
    assert (thinned.shape, thinned.dtype) == (shape, dtype)


def test_one_probability_per_cell_is_broadcast_over_genes():
    counts = torch.full((2, 3), 5.0)
    assert torch.equal(thin(counts, torch.tensor([[1.0], [0.0]])), torch.tensor([[5.0] * 3, [0.0] * 3]))


def test_input_is_left_alone():
    counts = torch.full((5,), 9.0)
    thin(counts, torch.tensor(0.5))
    assert torch.equal(counts, torch.full((5,), 9.0))


def test_generator_decides_everything():
    counts, prob, state = torch.full((100,), 50.0), torch.tensor(0.5), torch.get_rng_state()
    draws = thin(counts, prob, generator=generator(5))
    assert torch.equal(draws, thin(counts, prob, generator=generator(5)))
    assert not torch.equal(draws, thin(counts, prob, generator=generator(6)))
    assert torch.equal(state, torch.get_rng_state())  # the global generator was not touched


@pytest.mark.parametrize("prob", [0.001, 0.5])
def test_large_counts_keep_mean_and_variance(prob):
    mean, variance = 1e6 * prob, 1e6 * prob * (1 - prob)
    draws = thin(torch.full((N_DRAWS,), 1e6, dtype=torch.float64), torch.tensor(prob).double(), generator=generator(7))
    assert_mean(draws, float(torch.tensor(prob)) * 1e6)
    assert_mean((draws - mean) ** 2, variance)
