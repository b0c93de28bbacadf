"""Count matrices as they come: dense, sparse or backed; read in blocks of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from scipy import sparse

#: Cells held in memory at a time when a whole matrix is read.
BLOCK_SIZE = 4096


@dataclass(frozen=True)
class CountMatrix:
    """Where one registered count matrix lives.

    Parameters
    ----------
    adata
        The AnnData that holds it (one modality of a MuData).
    layer
        Layer name, or None for ``X``.
    mask_layer
        Layer with the registered observed mask, or None.
    registry_key
        scvi-tools registry key of the matrix.
    modality
        Name of the modality in the MuData, or None.
    """

    adata: AnnData
    layer: str | None
    mask_layer: str | None
    registry_key: str
    modality: str | None = None

    @property
    def values(self):
        """The matrix itself."""
        return self.adata.X if self.layer is None else self.adata.layers[self.layer]

    @property
    def observed_mask(self):
        """The registered mask, or None."""
        return None if self.mask_layer is None else self.adata.layers[self.mask_layer]

    @property
    def holder(self) -> str:
        """How a user would write the AnnData that holds it."""
        return "adata" if self.modality is None else f"mdata.mod[{self.modality!r}]"

    @property
    def location(self) -> str:
        """How a user would write it."""
        return f"{self.holder}.X" if self.layer is None else f"{self.holder}.layers[{self.layer!r}]"


def row_blocks(matrix, block_size: int = BLOCK_SIZE) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
    """Yield ``(first_row, rows)`` of a dense, sparse or backed matrix, a block of cells at a time."""
    for first in range(0, matrix.shape[0], block_size):
        rows = matrix[first : first + block_size]
        yield first, sparse.csr_matrix(rows) if sparse.issparse(rows) else np.asarray(rows)


def stored_values(rows: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """The explicitly stored values: all of a dense block, the non-zeros of a sparse one."""
    return rows.data if sparse.issparse(rows) else rows


def dense(rows) -> np.ndarray:
    """A block as a dense array."""
    return rows.toarray() if sparse.issparse(rows) else np.asarray(rows)


@dataclass(frozen=True)
class Reference:
    """What the training data fix before training, for one count matrix.

    Parameters
    ----------
    mean_profile
        Mean count of each gene in a cell of average depth (molecules), shape ``(G,)``, positive.
    depth_concentration
        Shape of the Gamma law of depths with mean 1: one over their squared coefficient of variation.
    n_molecules
        Molecules in all observed entries.
    n_observed
        Number of observed entries.
    never_observed
        Whether a gene is observed in no cell, shape ``(G,)``.
    """

    mean_profile: np.ndarray
    depth_concentration: float
    n_molecules: float
    n_observed: float
    never_observed: np.ndarray


def estimate_reference(matrix: CountMatrix, *, n_rounds: int = 3) -> Reference:
    r"""Mean profile and spread of depth from the observed entries alone.

    Solves :math:`E[x_{ig}] = d_i \mu_g` over observed entries by alternating row and column totals; where nothing is
    missing the first round is already exact. Cells in which nothing was observed say nothing about either. A gene without
    molecules gets half a molecule in the whole data set, so that its rate stays positive, and one that is never observed the
    mean of the others.
    """
    n_obs, n_genes = matrix.values.shape
    depth = np.ones(n_obs)
    for _ in range(n_rounds):
        gene_total, gene_exposure, gene_observed = np.zeros((3, n_genes))
        for first, counts, known in _known_blocks(matrix):
            cells = slice(first, first + counts.shape[0])
            gene_total += np.asarray(counts.sum(axis=0)).ravel()
            gene_exposure += depth[cells].sum() if known is None else depth[cells] @ known
            gene_observed += counts.shape[0] if known is None else known.sum(axis=0)
        profile, never_observed = np.maximum(gene_total, 0.5) / np.maximum(gene_exposure, 1.0), gene_observed == 0
        if not never_observed.all():
            profile[never_observed] = profile[~never_observed].mean()
        cell_total, cell_exposure = np.zeros((2, n_obs))
        for first, counts, known in _known_blocks(matrix):
            cells = slice(first, first + counts.shape[0])
            cell_total[cells] = np.asarray(counts.sum(axis=1)).ravel()
            cell_exposure[cells] = profile.sum() if known is None else known @ profile
        measured = cell_exposure > 0
        depth[measured] = cell_total[measured] / cell_exposure[measured]
        scale = depth[measured].mean() if depth[measured].any() else 1.0
        depth[measured] /= scale
        depth[~measured] = 1.0
    concentration = float(1.0 / max(depth[measured].var() if measured.any() else 1.0, 1e-3))
    profile = (scale * profile).astype(np.float32)
    return Reference(profile, concentration, float(gene_total.sum()), float(gene_observed.sum()), never_observed)


def _known_blocks(matrix: CountMatrix) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix, np.ndarray | None]]:
    """Yield ``(first_row, counts, known)`` with 0 for unknown counts; ``known`` is None where all are known."""
    masks = None if matrix.mask_layer is None else row_blocks(matrix.observed_mask)
    for first, rows in row_blocks(matrix.values):
        known = None if masks is None else dense(next(masks)[1]) > 0
        if np.isnan(stored_values(rows)).any():
            measured = ~np.isnan(dense(rows))
            known = measured if known is None else known & measured
        yield first, (rows if known is None else np.where(known, np.nan_to_num(dense(rows)), 0.0)), known
