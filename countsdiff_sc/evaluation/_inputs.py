"""What every imputer is given: counts, and where they are known."""

from __future__ import annotations

import numpy as np

from countsdiff_sc._counts import dense


def visible_counts(
    counts: np.ndarray, observed_mask: np.ndarray, n_genes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Counts with 0 where they are hidden (float32), and where they are known (bool), after checking them.

    Hidden counts may be anything, NaN too: nothing that is returned depends on them.

    Parameters
    ----------
    counts, observed_mask
        Counts (molecules) and where they are known, cells x genes, dense or sparse.
    n_genes
        Genes of the training cells, if there were any.

    Raises
    ------
    ValueError
        If shapes differ, or a known count is negative or not finite.
    """
    counts, observed = dense(counts), dense(observed_mask)
    if counts.ndim != 2 or counts.shape != observed.shape or observed.dtype != bool:
        msg = (
            f"counts has shape {counts.shape} and observed_mask {observed.shape}, of {observed.dtype}. Both must be "
            "cells x genes, the mask of booleans, True where a count is known. Pass (mask > 0) for a mask of numbers."
        )
        raise ValueError(msg)
    if n_genes not in {None, counts.shape[1]}:
        msg = (
            f"counts has {counts.shape[1]:,} genes. The imputer was fitted to {n_genes:,}. Pass the same genes, in their "
            "order."
        )
        raise ValueError(msg)
    visible = np.where(observed, counts, 0).astype(np.float32)
    if not (visible >= 0).all() or np.isinf(visible).any():
        row, column = np.argwhere(~((visible >= 0) & np.isfinite(visible)))[0]
        msg = (
            f"counts[{row}, {column}]={counts[row, column]} is marked as observed. Observed counts must be finite and "
            "not negative. Set the mask to False where a count is not known."
        )
        raise ValueError(msg)
    return visible, observed


def check_labels(labels: np.ndarray, n_cells: int) -> np.ndarray:
    """The labels as an array; raises ``ValueError`` unless there is one for each cell."""
    labels = np.asarray(labels)
    if labels.shape != (n_cells,):
        msg = f"labels has shape {labels.shape}. There must be one for each of {n_cells:,} cells. Pass a column of obs."
        raise ValueError(msg)
    return labels


def check_trainable(observed: np.ndarray, min_cells: int = 1) -> None:
    """Raise ``ValueError`` unless there is something to learn from."""
    if len(observed) < min_cells or not observed.any():
        msg = (
            f"There are {len(observed):,} cells with {int(observed.sum()):,} observed counts. Fitting needs at least "
            f"{min_cells} cells and one observed count. Pass more cells, or hide fewer counts."
        )
        raise ValueError(msg)


def check_fitted(imputer: object, attribute: str) -> None:
    """Raise ``RuntimeError`` unless ``fit`` has set the attribute."""
    if getattr(imputer, attribute) is None:
        name = type(imputer).__name__
        msg = f"This {name} was not fitted. Imputing needs a fitted one. Call fit(counts, observed_mask) first."
        raise RuntimeError(msg)
