"""Where the few entries of a row are that need more work than the others."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(inline="always")
def find_places(flags, places):
    """Put the places of the flags that are set into ``places``, in order; return how many there are.

    The caller sets the flags, in a loop of their own, which is compiled to vectors. This one has no branch: which flags are set
    cannot be predicted, and a wrong guess costs more than ten entries. Places are unsigned, since of other indices numba asks each
    time whether they count from the end.
    """
    n_found = np.uint64(0)
    for place in range(len(flags)):
        places[n_found] = place
        n_found += np.uint64(flags[place])
    return n_found
