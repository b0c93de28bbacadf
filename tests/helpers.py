"""Small data and small trained models."""

from contextlib import nullcontext

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scvi
from scipy import sparse

from countsdiff_sc import CountsDiffSC

TINY = {"n_tokens": 2, "width": 8, "n_layers": 1, "n_heads": 2}
QUIET = {"enable_progress_bar": False}


def make_counts(n_obs=60, n_vars=20, seed=0):
    """Negative binomial counts of two cell types."""
    rng = np.random.default_rng(seed)
    profile = rng.gamma(0.7, 3.0, size=(2, n_vars))
    depth = rng.lognormal(0.0, 0.4, size=(n_obs, 1))
    rate = depth * profile[np.arange(n_obs) % 2] * rng.gamma(2.0, 0.5, size=(n_obs, n_vars))
    return rng.poisson(rate).astype(np.float32)


def make_adata(n_obs=60, n_vars=20, seed=0):
    """AnnData with counts in ``X`` (CSR), labels, batches and covariates."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(["B", "T"])[np.arange(n_obs) % 2]),
            "batch": pd.Categorical(np.array(["b0", "b1"])[rng.integers(0, 2, n_obs)]),
            "donor": pd.Categorical(np.array(["d0", "d1", "d2"])[np.arange(n_obs) % 3]),
            "percent_mito": rng.random(n_obs),
        },
        index=[f"cell{i}" for i in range(n_obs)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(n_vars)])
    return ad.AnnData(sparse.csr_matrix(make_counts(n_obs, n_vars, seed)), obs=obs, var=var)


def make_mudata(modalities):
    """MuData of AnnDatas, whose columns it leaves where they are, as is the rule from mudata 0.4 on."""
    with mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext():
        return mudata.MuData(modalities)


def train_tiny(data, max_epochs=2, **kwargs):
    """A trained model small enough for a test."""
    scvi.settings.seed = 0
    model = CountsDiffSC(data, **{**TINY, **kwargs})
    model.train(max_epochs, accelerator="cpu", **QUIET)
    return model
