import numpy as np
import pytest
import scanpy as sc

from countsdiff_sc import datasets


def test_pbmc68k_counts_are_counts():
    adata = datasets.pbmc68k_counts()
    assert adata.shape == (700, 765)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert adata.X.data.min() >= 1
    assert adata.X.max() == 259
    assert 1 - adata.X.nnz / np.prod(adata.shape) == pytest.approx(0.67, abs=0.01)
    assert np.median(adata.X.sum(axis=1).A1) == 653
    assert adata.obs["bulk_labels"].nunique() == 10


def test_pbmc68k_counts_normalise_back_to_what_scanpy_ships():
    adata = datasets.pbmc68k_counts()
    shipped = sc.datasets.pbmc68k_reduced().raw.X.toarray()
    logged = np.log1p(adata.X.toarray() * 1e4 / adata.obs["n_counts"].to_numpy()[:, None])
    np.testing.assert_allclose(logged, shipped, rtol=2e-3)


def test_other_data_are_noticed(monkeypatch):
    reduced = sc.datasets.pbmc68k_reduced()
    reduced.obs["n_counts"] *= 1.3
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: reduced)
    with pytest.raises(RuntimeError, match="away from an integer"):
        datasets.pbmc68k_counts()
