"""Results into layers, with a record of how they were made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import numpy as np
from scipy import sparse

from countsdiff_sc import kernels
from countsdiff_sc._constants import UNS_KEY
from countsdiff_sc._counts import CountMatrix, dense


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
        Cells that they hold, or None for all; others keep what an earlier imputation put into the layer, if it was of the same kind,
        else their counts.
    records
        What is noted about each matrix.
    """
    names, ends = layer_names(layer, len(outputs)), np.cumsum([matrix.adata.n_vars for matrix in matrices])
    layers = []
    for name, values in zip(names, outputs, strict=True):
        for matrix, end, record in zip(matrices, ends, records, strict=True):
            part = values if len(matrices) == 1 else values[:, end - matrix.adata.n_vars : end]
            layers.append((matrix, name, _of_all_cells(matrix, name, part, rows), record))
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


def _of_all_cells(matrix: CountMatrix, layer: str, values, rows: np.ndarray | None):
    """A layer's values, where some cells were imputed or all."""
    if rows is None:
        return values
    earlier = matrix.adata.layers.get(layer)
    # Counts are sparse and means are not.
    is_alike = earlier is not None and sparse.issparse(earlier) == sparse.issparse(values)
    return _insert_rows(earlier if is_alike else matrix.values, values, rows)


def _write_layer(matrix: CountMatrix, layer: str, values, record: Mapping[str, object]) -> None:
    matrix.adata.layers[layer] = values
    records = dict(matrix.adata.uns.get(UNS_KEY, {}))
    records[layer] = {key: value for key, value in record.items() if value is not None}
    matrix.adata.uns[UNS_KEY] = records


def _insert_rows(counts, values, rows: np.ndarray):
    """Counts of all cells with some rows replaced, dense or CSR as what replaces them."""
    others = np.setdiff1d(np.arange(counts.shape[0]), rows)
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
