"""The depth of each cell times the profile of all: what baselines start from, and rivals are scaled by."""

from __future__ import annotations

import numpy as np

#: Weight, in cells, of the overall profile in the profile of a label.
LABEL_PRIOR = 1.0


def fit_rank_one(
    visible: np.ndarray, observed: np.ndarray, *, prior: np.ndarray | None = None, n_rounds: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Depths ``(B,)`` and profile ``(G,)``, Poisson maximum likelihood up to rounds.

    Parameters
    ----------
    visible, observed
        Counts (molecules), 0 where they are hidden, and where they are known, shape ``(B, G)``.
    prior
        Profile that counts as :data:`LABEL_PRIOR` further cells.
    n_rounds
        How often profile and depths are fitted to each other.
    """
    weight = 0.0 if prior is None else LABEL_PRIOR
    prior = np.zeros(visible.shape[1]) if prior is None else prior
    depth = np.ones(len(visible))
    for _ in range(n_rounds):
        profile = (visible.sum(axis=0) + weight * prior) / np.maximum(depth @ observed + weight, 1e-9)
        expected = observed @ profile
        depth = np.divide(visible.sum(axis=1), expected, out=np.ones(len(visible)), where=expected > 0)
    return depth, profile
