"""Every check of what a user hands in, and every text they read when it is wrong.

A message has three clauses: what is wrong, with its value and place; the rule; what to do.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import settings

from countsdiff_sc._constants import UNKNOWN_LABEL
from countsdiff_sc._counts import CountMatrix, row_blocks, stored_values
from countsdiff_sc.kernels import MAX_COUNT


def check_key(key: str, available: Iterable[str], *, where: str, argument: str) -> None:
    """Raise ``KeyError`` with the nearest names unless ``key`` is one of ``available``."""
    names = [str(name) for name in available]
    if key in names:
        return
    nearest = difflib.get_close_matches(str(key), names, n=3, cutoff=0.3) or names[:5]
    msg = (
        f"{argument}={key!r} is not in {where}. It must name an existing entry"
        f"{f' (nearest: {nearest})' if nearest else ', and there are none'}. Correct the name, or add the entry first."
    )
    raise KeyError(msg)


def check_not_empty(n_obs: int, n_vars: int, *, where: str) -> None:
    """Raise ``ValueError`` for an object without cells or without genes."""
    if n_obs and n_vars:
        return
    msg = (
        f"{where} has {n_obs} cells and {n_vars} genes. CountsDiffSC needs at least one of each. "
        "Check the filtering that came before."
    )
    raise ValueError(msg)


def check_type(data: object) -> None:
    """Raise ``TypeError`` unless ``data`` is an AnnData or a MuData."""
    if data is None:
        _raise_without_data()
    if not isinstance(data, (AnnData, MuData)):
        msg = (
            f"The data are a {type(data).__name__}. CountsDiffSC takes an AnnData or a MuData. "
            "Wrap a matrix with anndata.AnnData(X)."
        )
        raise TypeError(msg)


def _raise_without_data() -> None:
    msg = (
        "The model was loaded without data. It needs some to work on. Pass them as adata, or load the model with them."
    )
    raise TypeError(msg)


def check_anndata(data: object, *, method: str) -> None:
    """Raise ``TypeError`` unless ``data`` is an AnnData, for methods that take nothing else."""
    if data is None:
        _raise_without_data()
    if not isinstance(data, AnnData):
        remedy = (
            "Pass one modality, for example mdata['rna']"
            if isinstance(data, MuData)
            else "Wrap a matrix with AnnData(X)"
        )
        msg = f"{method} was given a {type(data).__name__}. It takes an AnnData. {remedy}."
        raise TypeError(msg)


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


def check_mudata(data: object, *, method: str) -> None:
    """Raise ``TypeError`` unless ``data`` is a MuData."""
    if not isinstance(data, MuData):
        msg = (
            f"{method} was given a {type(data).__name__}. It takes a MuData. Set up an AnnData by itself, or "
            "combine modalities with mudata.MuData({'rna': rna, 'prot': protein})."
        )
        raise TypeError(msg)


def check_not_view(data: AnnData | MuData, *, name: str) -> None:
    """Raise ``ValueError`` for a view, to which nothing can be registered."""
    if data.is_view:
        msg = (
            f"{name} is a view of another object, as after {name}[:, genes]. Setting up writes to it, so it must be an "
            f"object of its own. Call {name} = {name}.copy() first."
        )
        raise ValueError(msg)


def check_same_cells(found: pd.Index, expected: pd.Index, *, modality: str) -> None:
    """Raise ``ValueError`` unless a modality holds the cells of its MuData, in the same order."""
    if found.equals(expected):
        return
    problem = "in another order" if len(found) == len(expected) and found.isin(expected).all() else "not all of them"
    msg = (
        f"mdata.mod[{modality!r}] has {len(found):,} of the {len(expected):,} cells of mdata, {problem}. Every modality "
        "must hold the same cells in the same order; they are paired by position. Reorder with "
        f"mdata.mod[{modality!r}][mdata.obs_names], or add cells that lack it with NaN counts, and make a new MuData."
    )
    raise ValueError(msg)


def check_labels_are_names(values: pd.Series, *, column: str) -> None:
    """Raise ``TypeError`` unless labels are strings, as "unknown" is."""
    categories = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else pd.unique(values)
    others = [category for category in categories if not isinstance(category, str)]
    if others:
        msg = (
            f"{column} holds labels that are not strings (first: {others[0]!r}). Labels must be names. "
            f"Convert them: {column} = {column}.astype(str)."
        )
        raise TypeError(msg)


def check_no_further(arguments: Iterable[str], *, known: Iterable[str]) -> None:
    """Raise ``TypeError`` with the nearest names if there are ``arguments`` beyond the ``known`` ones."""
    for name in arguments:
        nearest = difflib.get_close_matches(name, list(known), n=1)
        msg = (
            f"{name!r} is not an argument. It must be one of {list(known)}. "
            f"{f'Was {nearest[0]!r} meant?' if nearest else 'Leave it out.'}"
        )
        raise TypeError(msg)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        msg = f"{name}={value!r} is not known. It must be one of {list(choices)}. Pass one of these."
        raise ValueError(msg)


def check_number(name: str, value: object, *, low: float, high: float = math.inf, integer: bool = False) -> None:
    """Raise unless ``value`` is a finite number, whole if ``integer``, in ``[low, high]``.

    Raises
    ------
    TypeError
        If it is no number of that kind.
    ValueError
        If it is out of range.
    """
    kind, noun = (Integral, "an integer") if integer else (Real, "a number")
    rule = f"{noun} of at least {low:g}" if high == math.inf else f"{noun} between {low:g} and {high:g}"
    if not isinstance(value, kind) or isinstance(value, bool):
        msg = f"{name}={value!r} is a {type(value).__name__}. It must be {rule}. Pass such a number."
        raise TypeError(msg)
    if not low <= value <= high or not math.isfinite(value):
        msg = f"{name}={value!r} is out of range. It must be {rule}. Pass a value in that range."
        raise ValueError(msg)


def check_quantiles(quantiles: Sequence[float] | None) -> None:
    """Raise ``ValueError`` unless ``quantiles`` is None or a sequence of levels strictly between 0 and 1."""
    if quantiles is None:
        return
    levels = np.asarray(quantiles)
    is_valid = levels.ndim == 1 and levels.size and np.issubdtype(levels.dtype, np.floating)
    if not is_valid or not ((levels > 0.0) & (levels < 1.0)).all():
        msg = (
            f"quantiles={quantiles!r} are not levels. They must be a sequence of numbers strictly between 0 and 1, at "
            "least one. Pass for example quantiles=(0.05, 0.95)."
        )
        raise ValueError(msg)


def check_indices(indices, n_obs: int) -> np.ndarray:
    """Return distinct row numbers, or raise ``ValueError``; a boolean mask over cells is accepted."""
    if indices is None:
        return np.arange(n_obs)
    rows = np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n_obs,):
        rows = np.flatnonzero(rows)
    is_valid = rows.ndim == 1 and rows.size and np.issubdtype(rows.dtype, np.integer)
    if not is_valid or rows.min() < 0 or rows.max() >= n_obs or len(np.unique(rows)) < len(rows):
        msg = (
            f"indices={indices!r} does not select cells. It must hold distinct integers in [0, {n_obs}), at least one, "
            "or a boolean per cell. Pass for example np.flatnonzero(adata.obs['batch'] == 'a')."
        )
        raise ValueError(msg)
    return rows


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
        if not np.issubdtype(stored.dtype, np.number) and stored.dtype != bool:
            msg = f"{matrix.location} has dtype {stored.dtype}. Counts must be numbers. Convert the matrix to float32."
            raise TypeError(msg)
        nan = np.isnan(stored)
        n_missing += int(nan.sum())
        with np.errstate(invalid="ignore"):
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
        f"CountsDiffSC models raw counts: non-negative integers up to 2^24, NaN where missing. "
        f"Pass the layer with raw counts: {_setup_with_layer(matrix)}; "
        f"{_where_counts_may_be(matrix)}."
    )
    raise ValueError(msg)


def _positions(rows, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not sparse.issparse(rows):
        return np.nonzero(bad)
    entry = np.flatnonzero(bad)
    return np.searchsorted(rows.indptr, entry, side="right") - 1, rows.indices[entry]


def _setup_with_layer(matrix: CountMatrix) -> str:
    if matrix.modality is None:
        return "CountsDiffSC.setup_anndata(adata, layer=...)"
    return f"CountsDiffSC.setup_mudata(mdata, layer={{{matrix.modality!r}: ...}})"


def _where_counts_may_be(matrix: CountMatrix) -> str:
    places = [f"layers: {sorted(matrix.adata.layers)}"] if len(matrix.adata.layers) else ["there are no layers"]
    if matrix.adata.raw is not None:
        places.append("adata.raw is set and may hold them")
    return ", ".join(places)


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


def warn_of_unobserved(matrix: CountMatrix, never_observed: np.ndarray) -> None:
    """Say that there are genes of which nothing can be learned."""
    if never_observed.any():
        names = matrix.adata.var_names[never_observed]
        msg = (
            f"{matrix.location} has {len(names):,} genes that are observed in no cell{_some(names)}. Nothing is learned about them, "
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


def warn_of_divergence(parameters: Iterable[torch.Tensor]) -> None:
    """Say that training has left weights with which nothing can be computed."""
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        msg = (
            "Weights are not finite after training, so that nothing can be imputed. Its steps were too large. Train a new model with a "
            "smaller learning rate, plan_kwargs={'lr': ...}, or in single precision."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def check_finite_values(values: np.ndarray) -> None:
    """Raise ``ValueError`` unless imputed or generated values are finite, and no larger than counts can be."""
    if not values.max(initial=0) <= MAX_COUNT:  # nor is NaN
        msg = (
            f"Means or draws are not finite, or above 2^24 (the largest is {values.max():g}). Molecules can be drawn from finite laws "
            "only. Lower guidance_scale if it is far above 1, bring continuous covariates into the range of the training data, or train "
            "the model again if its loss is NaN."
        )
        raise ValueError(msg)


def check_mask_layer(matrix: CountMatrix) -> None:
    """Check a registered mask layer: present and boolean."""
    if matrix.mask_layer is None:
        return
    where = f"{matrix.holder}.layers"
    check_key(matrix.mask_layer, matrix.adata.layers, where=where, argument="observed_mask_layer")
    check_observed_mask(matrix.observed_mask, matrix.adata, argument=f"observed_mask_layer={matrix.mask_layer!r}")


def check_var_names(found: Sequence[str], expected: Sequence[str], *, where: str) -> None:
    """Raise ``ValueError`` unless the genes are those of the trained model, in the same order."""
    found, expected = pd.Index(found), pd.Index(expected)
    if found.equals(expected):
        return
    if not found.is_unique:
        repeated = found[found.duplicated()].unique()
        msg = f"{where} has {len(repeated)} gene names twice{_some(repeated)}. Genes must have names of their own. Call var_names_make_unique()."
        raise ValueError(msg)
    missing, extra = expected.difference(found, sort=False), found.difference(expected, sort=False)
    genes = "model.var_names" if where == "adata" else f"model.adata{where.removeprefix('mdata')}.var_names"
    if len(missing) or len(extra):
        problem = (
            f"lacks {len(missing)} genes of the trained model{_some(missing)} and has {len(extra)} it does not know"
            f"{_some(extra)}"
        )
        remedy = (
            f"Subset with {where}[:, {genes}]"
            if not len(missing)
            else "Subset to the shared genes before training, or add the lacking genes as NaN columns: they are imputed"
        )
    else:
        first = int(np.flatnonzero(found.to_numpy() != expected.to_numpy())[0])
        problem = f"has the genes of the trained model in another order (first at {first}: {found[first]!r} for {expected[first]!r})"
        remedy = f"Reorder with {where}[:, {genes}]"
    msg = f"{where} {problem}. Genes must be those the model was trained on, in the same order. {remedy}."
    raise ValueError(msg)


def check_categories(values: pd.Series, known: Sequence, *, column: str) -> None:
    """Raise ``ValueError`` if a cell has a category that the model does not know, or none at all."""
    check_no_missing_category(values, column=column)
    unseen = [category for category in pd.unique(values) if category not in set(known)]
    if not unseen:
        return
    msg = (
        f"{column} holds {len(unseen)} categories the model was not trained on (first: {unseen[0]!r}). "
        f"Categories must be among {list(known)[:8]}. Map them to known ones"
        f"{f' or to {UNKNOWN_LABEL!r}' if UNKNOWN_LABEL in list(known) else ''}, or train on data that has them."
    )
    raise ValueError(msg)


def warn_of_unused_categories(values: pd.Series, *, column: str) -> None:
    """Say that there are categories of which no cell is there to learn from."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        unused = pd.Index(values.cat.categories.difference(values.unique(), sort=False))
        if len(unused):
            msg = (
                f"{column} has {len(unused)} categories without a cell{_some(unused)}. Nothing is learned about them. Leave them out: "
                f"{column} = {column}.cat.remove_unused_categories()."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def check_no_missing_category(values: pd.Series, *, column: str) -> None:
    """Raise ``ValueError`` if a categorical condition is NaN for some cells."""
    n_missing = int(values.isna().sum())
    if not n_missing:
        return
    msg = (
        f"{column} is missing for {n_missing:,} of {len(values):,} cells. Every cell needs a category. "
        f"Name it, for example {column}.astype(object).fillna('unknown'), or leave the column out."
    )
    raise ValueError(msg)


#: Standard deviations from the mean of the training data beyond which a network has seen no covariate.
_FAR = 10.0


def warn_of_far_covariates(values: pd.Series, location: float, scale: float, *, column: str) -> None:
    """Say that a covariate is far from all of the training data."""
    distance = (values.to_numpy(dtype=float) - location) / scale
    n_far = int((np.abs(distance) > _FAR).sum())
    if n_far:
        worst = values.to_numpy(dtype=float)[np.abs(distance).argmax()]
        msg = (
            f"{column} is more than {_FAR:g} standard deviations from the mean of the training data, {location:g}, in {n_far:,} of "
            f"{len(values):,} cells (furthest: {worst:g}). What is imputed there means little. Check its unit."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def check_finite(values: pd.Series, *, column: str) -> None:
    """Raise ``ValueError`` unless a continuous covariate is a finite number for every cell."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    n_bad = int((~np.isfinite(numbers)).sum())
    if n_bad:
        msg = (
            f"{column} is not a finite number for {n_bad:,} of {len(values):,} cells. Continuous covariates "
            "must be finite in every cell. Fill the gaps, or leave the column out."
        )
        raise ValueError(msg)


def check_output_layer(layer: str, matrix: CountMatrix, *, written_before: bool) -> None:
    """Raise ``ValueError`` if writing ``layer`` would destroy the input or somebody else's layer."""
    holder = matrix.location.rsplit(".", 1)[0]
    if not isinstance(layer, str) or not layer or "/" in layer:
        msg = f"layer={layer!r} cannot name a layer. It must be a string without '/'. Pass for example layer='imputed'."
    elif layer in {matrix.layer, matrix.mask_layer}:
        msg = (
            f"layer={layer!r} is the layer the model reads. impute writes its result there and never overwrites its "
            "input. Choose another name, for example layer='imputed'."
        )
    elif layer in matrix.adata.layers and not written_before:
        msg = (
            f"layer={layer!r} exists in {holder} and was not written by impute. Only layers that impute wrote are "
            f"overwritten. Choose another name, or delete it first: del {holder}.layers[{layer!r}]."
        )
    else:
        return
    raise ValueError(msg)


def _some(names: pd.Index) -> str:
    return f" ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})" if len(names) else ""
