"""Simple imputers that see what the model sees: only the observed entries.

Each is called as ``baseline(counts, observed_mask, labels)`` with matrices, cells x genes, and returns expected counts, a dense
array of that shape. Hidden counts may be anything, NaN too.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from ._inputs import check_labels, visible_counts
from ._rank_one import fit_rank_one

#: Weight, in cells of average depth, of the overall profile in the profile of a neighbourhood.
NEIGHBOUR_PRIOR = 2.0
#: Prior molecules of a gene in a factor of low rank.
GENE_PRIOR = 3.0


def zeros(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Nothing was there."""
    return np.zeros(counts.shape, dtype=np.float32)


def gene_mean_x_depth(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    r"""Rank-one rates :math:`d_i \mu_g`, fitted to the observed entries by alternating row and column totals."""
    depth, profile = fit_rank_one(*visible_counts(counts, observed_mask))
    return (depth[:, None] * profile).astype(np.float32)


def label_mean_x_depth(counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As :func:`gene_mean_x_depth` within each label, shrunk a little towards the profile of all cells."""
    visible, observed = visible_counts(counts, observed_mask)
    labels = check_labels(labels, len(visible))
    _, overall = fit_rank_one(visible, observed)
    imputed = np.empty(visible.shape, dtype=np.float32)
    for label in np.unique(labels):
        cells = labels == label
        depth, profile = fit_rank_one(visible[cells], observed[cells], prior=overall)
        imputed[cells] = depth[:, None] * profile
    return imputed


def nearest_neighbours(
    counts: np.ndarray,
    observed_mask: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    n_neighbours: int = 50,
    n_components: int = 15,
    n_rounds: int = 3,
) -> np.ndarray:
    """Mean of the neighbours' visible counts, over their visible depth, at the cell's own depth.

    Neighbours are found by principal components of ``log1p`` of twice the depth-scaled counts; the missing entries hold the
    gene means at first and the last round's result afterwards.

    Parameters
    ----------
    counts, observed_mask
        Counts (molecules) and where they are known, cells x genes.
    labels
        Not used.
    n_neighbours, n_components
        Neighbours of a cell, itself included, and components.
    n_rounds
        Rounds of search and fill.
    """
    visible, observed = visible_counts(counts, observed_mask)
    depth, profile = fit_rank_one(visible, observed)
    depth = np.maximum(depth, 1e-6)[:, None]
    exposure, rate = depth * observed, np.broadcast_to(profile, visible.shape)
    n_neighbours, n_components = min(n_neighbours, len(visible)), min(n_components, *visible.shape)
    for _ in range(n_rounds):
        filled = np.log1p(2.0 * np.where(observed, visible / depth, rate))
        latent = PCA(n_components, random_state=0).fit_transform(filled)
        graph = NearestNeighbors(n_neighbors=n_neighbours).fit(latent).kneighbors_graph(latent)
        rate = (graph @ visible + NEIGHBOUR_PRIOR * profile) / (graph @ exposure + NEIGHBOUR_PRIOR)
    return (depth * rate).astype(np.float32)


def low_rank(
    counts: np.ndarray,
    observed_mask: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    rank: int = 8,
    prior: float = 0.5,
    shrinkage: float = 0.0,
    n_rounds: int = 100,
    seed: int = 0,
) -> np.ndarray:
    r"""Poisson factorisation :math:`d_i \mu_g \sum_k w_{ik} h_{kg}` of the observed entries.

    Gamma priors have modes :math:`w_{ik} = 1/K` and :math:`h_{kg} = 1`, which make a cell a scaled mean profile. Fitted by the
    expectation-maximisation (multiplicative) updates of the posterior mode (Lee & Seung 1999; Cemgil 2009).

    Parameters
    ----------
    counts, observed_mask
        Counts (molecules) and where they are known, cells x genes.
    labels
        Not used.
    rank
        Number of factors.
    prior
        Prior molecules of each factor in a cell; more of them suit cells of which little is visible.
    shrinkage
        Rate of a further, exponential prior of the factors in a cell. It sets many to 0, and makes all too small: on the whole too
        few molecules are expected of cells of which little is visible, while errors of ``log1p`` may be lower.
    n_rounds
        Rounds of updates.
    seed
        Seed of the starting point.
    """
    visible, observed = visible_counts(counts, observed_mask)
    depth, profile = fit_rank_one(visible, observed)
    expected = (depth[:, None] * np.maximum(profile, 1e-9)).astype(np.float32)
    exposure = expected * observed
    rng = np.random.default_rng(seed)
    cells = rng.gamma(2.0, 0.5, (len(visible), rank)).astype(np.float32) / rank
    genes = rng.gamma(2.0, 0.5, (rank, visible.shape[1])).astype(np.float32)

    def ratio() -> np.ndarray:
        return visible / np.maximum(cells @ genes, 1e-9)

    for _ in range(n_rounds):
        # What is visible, shared out over the factors, with the molecules of the prior beside it.
        cells = (cells * (ratio() @ genes.T) + prior) / np.maximum(exposure @ genes.T + prior * rank + shrinkage, 1e-9)
        genes = (genes * (cells.T @ ratio()) + GENE_PRIOR) / (cells.T @ exposure + GENE_PRIOR)
    return expected * (cells @ genes)
