"""Count matrices as they come: dense, sparse or backed; read in blocks of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from anndata import AnnData
from scipy import sparse

#: Entries held in memory at a time when a whole matrix is read.
BLOCK_ENTRIES = 2**22


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


def row_blocks(matrix) -> Iterator[tuple[int, np.ndarray | sparse.csr_matrix]]:
    """Yield ``(first_row, rows)`` of a dense, sparse or backed matrix, a block of cells at a time."""
    block_size = max(1, BLOCK_ENTRIES // max(matrix.shape[1], 1))
    for first in range(0, matrix.shape[0], block_size):
        rows = matrix[first : first + block_size]
        yield first, sparse.csr_matrix(rows) if sparse.issparse(rows) else np.asarray(rows)


def stored_values(rows: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """The explicitly stored values: all of a dense block, the non-zeros of a sparse one."""
    return rows.data if sparse.issparse(rows) else np.asarray(rows)


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
    n_zeros_and_ones
        How many of these are 0, and 1.
    never_observed
        Whether a gene is observed in no cell, shape ``(G,)``.
    cell_totals
        Observed molecules of each cell, shape ``(n_obs,)``.
    """

    mean_profile: np.ndarray
    depth_concentration: float
    n_molecules: float
    n_observed: float
    n_zeros_and_ones: tuple[int, int]
    never_observed: np.ndarray
    cell_totals: np.ndarray


#: Rounds in which profile and depths are fitted to each other, at most, and the relative change that ends them. Where nothing is
#: missing two are enough; where batches have few genes in common it takes dozens.
_MAX_ROUNDS, _TOLERANCE = 100, 1e-4


def estimate_reference(matrix: CountMatrix) -> Reference:
    r"""Mean profile and spread of depth from the observed entries alone.

    Solves :math:`E[x_{ig}] = d_i \mu_g` over observed entries by alternating row and column totals, the maximum likelihood of
    Poisson counts. Cells in which nothing was observed say nothing about either. A gene without molecules gets half a molecule
    in all the cells that it is observed in, or in an average one where they are less, so that its rate stays positive. One that
    is never observed gets the mean of the others.
    """
    n_obs, n_genes = matrix.values.shape
    cell_total, gene_total, n_observed = np.zeros(n_obs), np.zeros(n_genes), np.zeros(n_genes)
    n_positive = n_ones = 0
    patterns = []  # bits, of which the rounds read every one several times
    for cells, rows, known in _known_blocks(matrix):
        counts = rows if known is None else np.where(known, np.nan_to_num(dense(rows)), 0.0)
        gene_total += np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
        cell_total[cells] = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        n_observed += counts.shape[0] if known is None else known.sum(axis=0)
        n_positive += int(np.count_nonzero(stored_values(counts)))
        n_ones += int(np.count_nonzero(stored_values(counts) == 1))
        patterns.append((cells, None if known is None else np.packbits(known, axis=1)))

    def known_blocks() -> Iterator[tuple[slice, np.ndarray | None]]:
        for cells, bits in patterns:
            yield cells, None if bits is None else np.unpackbits(bits, axis=1, count=n_genes).astype(np.float32)

    depth, profile = np.ones(n_obs), np.zeros(n_genes)
    for _ in range(_MAX_ROUNDS):
        gene_exposure, cell_exposure, before = np.zeros(n_genes), np.zeros(n_obs), profile
        for cells, known in known_blocks():
            gene_exposure += depth[cells].sum() if known is None else depth[cells].astype(np.float32) @ known
        profile = _profile(gene_total, gene_exposure, n_observed == 0)
        for cells, known in known_blocks():
            cell_exposure[cells] = profile.sum() if known is None else known @ profile.astype(np.float32)
        measured = cell_exposure > 0
        depth[measured] = cell_total[measured] / cell_exposure[measured]
        scale = depth[measured].mean() if depth[measured].any() else 1.0
        depth[measured] /= scale
        depth[~measured] = 1.0
        profile = scale * profile
        if np.abs(profile - before).sum() <= _TOLERANCE * profile.sum():
            break
    concentration = float(1.0 / max(depth[measured].var() if measured.any() else 1.0, 1e-3))
    n_molecules, never_observed = float(gene_total.sum()), n_observed == 0
    n_zeros = int(n_observed.sum()) - n_positive
    return Reference(
        profile.astype(np.float32),
        concentration,
        n_molecules,
        float(n_observed.sum()),
        (n_zeros, n_ones),
        never_observed,
        cell_total,
    )


def totals_by_group(matrix: CountMatrix, codes: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Molecules, and observed entries, of each gene in each group of cells, shape ``(n_groups, G)``.

    Parameters
    ----------
    matrix
        The counts.
    codes
        Group of each cell, from 0, shape ``(n_obs,)``.
    n_groups
        Number of groups.
    """
    molecules, n_observed = np.zeros((2, n_groups, matrix.values.shape[1]))
    for cells, rows, known in _known_blocks(matrix):
        of_block = codes[cells]
        members = sparse.csr_matrix(
            (np.ones(len(of_block)), (of_block, np.arange(len(of_block)))), (n_groups, len(of_block))
        )
        if known is None:
            molecules += dense(members @ rows)
            n_observed += members.sum(axis=1)
        else:
            molecules += members @ np.where(known, np.nan_to_num(dense(rows)), 0.0)
            n_observed += members @ known
    return molecules, n_observed


def _profile(total: np.ndarray, exposure: np.ndarray, never_observed: np.ndarray) -> np.ndarray:
    """Mean counts of genes with so many molecules in so many average cells."""
    rate = np.divide(total, exposure, out=np.zeros_like(total), where=exposure > 0)
    profile = np.maximum(rate, 0.5 / np.maximum(exposure, 1.0))
    if not never_observed.all():
        profile[never_observed] = profile[~never_observed].mean()
    return profile


def _known_blocks(matrix: CountMatrix) -> Iterator[tuple[slice, np.ndarray | sparse.csr_matrix, np.ndarray | None]]:
    """Yield ``(cells, rows, known)``: which counts of the rows are known, None where all are."""
    masks = None if matrix.mask_layer is None else row_blocks(matrix.observed_mask)
    for first, rows in row_blocks(matrix.values):
        known = None if masks is None else dense(next(masks)[1]) > 0
        if np.isnan(stored_values(rows)).any():
            measured = ~np.isnan(dense(rows))
            known = measured if known is None else known & measured
        yield slice(first, first + rows.shape[0]), rows, known
