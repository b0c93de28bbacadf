"""Fixtures: small data and small trained models, shared by all tests."""

import numpy as np
import pytest
import scvi
from helpers import make_adata, make_mudata, train_tiny
from scipy import sparse

from countsdiff_sc import CountsDiffSC


@pytest.fixture(autouse=True)
def _tidy(tmp_path, monkeypatch):
    """Training logs go to a temporary folder, and a test's seed does not reach the next."""
    monkeypatch.chdir(tmp_path)
    scvi.settings.seed = 0
    yield
    scvi.settings.seed = None


@pytest.fixture
def adata():
    return make_adata()


@pytest.fixture
def observed_mask(adata):
    mask = np.random.default_rng(1).random(adata.shape) < 0.7
    mask[0, 0], mask[1, 1] = False, True
    return mask


@pytest.fixture
def masked(adata, observed_mask):
    """AnnData in which hidden entries hold 0 and a layer says so."""
    adata.layers["observed"] = observed_mask
    adata.X = sparse.csr_matrix(adata.X.multiply(observed_mask))
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed", labels_key="cell_type")
    return adata


@pytest.fixture
def masked_model(masked):
    return train_tiny(masked)


@pytest.fixture
def mdata():
    rna, protein = make_adata(n_vars=12, seed=1), make_adata(n_vars=5, seed=2)
    protein.var_names = [f"protein{i}" for i in range(5)]
    protein.X = protein.X * 50
    mdata = make_mudata({"rna": rna, "prot": protein})
    mdata.obs["cell_type"] = rna.obs["cell_type"].to_numpy()
    return mdata
