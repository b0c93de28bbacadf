"""How long and with how much weight decay to train by default (measured in ``docs/decisions.md``)."""

from __future__ import annotations

import math

#: Decay of AdamW where all entries are observed.
WEIGHT_DECAY = 0.05
#: Where less is observed the decay is what it is here.
LEAST_FRACTION = 0.1


def default_max_epochs(n_molecules: float, n_train: int, observed_fraction: float = 1.0) -> int:
    """Epochs that show a network ``90 sqrt(n_molecules) / observed_fraction ** 0.75`` cells, and at least 40,000.

    The less of each cell is observed the noisier is what a step learns from it.
    """
    n_cells = max(90.0 * math.sqrt(n_molecules) / observed_fraction**0.75, 40_000.0)
    return math.ceil(n_cells / n_train)


def default_weight_decay(observed_fraction: float) -> float:
    """Decay that grows as less of each cell is observed, and noise is what weights would learn: 0.05 to 0.71."""
    return WEIGHT_DECAY / max(observed_fraction, LEAST_FRACTION) ** 1.15
