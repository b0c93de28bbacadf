"""Random words, a stream for each row, so that draws do not depend on how rows are shared out over threads."""

from __future__ import annotations

import numba
import numpy as np

# SplitMix64 (Steele et al. 2014): a counter that is stepped by GAMMA and scrambled.
GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
#: Turns the upper 53 bits of a word into a double in [0, 1).
TO_UNIT = 2.0**-53


# numba caches a loop by the file it stands in: after a change here, loops of other files are compiled anew only once their
# caches (*.nbi in __pycache__) are deleted.


@numba.njit(inline="always")
def scrambled(state):
    """A random word from a counter."""
    word = (state ^ (state >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


@numba.njit(inline="always")
def stream(seed, row):
    """Counter at which the words of a row start: far from those of other rows and seeds but by a rare chance."""
    return scrambled(seed ^ scrambled(np.uint64(row) * GAMMA))


@numba.njit(inline="always")
def fill_uniform(start, numbers):
    """Fill a row with multiples of 2^-24, two of each word of the stream that starts there."""
    unit = np.float32(2.0**-24)
    # A word depends on its position alone, so that the compiler can make several at once.
    for pair in range(len(numbers) // 2):
        word = scrambled(start + np.uint64(pair) * GAMMA)
        numbers[2 * pair] = np.float32(word >> np.uint64(40)) * unit
        numbers[2 * pair + 1] = np.float32((word >> np.uint64(8)) & np.uint64(0xFFFFFF)) * unit
    if len(numbers) % 2:
        word = scrambled(start + np.uint64(len(numbers) // 2) * GAMMA)
        numbers[len(numbers) - 1] = np.float32(word >> np.uint64(40)) * unit
