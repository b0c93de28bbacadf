"""Hide entries, impute them, compare with what was hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from ._baselines import BASELINES
from ._masks import MECHANISMS
from ._metrics import poisson_deviance, rmse_log1p

#: Name of the model's row in a table.
MODEL_NAME = "CountsDiffSC"
#: What scvi-tools knows an AnnData by.
SCVI_IDENTIFIERS = ("_scvi_uuid", "_scvi_manager_uuid")
#: Baselines that cost nothing.
SIMPLE_BASELINES = ("zeros", "gene mean x depth", "label mean x depth")


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
    mechanism: str = "mcar",
    fraction: float = 0.1,
    baselines: Sequence[str] = SIMPLE_BASELINES,
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
        As given to :meth:`countsdiff_sc.CountsDiffSC.setup_anndata`.
    mechanism
        How entries are chosen: ``"mcar"``, ``"mar"``, ``"mnar_low"`` or ``"mnar_high"``.
    fraction
        Expected fraction of entries that is hidden.
    baselines
        Names of what to compare with; those that need labels are left out where there are none.
    seed
        Seed of the mask.

    Raises
    ------
    ValueError
        If ``mechanism`` or a baseline is not known, nothing is hidden, or ``adata`` is backed.

    Notes
    -----
    Works on dense copies: a few times ``4 * n_obs * n_vars`` bytes.
    """
    for name in baselines:
        _check_known("baselines", name, BASELINES)
    _check_known("mechanism", mechanism, MECHANISMS)
    if adata.isbacked:
        msg = "adata is backed. Entries can only be hidden in memory. Pass adata.to_memory(), or a subset of it."
        raise ValueError(msg)
    counts = adata.X if layer is None else adata.layers[layer]
    counts = np.asarray(counts.toarray() if sparse.issparse(counts) else counts, dtype=np.float32)
    known = ~np.isnan(counts)
    if observed_mask_layer is not None:
        mask = adata.layers[observed_mask_layer]
        known &= mask.toarray() if sparse.issparse(mask) else np.asarray(mask)
    hidden = known & ~MECHANISMS[mechanism](np.where(known, counts, 0.0), fraction, seed=seed)
    if not hidden.any() or not (known & ~hidden).any():
        msg = (
            f"fraction={fraction} hides {int(hidden.sum()):,} of the {int(known.sum()):,} known entries. Some must be hidden "
            "to be scored, and some left to learn from. Choose a fraction between 0 and 1, for example 0.5."
        )
        raise ValueError(msg)
    copy = adata.copy()
    for key in SCVI_IDENTIFIERS:  # the copy is another object, and setting it up must not touch the original's
        copy.uns.pop(key, None)
    with_gaps = sparse.csr_matrix(np.where(hidden, np.nan, counts))
    if layer is None:
        copy.X = with_gaps
    else:
        copy.layers[layer] = with_gaps
    model = fit(copy)

    observed = known & ~hidden
    visible = np.where(observed, counts, 0.0)
    labels = None if labels_key is None else adata.obs[labels_key].astype(str).to_numpy()
    predictions = {
        name: BASELINES[name].impute(visible, observed, labels)[hidden]
        for name in baselines
        if labels is not None or not BASELINES[name].needs_labels
    }
    predictions[MODEL_NAME] = model.get_imputed_counts(copy)[hidden]
    truth = counts[hidden]
    return Holdout(model, truth, predictions[MODEL_NAME], compare(truth, predictions))


def _check_known(argument: str, name: str, known: Mapping[str, object]) -> None:
    if name in known:
        return
    msg = f"{argument}={name!r} is not known. It must be one of {sorted(known)}. Correct the name."
    raise ValueError(msg)
