"""Simple imputers that see what the model sees: only the observed entries.

Each is called as ``baseline(counts, observed_mask, labels)`` with dense arrays, cells x genes, and returns expected
counts of that shape.
"""

from __future__ import annotations

import numpy as np

#: Weight, in cells, of the overall profile in the profile of a label.
LABEL_PRIOR = 1.0


def zeros(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Nothing was there."""
    return np.zeros(counts.shape, dtype=np.float32)


def gene_mean_x_depth(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    r"""Rank-one rates :math:`d_i \mu_g`, fitted to the observed entries by alternating row and column totals."""
    depth, profile = _fit_rank_one(counts, observed_mask)
    return (depth[:, None] * profile).astype(np.float32)


def label_mean_x_depth(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As :func:`gene_mean_x_depth` within each label, shrunk a little towards the profile of all cells."""
    _, overall = _fit_rank_one(counts, observed_mask)
    imputed = np.empty(counts.shape, dtype=np.float32)
    for label in np.unique(labels):
        cells = labels == label
        depth, profile = _fit_rank_one(counts[cells], observed_mask[cells], prior=overall)
        imputed[cells] = depth[:, None] * profile
    return imputed


def _fit_rank_one(
    counts: np.ndarray, observed_mask: np.ndarray, *, prior: np.ndarray | None = None, n_rounds: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Depths ``(B,)`` and profile ``(G,)``; ``prior`` counts as :data:`LABEL_PRIOR` further cells with that profile."""
    visible = np.where(observed_mask, counts, 0.0)
    weight = 0.0 if prior is None else LABEL_PRIOR
    prior = np.zeros(counts.shape[1]) if prior is None else prior
    depth = np.ones(len(counts))
    for _ in range(n_rounds):
        profile = (visible.sum(axis=0) + weight * prior) / np.maximum(depth @ observed_mask + weight, 1e-9)
        expected = observed_mask @ profile
        depth = np.divide(visible.sum(axis=1), expected, out=np.ones(len(counts)), where=expected > 0)
    return depth, profile
