"""Binomial thinning that pays for molecules, not for zeros."""

from __future__ import annotations

import numba
import numpy as np

#: Counts up to this many molecules are thinned molecule by molecule; rarer larger ones by numpy's binomial.
MAX_BY_MOLECULE = 32


def thin_counts(counts: np.ndarray, prob: np.ndarray, *, seed: int) -> np.ndarray:
    r"""Draw :math:`\mathrm{Binomial}(x, p)` for each entry, exactly.

    A zero costs a comparison and a small count as many random words as it has molecules, so that sparse counts are
    thinned several times faster than by a general binomial sampler.

    Parameters
    ----------
    counts
        Whole molecules, floating, shape ``(B, G)``.
    prob
        Probability in ``[0, 1]`` that a molecule is kept, float32, shape ``(B, G)``; may be a broadcast view.
    seed
        Seed, at least 0; the same seed gives the same draws on every machine.

    Returns
    -------
    Thinned counts, same shape and dtype as ``counts``.
    """
    thinned = np.empty(counts.shape, dtype=counts.dtype)
    if _thin_small(counts, prob, np.uint64(seed), thinned):
        large = (counts > MAX_BY_MOLECULE) & (prob > 0.0) & (prob < 1.0)
        rng = np.random.default_rng(seed)
        thinned[large] = rng.binomial(counts[large].astype(np.int64), prob[large].astype(np.float64))
    return thinned


@numba.njit(cache=True, nogil=True)
def _thin_small(counts, prob, state, thinned):
    """Fill ``thinned`` except for large counts; return whether there are any."""
    found_large = False
    for row in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            count, p = counts[row, column], prob[row, column]
            if count == 0.0 or p <= 0.0:
                thinned[row, column] = 0.0
            elif p >= 1.0:
                thinned[row, column] = count
            elif count <= MAX_BY_MOLECULE:
                # A word below p * 2^53, of 53 bits, has probability p to within 2^-53.
                threshold = np.uint64(np.float64(p) * 9007199254740992.0)
                kept = 0
                for _ in range(int(count)):
                    state += np.uint64(0x9E3779B97F4A7C15)  # SplitMix64 (Steele et al. 2014)
                    word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                    word ^= word >> np.uint64(31)
                    kept += (word >> np.uint64(11)) < threshold
                thinned[row, column] = kept
            else:
                found_large = True
    return found_large
