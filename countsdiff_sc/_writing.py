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


def stack_rows(blocks: Sequence[np.ndarray | sparse.csr_matrix], rows: np.ndarray | None = None):
    """Stack blocks of rows; with ``rows``, put row ``i`` of the stack where ``rows[i]`` ranks among ``rows``."""
    stacked = sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)
    return stacked if rows is None else stacked[np.argsort(rows, kind="stable")]


def layer_names(layer: str, n_outputs: int) -> list[str]:
    """``imputed`` for one result, ``imputed_0``, ``imputed_1``, ... for several."""
    return [layer] if n_outputs == 1 else [f"{layer}_{index}" for index in range(n_outputs)]


def was_imputed(matrix: CountMatrix, layer: str) -> bool:
    """Whether ``layer`` of the AnnData was written by an earlier imputation."""
    return layer in matrix.adata.uns.get(UNS_KEY, {})


def is_draw(record: Mapping[str, object]) -> bool:
    """Whether a layer with this record is one of several draws that were asked for together."""
    return record["estimate"] == "sample" and record["n_samples"] > 1


def remove_stale_draws(matrix: CountMatrix, layer: str, names: Sequence[str]) -> None:
    """Delete draws ``layer_0``, ``layer_1``, ... of an earlier imputation that this one, of ``names``, does not replace.

    A layer that was itself asked for as ``layer_1`` is not one of several draws, and stays.
    """
    records = matrix.adata.uns.get(UNS_KEY, {})
    draws = [name for name in records if re.fullmatch(re.escape(layer) + r"_\d+", name) and is_draw(records[name])]
    for name in set(draws) - set(names):
        del records[name]
        matrix.adata.layers.pop(name, None)


def of_all_cells(matrix: CountMatrix, layer: str, values, rows: np.ndarray | None):
    """An imputed layer, for which some cells were imputed or all.

    Parameters
    ----------
    matrix
        Where the counts came from.
    layer
        Name of the layer that is going to be written.
    values
        Imputed rows, dense or CSR.
    rows
        Cells that ``values`` holds, or None for all; others keep what an earlier imputation put into the layer, if it was of the same
        kind, else their counts.
    """
    if rows is None:
        return values
    earlier = matrix.adata.layers.get(layer)
    # Counts are sparse and means are not.
    is_alike = earlier is not None and sparse.issparse(earlier) == sparse.issparse(values)
    return _insert_rows(earlier if is_alike else matrix.values, values, rows)


def write_layer(matrix: CountMatrix, layer: str, values, record: Mapping[str, object]) -> None:
    """Write one imputed layer, of all cells, and its record into ``uns``."""
    matrix.adata.layers[layer] = values
    records = dict(matrix.adata.uns.get(UNS_KEY, {}))
    records[layer] = {key: value for key, value in record.items() if value is not None}
    matrix.adata.uns[UNS_KEY] = records


def _insert_rows(counts, values, rows: np.ndarray):
    others = np.setdiff1d(np.arange(counts.shape[0]), rows)
    rest = counts[others]
    if sparse.issparse(values):
        rest = sparse.csr_matrix(rest)
        # A missing count has no integer: keep it NaN, with all others in float.
        kind = np.float32 if np.isnan(rest.data).any() else kernels.COUNT_TYPE
        values, rest = values.astype(kind), rest.astype(kind)
    else:
        rest = dense(rest).astype(values.dtype)
    return stack_rows([values, rest], np.concatenate([rows, others]))


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {name: version(name) for name in ("countsdiff_sc", "scvi-tools", "torch", "anndata", "numpy")}
