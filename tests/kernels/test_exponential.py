"""The exponential function of compiled loops against numpy's in double precision."""

import numba
import numpy as np

from countsdiff_sc.kernels._exponential import exponential


@numba.njit
def exponentials(x, out):
    for index in range(len(x)):
        out[index] = exponential(x[index])


def test_relative_error_over_the_whole_range():
    x = np.linspace(-87.0, 88.0, 1_000_001, dtype=np.float32)
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_allclose(out, np.exp(x.astype(np.float64)), rtol=3e-7, atol=0.0)


def test_zero_is_exact_and_nan_stays_nan():
    out = np.empty(2, dtype=np.float32)
    exponentials(np.array([0.0, np.nan], dtype=np.float32), out)
    assert out[0] == 1.0
    assert np.isnan(out[1])
