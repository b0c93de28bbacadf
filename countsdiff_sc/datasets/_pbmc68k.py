"""Real counts that come with scanpy, so that examples and tests need no download."""

from __future__ import annotations

import warnings

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

#: Largest relative distance from an integer that a recovered count may have.
_RELATIVE_TOLERANCE = 2e-3


def pbmc68k_counts() -> AnnData:
    """700 peripheral blood mononuclear cells x 765 genes: integer counts with cell-type labels.

    scanpy ships the data of :cite:t:`Zheng2017` as logarithms of counts per 10,000 (:func:`scanpy.datasets.pbmc68k_reduced`).
    Since the total of each cell is known, the counts can be recovered: they come out within 0.1% of an integer.

    Returns
    -------
    AnnData with counts in ``X`` (CSR, float32), ``obs["bulk_labels"]`` (10 cell types) and ``obs["n_counts"]``, the
    molecules of the cell over all genes of the original data.

    Raises
    ------
    RuntimeError
        If a value is not within 0.2% of an integer: scanpy would then ship other data.

    Examples
    --------
    >>> import countsdiff_sc
    >>> countsdiff_sc.datasets.pbmc68k_counts().shape
    (700, 765)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is of an old format
        reduced = sc.datasets.pbmc68k_reduced()
    logged = sparse.csr_matrix(reduced.raw.X, dtype=np.float64)
    totals = np.repeat(reduced.obs["n_counts"].to_numpy(dtype=np.float64), np.diff(logged.indptr))
    values = np.expm1(logged.data) * totals / 1e4
    counts = np.rint(values)
    distance = np.abs(values - counts) / np.maximum(counts, 1.0)
    if distance.max() > _RELATIVE_TOLERANCE:
        msg = (
            f"A recovered count is {distance.max():.2g} (relative) away from an integer. It must be within "
            f"{_RELATIVE_TOLERANCE:g}. Report this with your version of scanpy ({sc.__version__})."
        )
        raise RuntimeError(msg)
    matrix = sparse.csr_matrix((counts.astype(np.float32), logged.indices, logged.indptr), shape=logged.shape)
    matrix.eliminate_zeros()
    adata = AnnData(matrix, obs=reduced.obs[["bulk_labels", "n_counts"]].copy(), var=reduced.raw.var[[]].copy())
    adata.uns["source"] = "Zheng et al. 2017, doi:10.1038/ncomms14049, through scanpy.datasets.pbmc68k_reduced"
    return adata
