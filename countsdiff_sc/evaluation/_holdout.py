"""Hide entries, impute them, compare with what was hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._baselines import gene_mean_x_depth, label_mean_x_depth, zeros
from ._masks import mcar
from ._metrics import poisson_deviance, rmse_log1p

#: Name of the model's row in a table.
MODEL_NAME = "CountsDiffSC"


@dataclass(frozen=True)
class Holdout:
    """A model fitted without the hidden entries, and how well it predicts them.

    Parameters
    ----------
    model
        The fitted model.
    truth
        Hidden counts (molecules), shape ``(n_hidden,)``.
    predicted
        Their imputed means, same shape.
    table
        One row per method: ``poisson_deviance`` (nats per entry) and ``rmse_log1p``; lower is better.
    """

    model: object
    truth: np.ndarray
    predicted: np.ndarray
    table: pd.DataFrame


def compare(truth: np.ndarray, predictions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Score predictions of the same hidden counts.

    Parameters
    ----------
    truth
        Hidden counts (molecules), one-dimensional.
    predictions
        Predicted means by method, each of that shape.

    Returns
    -------
    One row per method, indexed by name, with ``poisson_deviance`` (nats per entry) and ``rmse_log1p``.
    """
    rows = {
        name: {"poisson_deviance": poisson_deviance(truth, mean), "rmse_log1p": rmse_log1p(truth, mean)}
        for name, mean in predictions.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def hold_out(
    adata: AnnData,
    fit: Callable[[AnnData], object],
    *,
    layer: str | None = None,
    observed_mask_layer: str | None = None,
    labels_key: str | None = None,
    fraction: float = 0.1,
    seed: int = 0,
) -> Holdout:
    """Hide a fraction of the known entries, fit a model without them, and score it beside simple baselines.

    Parameters
    ----------
    adata
        Raw counts; not changed.
    fit
        Given a copy of ``adata`` with NaN at the hidden entries, returns a trained model.
    layer, observed_mask_layer, labels_key
        As given to :meth:`countsdiff_sc.CountsDiffSC.setup_anndata`. With labels, their means are a baseline too.
    fraction
        Probability with which each entry is hidden.
    seed
        Seed of the mask.
    """
    counts = adata.X if layer is None else adata.layers[layer]
    counts = np.asarray(counts.toarray() if sparse.issparse(counts) else counts, dtype=np.float32)
    known = ~np.isnan(counts)
    if observed_mask_layer is not None:
        mask = adata.layers[observed_mask_layer]
        known &= mask.toarray() if sparse.issparse(mask) else np.asarray(mask)
    hidden = known & ~mcar(counts.shape, fraction, seed=seed)
    if not hidden.any():
        msg = f"fraction={fraction} hides none of the {int(known.sum())} known entries. Something must be hidden to be scored. Raise the fraction."
        raise ValueError(msg)
    copy = adata.copy()
    with_gaps = sparse.csr_matrix(np.where(hidden, np.nan, counts))
    if layer is None:
        copy.X = with_gaps
    else:
        copy.layers[layer] = with_gaps
    model = fit(copy)

    observed = known & ~hidden
    visible = np.where(observed, counts, 0.0)
    predictions = {
        "zeros": zeros(visible, observed),
        "gene mean x depth": gene_mean_x_depth(visible, observed),
    }
    if labels_key is not None:
        predictions["label mean x depth"] = label_mean_x_depth(visible, observed, adata.obs[labels_key].to_numpy())
    predictions[MODEL_NAME] = model.get_imputed_counts(copy)
    truth = counts[hidden]
    at_hidden = {name: mean[hidden] for name, mean in predictions.items()}
    return Holdout(model, truth, at_hidden[MODEL_NAME], compare(truth, at_hidden))
