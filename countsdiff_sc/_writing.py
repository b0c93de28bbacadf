"""Results into layers, with a record of how they were made."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
from scipy import sparse
from scvi import settings

from countsdiff_sc import kernels
from countsdiff_sc._constants import UNS_KEY
from countsdiff_sc._counts import CountMatrix, dense

#: Cells of a layer that are compared with their counts at a time.
_CHECKED_TOGETHER = 1024


def layer_names(layer: str, n_outputs: int) -> list[str]:
    """``imputed`` for one result, ``imputed_0``, ``imputed_1``, ... for several."""
    return [layer] if n_outputs == 1 else [f"{layer}_{index}" for index in range(n_outputs)]


def was_imputed(matrix: CountMatrix, layer: str) -> bool:
    """Whether ``layer`` of the AnnData was written by an earlier imputation."""
    return layer in matrix.adata.uns.get(UNS_KEY, {})


def is_draw(record: Mapping[str, object]) -> bool:
    """Whether a layer with this record is one of several draws that were asked for together."""
    return record["estimate"] == "sample" and record["n_samples"] > 1


def write_layers(
    matrices: Sequence[CountMatrix],
    layer: str,
    outputs: Sequence[np.ndarray | sparse.csr_matrix],
    rows: np.ndarray | None,
    records: Sequence[Mapping[str, object]],
) -> None:
    """Write what was imputed, and how, into layers and ``uns``: everything or, if anything fails, nothing.

    Parameters
    ----------
    matrices
        Where the counts came from.
    layer
        Name of the layer, or of all draws, see :func:`layer_names`.
    outputs
        Imputed rows, dense or CSR, with the columns of all matrices side by side.
    rows
        Cells that they hold, or None for all. Others keep what an earlier imputation of the same kind, means or counts, put into the
        layer, else they have their counts.
    records
        What is noted about each matrix. What was noted about cells that keep an earlier result goes with it, as ``"others"``.

    Raises
    ------
    ValueError
        If the layer was changed since cells that are to be kept were imputed.
    """
    names, ends = layer_names(layer, len(outputs)), np.cumsum([matrix.adata.n_vars for matrix in matrices])
    layers = []
    for name, values in zip(names, outputs, strict=True):
        for matrix, end, record in zip(matrices, ends, records, strict=True):
            part = values if len(matrices) == 1 else values[:, end - matrix.adata.n_vars : end]
            layers.append((matrix, name, *_of_all_cells(matrix, name, part, rows, record)))
    for each in layers:
        _write_layer(*each)
    if len(names) > 1:
        for matrix in matrices:
            _remove_stale_draws(matrix, layer, names)


def _remove_stale_draws(matrix: CountMatrix, layer: str, names: Sequence[str]) -> None:
    """Delete draws ``layer_0``, ``layer_1``, ... of an earlier imputation that this one, of ``names``, does not replace.

    A layer that was itself asked for as ``layer_1`` is not one of several draws, and stays.
    """
    records = matrix.adata.uns.get(UNS_KEY, {})
    draws = [name for name in records if re.fullmatch(re.escape(layer) + r"_\d+", name) and is_draw(records[name])]
    for name in set(draws) - set(names):
        del records[name]
        matrix.adata.layers.pop(name, None)


def _of_all_cells(
    matrix: CountMatrix, layer: str, values, rows: np.ndarray | None, record: Mapping[str, object]
) -> tuple[object, Mapping[str, object]]:
    """A layer's values, where some cells were imputed or all, and what is recorded about it."""
    if rows is None:
        return values, record
    earlier, others = matrix.adata.layers.get(layer), np.setdiff1d(np.arange(matrix.adata.n_obs), rows)
    if earlier is None or not len(others):
        return _insert_rows(matrix.values, values, rows, others), record
    # Counts are sparse and means are not.
    if sparse.issparse(earlier) != sparse.issparse(values):
        _warn_of_replaced(matrix, layer, len(others), held="counts" if sparse.issparse(earlier) else "means")
        return _insert_rows(matrix.values, values, rows, others), record
    about_others = {key: value for key, value in matrix.adata.uns[UNS_KEY][layer].items() if key != "others"}
    _check_counts_are_kept(matrix, layer, earlier, others, about_others)
    return _insert_rows(earlier, values, rows, others), {**record, "others": about_others}


def _warn_of_replaced(matrix: CountMatrix, layer: str, n_others: int, *, held: str) -> None:
    holds = "means" if held == "counts" else "counts"
    msg = (
        f"{matrix.holder}.layers[{layer!r}] held {held}, and now holds {holds}. What was imputed in {n_others:,} other cells is gone: "
        f"they have their observed counts. Use a layer of its own for {holds}, and impute these cells again."
    )
    warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def _check_counts_are_kept(
    matrix: CountMatrix, layer: str, earlier, others: np.ndarray, about: Mapping[str, object]
) -> None:
    """Raise ``ValueError`` where the layer was changed since: observed counts of cells that are not imputed now differ.

    Which these are is not known where a mask was given to the call that wrote the layer.
    """
    if about["observed_mask"] == "argument":
        return
    for first in range(0, len(others), _CHECKED_TOGETHER):
        cells = others[first : first + _CHECKED_TOGETHER]
        counts, kept = dense(matrix.values[cells]), dense(earlier[cells])
        observed = counts > 0 if about["observed_mask"] == "zeros" else ~np.isnan(counts)
        if matrix.observed_mask is not None:
            observed &= dense(matrix.observed_mask[cells])
        differ = observed & (kept != counts)
        if differ.any():
            row, column = np.argwhere(differ)[0]
            msg = (
                f"{matrix.holder}.layers[{layer!r}] was changed since it was imputed: cell "
                f"{str(matrix.adata.obs_names[cells[row]])!r}, gene {str(matrix.adata.var_names[column])!r} has {kept[row, column]:g} "
                f"there, and {counts[row, column]:g} was observed. Imputed cells are put beside others only where these are counts too. "
                "Choose another layer, or impute all cells."
            )
            raise ValueError(msg)


def _write_layer(matrix: CountMatrix, layer: str, values, record: Mapping[str, object]) -> None:
    matrix.adata.layers[layer] = values
    records = dict(matrix.adata.uns.get(UNS_KEY, {}))
    records[layer] = {key: value for key, value in record.items() if value is not None}
    matrix.adata.uns[UNS_KEY] = records


def _insert_rows(counts, values, rows: np.ndarray, others: np.ndarray):
    """Counts of all cells with some rows replaced, dense or CSR as what replaces them."""
    rest = counts[others]
    if sparse.issparse(values):
        rest = sparse.csr_matrix(rest)
        # A missing count has no integer: keep it NaN, with all others in float.
        kind = np.float32 if np.isnan(rest.data).any() else kernels.COUNT_TYPE
        stacked = sparse.vstack([values.astype(kind), rest.astype(kind)], format="csr")
    else:
        stacked = np.concatenate([values, dense(rest).astype(values.dtype)])
    return stacked[np.argsort(np.concatenate([rows, others]))]


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {name: version(name) for name in ("countsdiff_sc", "scvi-tools", "torch", "anndata", "numpy")}
