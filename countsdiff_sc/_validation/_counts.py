"""Counts, which of them are observed, and what is computed from them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import settings

from countsdiff_sc._counts import CountMatrix, row_blocks, stored_values
from countsdiff_sc.kernels import MAX_COUNT

from ._arguments import check_key
from ._objects import named_layers
from ._wording import some


def check_counts(matrix: CountMatrix) -> bool:
    """Check every value of a count matrix; return whether it holds NaN (missing) entries.

    scvi-tools looks at 20 values; a single fraction anywhere would be truncated without a word by the thinning.

    Raises
    ------
    TypeError
        For masked arrays, and for ``csr_array`` and its kin, which not every version of scvi-tools reads.
    ValueError
        For negative, fractional, infinite or too large values, with how many and where.
    """
    values = matrix.values
    if isinstance(values, np.ma.MaskedArray):
        msg = (
            f"{matrix.location} is a masked array. What is missing is NaN, or False in a layer of booleans. Convert it: "
            f"{matrix.location} = {matrix.location}.astype('float32').filled(numpy.nan)."
        )
        raise TypeError(msg)
    if isinstance(values, sparse.sparray):
        msg = (
            f"{matrix.location} is a {type(values).__name__}. Sparse counts must be a sparse matrix, not a sparse array. "
            f"Convert it: {matrix.location} = scipy.sparse.csr_matrix({matrix.location})."
        )
        raise TypeError(msg)
    n_missing = n_bad = n_bad_cells = 0
    first_bad: tuple[float, int, int] | None = None
    for first, rows in row_blocks(values):
        stored = stored_values(rows)
        if (not np.issubdtype(stored.dtype, np.number) and stored.dtype != bool) or np.iscomplexobj(stored):
            msg = f"{matrix.location} has dtype {stored.dtype}. Counts must be real numbers. Convert the matrix to float32."
            raise TypeError(msg)
        nan = np.isnan(stored)
        n_missing += int(nan.sum())
        with np.errstate(invalid="ignore", over="ignore"):  # NaN, and 2^24 in half precision
            bad = ~nan & ((stored < 0) | (stored > MAX_COUNT) | (stored != np.floor(stored)))
        if bad.any():
            bad_rows, bad_columns = _positions(rows, bad)
            n_bad += len(bad_rows)
            n_bad_cells += len(np.unique(bad_rows))
            if first_bad is None:
                row, column = int(bad_rows[0]), int(bad_columns[0])
                first_bad = (float(rows[row, column]), first + row, column)
    if first_bad is None:
        return n_missing > 0
    value, cell, gene = first_bad
    msg = (
        f"{matrix.location} holds {n_bad:,} values that are not counts, in {n_bad_cells:,} of {values.shape[0]:,} cells "
        f"(first: {value:.10g} in cell {str(matrix.adata.obs_names[cell])!r}, gene {str(matrix.adata.var_names[gene])!r}). "
        f"CountsDiffSC models raw counts: non-negative integers up to 2^24, {_what_is_missing(matrix)}. "
        f"Pass the layer with raw counts: {_setup_with_layer(matrix)}; "
        f"{_where_counts_may_be(matrix)}."
    )
    raise ValueError(msg)


def _positions(rows, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not sparse.issparse(rows):
        return np.nonzero(bad)
    entry = np.flatnonzero(bad)
    return np.searchsorted(rows.indptr, entry, side="right") - 1, rows.indices[entry]


def _what_is_missing(matrix: CountMatrix) -> str:
    return "NaN where missing" if matrix.mask_layer is None else "NaN or any count where the mask is False"


def _setup_with_layer(matrix: CountMatrix) -> str:
    if matrix.modality is None:
        return "CountsDiffSC.setup_anndata(adata, layer=...)"
    return f"CountsDiffSC.setup_mudata(mdata, layer={{{matrix.modality!r}: ...}})"


def _where_counts_may_be(matrix: CountMatrix) -> str:
    names = named_layers(matrix.adata)
    places = [f"layers: {sorted(names)}"] if names else ["there are no layers"]
    if matrix.adata.raw is not None:
        places.append(f"{matrix.holder}.raw is set and may hold them")
    return ", ".join(places)


def check_mask_layer(matrix: CountMatrix) -> None:
    """Check a registered mask layer: present and boolean."""
    if matrix.mask_layer is None:
        return
    where = f"{matrix.holder}.layers"
    check_key(matrix.mask_layer, named_layers(matrix.adata), where=where, argument="observed_mask_layer")
    check_observed_mask(matrix.observed_mask, matrix.adata, argument=f"observed_mask_layer={matrix.mask_layer!r}")


def check_observed_mask(mask, adata: AnnData, *, argument: str):
    """Return a boolean dense or CSR mask of the shape of ``adata``, or raise.

    Raises
    ------
    TypeError
        If the mask is not boolean: 0/1 is accepted in no other type, since nobody knows which way round it is.
    ValueError
        If its shape is another, or a DataFrame names other cells or genes, or in another order.
    """
    if isinstance(mask, pd.DataFrame):
        if not (mask.index.equals(adata.obs_names) and mask.columns.equals(adata.var_names)):
            msg = (
                f"{argument} is a DataFrame whose index and columns are not the cells and genes of the data. They must be "
                "equal, in the same order. Pass mask.loc[adata.obs_names, adata.var_names]."
            )
            raise ValueError(msg)
        mask = mask.to_numpy()
    if isinstance(mask, np.ma.MaskedArray):
        msg = (
            f"{argument} is a masked array. It must be a plain array of booleans, True where the count was observed, since a masked "
            "entry is neither. Pass its .filled(False)."
        )
        raise TypeError(msg)
    if not sparse.issparse(mask):
        mask = np.asarray(mask)
    if mask.dtype != bool:
        msg = (
            f"{argument} has dtype {mask.dtype}. An observed mask must be boolean, True where the count was observed "
            "and is kept. If it holds 1 where observed, convert it with mask == 1, which is False for NaN."
        )
        raise TypeError(msg)
    if mask.shape != adata.shape:
        msg = (
            f"{argument} has shape {mask.shape}. It must match the data, cells x genes = {adata.shape}. "
            "Pass the mask of the whole AnnData, also when only some cells are imputed with indices=."
        )
        raise ValueError(msg)
    return sparse.csr_matrix(mask) if sparse.issparse(mask) else mask


def check_something_observed(n_observed: float, n_molecules: float) -> None:
    """Raise ``ValueError`` if there is no observed entry, or no molecule in them, to learn from."""
    if not n_observed:
        msg = (
            "No entry of the data is observed. A model learns from observed entries. Check that the mask is True, and the "
            "counts are not NaN, where something was measured."
        )
    elif not n_molecules:
        msg = (
            f"All {n_observed:,.0f} observed counts are 0. A model learns from molecules. Check that the mask is True where a count was "
            "observed, and not the other way round."
        )
    else:
        return
    raise ValueError(msg)


def warn_of_unobserved(matrix: CountMatrix, never_observed: np.ndarray) -> None:
    """Say that there are genes of which nothing can be learned."""
    if never_observed.any():
        names = matrix.adata.var_names[never_observed]
        msg = (
            f"{matrix.location} has {len(names):,} genes that are observed in no cell{some(names)}. Nothing is learned about them, "
            "and what is imputed there is what an average gene has. Leave them out, or add cells in which they were measured."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


#: Observed ones, and their share of the observed counts, from which on zeros should have been seen beside them: if a share of 0.1
#: is 1, at least 0.03 are 0 under a Poisson law, and more under wider ones.
_MIN_ONES, _MIN_SHARE_OF_ONES = 30, 0.1


def warn_of_hidden_zeros(where: str, n_observed: float, n_zeros: float, n_ones: float) -> None:
    """Say that zeros are missing because they are zeros, which no law of the other counts can make up for."""
    if n_zeros == 0 and n_ones >= max(_MIN_ONES, _MIN_SHARE_OF_ONES * n_observed):
        msg = (
            f"{where}: all {n_observed:,.0f} observed counts are above 0, so that zeros seem to be missing because they are zeros. What is "
            "imputed there is then many times too high. To have zeros imputed leave the mask, or the NaN, out: without them zeros "
            "are predicted from other genes."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


#: Cells from which on equal totals are no coincidence, and their coefficient of variation where they were made equal and rounded: 0.004
#: of counts per ten thousand, and above 0.2 of real cells.
_MIN_CELLS, _SAME_TOTALS = 20, 0.02


def warn_of_scaled_counts(where: str, totals: np.ndarray, *, is_binary: bool) -> None:
    """Say that whole numbers are likely no counts: what was normalised and rounded, or whether a gene was detected.

    Parameters
    ----------
    where
        What messages call the matrix.
    totals
        Observed molecules of each cell.
    is_binary
        Whether no count is above 1.
    """
    totals = totals[totals > 0]
    if len(totals) < _MIN_CELLS:
        return
    if is_binary:
        found = f"No count of {where} is above 1, so that these may be detections instead of molecules"
    elif totals.std() <= _SAME_TOTALS * totals.mean():
        found = (
            f"All cells of {where} have about the same total, {np.median(totals):,.0f}, so that these may be values that were normalised "
            "and rounded"
        )
    else:
        return
    msg = f"{found}. The model is one of raw counts. If they are not, pass the layer that holds them, layer=..., and train again."
    warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


#: Molecules of a gene that a batch of its depth would have, from which on none at all is a sign, and how many such genes, and which
#: share of all, are: of a few, such as those that only interferon switches on, there may be none in truth.
_MIN_EXPECTED, _MIN_SILENT, _MIN_SHARE_SILENT = 100.0, 5, 0.01


def warn_of_silent_genes(matrix: CountMatrix, totals: np.ndarray, n_observed: np.ndarray, batches: pd.Index) -> None:
    """Say that a batch has none of genes that others have many of: as where tables were joined, and gaps filled with zeros.

    Parameters
    ----------
    matrix
        What is looked at.
    totals, n_observed
        Molecules, and observed entries, of each gene in each batch, shape ``(n_batches, G)``.
    batches
        Names of the batches.
    """
    depth = totals.sum(axis=1, keepdims=True)
    elsewhere = np.maximum(depth.sum() - depth, 1.0)
    expected = depth * (totals.sum(axis=0) - totals) / elsewhere
    silent = (totals == 0) & (n_observed > 0) & (expected >= _MIN_EXPECTED)
    least = max(_MIN_SILENT, _MIN_SHARE_SILENT * silent.shape[1])
    for batch in np.flatnonzero(silent.sum(axis=1) >= least):
        names = matrix.adata.var_names[silent[batch]]
        msg = (
            f"{matrix.location} has no molecule of {len(names):,} genes{some(names)} in batch {batches[batch]!r}, which would have "
            f"{expected[batch][silent[batch]].min():,.0f} or more by the other batches. A zero is learned as a measured one. If they were "
            "not measured there, mark these entries as missing: NaN, or False in observed_mask_layer."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


_SMALLER_STEPS = (
    "The steps of training were too large. Train a new model with a smaller learning rate, plan_kwargs={'lr': ...}, or in single "
    "precision."
)


def warn_of_divergence(parameters: Iterable[torch.Tensor]) -> None:
    """Say that training has left weights with which nothing can be computed."""
    if not _are_finite(parameters):
        msg = f"Weights are not finite after training, so that nothing can be imputed. {_SMALLER_STEPS}"
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def check_finite_weights(parameters: Iterable[torch.Tensor], purpose: str) -> None:
    """Raise ``RuntimeError`` for such weights: the counts that NaN is turned into look like any others."""
    if not _are_finite(parameters):
        msg = f"The model's weights are not finite. A model with such weights cannot {purpose}. {_SMALLER_STEPS}"
        raise RuntimeError(msg)


def _are_finite(parameters: Iterable[torch.Tensor]) -> bool:
    return all(torch.isfinite(parameter).all() for parameter in parameters)


def check_finite_values(values: np.ndarray) -> None:
    """Raise ``ValueError`` unless imputed or generated values are finite, and no larger than counts can be."""
    if not values.max(initial=0) <= MAX_COUNT:  # nor is NaN
        msg = (
            f"Means or draws are not finite, or above 2^24 (the largest is {values.max():g}). Molecules can be drawn from finite laws "
            "only. Lower guidance_scale if it is far above 1, bring continuous covariates into the range of the training data, or train "
            "the model again if its loss is NaN."
        )
        raise ValueError(msg)
