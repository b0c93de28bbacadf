"""Elementary functions of compiled loops against numpy's in double precision."""

import numba
import numpy as np
import pytest

from countsdiff_sc.kernels._elementary import exponential, log1p, logarithm


@numba.njit
def exponentials(x, out):
    for index in range(len(x)):
        out[index] = exponential(x[index])


@numba.njit
def logarithms_of_one_more(x, out):
    for index in range(len(x)):
        out[index] = log1p(x[index])


@numba.njit(fastmath={"contract"})
def contracted_logarithms_of_one_more(x, out):
    for index in range(len(x)):
        out[index] = log1p(x[index])


@numba.njit(fastmath={"contract", "reassoc"})
def logarithms(x, out):
    for index in range(len(x)):
        out[index] = logarithm(x[index])


def computed(loop, x):
    out = np.empty_like(x)
    loop(x, out)
    return out


def test_exponential_over_the_whole_range():
    x = np.linspace(-87.0, 88.0, 1_000_001, dtype=np.float32)
    np.testing.assert_allclose(computed(exponentials, x), np.exp(x.astype(np.float64)), rtol=3e-7, atol=0.0)


def test_logarithm_from_the_least_to_the_largest_numbers():
    exponents = np.geomspace(1.2e-38, 1e37, 1_000_001, dtype=np.float32)
    x = np.concatenate([exponents, np.linspace(0.5, 2.0, 1_000_001, dtype=np.float32)])
    np.testing.assert_allclose(computed(logarithms, x), np.log(x.astype(np.float64)), rtol=3e-7, atol=3e-7)


def test_logarithm_of_next_to_nothing_is_that_of_the_least_number():
    found = computed(logarithms, np.array([0.0, 1e-42, np.finfo(np.float32).tiny], dtype=np.float32))
    np.testing.assert_allclose(found, np.log(np.finfo(np.float32).tiny), rtol=1e-6)


@pytest.mark.parametrize("loop", [logarithms_of_one_more, contracted_logarithms_of_one_more])
def test_logarithm_of_one_more_from_the_least_to_the_largest_numbers(loop):
    exponents = np.geomspace(1e-37, 1e37, 1_000_001, dtype=np.float32)
    x = np.concatenate([exponents, np.linspace(0.0, 8.0, 1_000_001, dtype=np.float32)])
    np.testing.assert_allclose(computed(loop, x), np.log1p(x.astype(np.float64)), rtol=3e-7, atol=0.0)


@pytest.mark.parametrize(
    ("loop", "at_zero"),
    [(exponentials, 1.0), (logarithms_of_one_more, 0.0), (contracted_logarithms_of_one_more, 0.0)],
)
def test_zero_is_exact_and_nan_stays_nan(loop, at_zero):
    found = computed(loop, np.array([0.0, np.nan], dtype=np.float32))
    assert found[0] == at_zero
    assert np.isnan(found[1])
