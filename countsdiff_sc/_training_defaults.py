"""How long to train by default (measured in ``docs/decisions.md``)."""

from __future__ import annotations

import math


def default_max_epochs(n_molecules: float, n_train: int, observed_fraction: float = 1.0) -> int:
    """Epochs that show a network ``90 sqrt(n_molecules) / observed_fraction ** 0.75`` cells, and at least 40,000.

    The less of each cell is observed the noisier is what a step learns from it.
    """
    n_cells = max(90.0 * math.sqrt(n_molecules) / observed_fraction**0.75, 40_000.0)
    return math.ceil(n_cells / n_train)
