"""Hide entries, impute them, compare with what was hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.data._constants import _MANAGER_UUID_KEY, _SCVI_UUID_KEY

from countsdiff_sc._counts import dense
from countsdiff_sc._validation import check_anndata, check_choice, check_not_string, check_number

from ._masks import MECHANISMS
from ._quiet import let_go
from ._registry import BASELINES
from ._tables import compare, compare_draws

#: Name of the model's row in a table.
MODEL_NAME = "CountsDiffSC"
#: What scvi-tools knows an AnnData by.
SCVI_IDENTIFIERS = (_SCVI_UUID_KEY, _MANAGER_UUID_KEY)
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
        One row per method with the scores of its means (:func:`compare`); in the model's row also those of its draws
        (:func:`compare_draws`).
    """

    model: object
    truth: np.ndarray
    predicted: np.ndarray
    table: pd.DataFrame


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
    n_samples: int = 0,
    name: str = MODEL_NAME,
    seed: int = 0,
) -> Holdout:
    """Hide a fraction of the known entries, fit a model without them, and score it beside baselines.

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
        Expected fraction of the known entries that is hidden; with ``"mar"`` of those of nine tenths of the genes.
    baselines
        Names of what to compare with; those that need labels are left out where there are none.
    n_samples
        Draws by which the model's distribution is judged; 0 for none.
    name
        Name of the model's row.
    seed
        Seed of the mask and of the draws.

    Raises
    ------
    ImportError
        If a baseline needs a package that is not installed.
    KeyError
        If there is no such column of labels.
    TypeError
        For MuData, and if ``baselines`` is a string.
    ValueError
        If ``mechanism`` or a baseline is not known, nothing is hidden, or ``adata`` is backed.

    Notes
    -----
    Works on dense copies: a few times ``4 * n_obs * n_vars`` bytes, and as many again per four draws.

    Examples
    --------
    >>> import countsdiff_sc
    >>> adata = countsdiff_sc.datasets.pbmc68k_counts()
    >>> def fit(data):
    ...     model = countsdiff_sc.CountsDiffSC(data)
    ...     model.train()
    ...     return model
    >>> countsdiff_sc.evaluation.hold_out(adata, fit).table  # doctest: +SKIP
    """
    check_anndata(adata, method="hold_out")
    check_not_string("baselines", baselines)
    for baseline in baselines:
        check_choice("baselines", baseline, sorted(BASELINES))
    check_choice("mechanism", mechanism, sorted(MECHANISMS))
    check_number("n_samples", n_samples, low=0, integer=True)
    labels = get_labels(adata, labels_key)
    counts, known = dense_counts(adata, layer, observed_mask_layer)
    hidden = known & ~MECHANISMS[mechanism](np.where(known, counts, np.nan), fraction, seed=seed)
    check_hidden(fraction, hidden, known)
    copy = with_gaps(adata, layer, counts, hidden)
    model = fit(copy)
    let_go(model, copy)
    _check_reads_the_gaps(model, layer=layer, observed_mask_layer=observed_mask_layer)
    observed = known & ~hidden
    visible = np.where(observed, counts, 0.0)
    predictions = {
        baseline: BASELINES[baseline].impute(visible, observed, labels)[hidden]
        for baseline in baselines
        if labels is not None or not BASELINES[baseline].needs_labels
    }
    predictions[name] = model.get_imputed_counts(copy)[hidden]
    table = compare(counts[hidden], predictions, entries=np.nonzero(hidden))
    if n_samples:
        drawn = model.get_imputed_counts(copy, estimate="sample", n_samples=n_samples, seed=seed)
        drawn = [draw.toarray() for draw in (drawn if isinstance(drawn, list) else [drawn])]
        # What is missing in truth is not compared.
        drawn = [np.where(known, draw, 0.0) for draw in drawn]
        table = table.join(compare_draws(np.where(known, counts, 0.0), {name: drawn}, hidden, seed=seed))
    return Holdout(model, counts[hidden], predictions[name], table)


def _check_reads_the_gaps(model, **expected: str | None) -> None:
    """Raise ``ValueError`` for a model that was set up on a layer in which nothing was hidden."""
    found = model.registry["setup_args"]
    for argument, name in expected.items():
        if found[argument] != name:
            msg = (
                f"fit set its model up with {argument}={found[argument]!r}, and hold_out was given {argument}={name!r}. Entries are hidden "
                f"in what hold_out is told, so that the model has seen them. Pass {argument}={found[argument]!r} to hold_out as well."
            )
            raise ValueError(msg)


def get_labels(adata: AnnData, labels_key: str | None) -> np.ndarray | None:
    """Label of each cell, as strings, or None without a key."""
    if labels_key is None:
        return None
    if labels_key not in adata.obs:
        msg = (
            f"adata.obs has no column {labels_key!r}; it has {list(adata.obs.columns)}. The labels the model was set up with "
            "must be there. Add the column, or pass the data the model was set up with."
        )
        raise KeyError(msg)
    return adata.obs[labels_key].astype(str).to_numpy()


def check_hidden(fraction: float, hidden: np.ndarray, known: np.ndarray) -> None:
    """Raise ``ValueError`` unless some known entries are hidden and some are not."""
    if not hidden.any() or not (known & ~hidden).any():
        msg = (
            f"fraction={fraction} hides {int(hidden.sum()):,} of the {int(known.sum()):,} known entries. Some must be hidden "
            "to be scored, and some left to learn from. Choose a fraction between 0 and 1, for example 0.5."
        )
        raise ValueError(msg)


def dense_counts(adata: AnnData, layer: str | None, observed_mask_layer: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Counts, and where they are known."""
    if adata.isbacked:
        msg = "adata is backed. Entries can only be hidden in memory. Pass adata.to_memory(), or a subset of it."
        raise ValueError(msg)
    counts = adata.X if layer is None else adata.layers[layer]
    counts = np.asarray(dense(counts), dtype=np.float32)
    known = ~np.isnan(counts)
    if observed_mask_layer is not None:
        known &= dense(adata.layers[observed_mask_layer])
    return counts, known


def with_gaps(adata: AnnData, layer: str | None, counts: np.ndarray, hidden: np.ndarray) -> AnnData:
    """A copy with NaN at the hidden entries."""
    copy = adata.copy()
    for key in SCVI_IDENTIFIERS:  # the copy is another object, and setting it up must not touch the original's
        copy.uns.pop(key, None)
    with_gaps = sparse.csr_matrix(np.where(hidden, np.nan, counts))
    if layer is None:
        copy.X = with_gaps
    else:
        copy.layers[layer] = with_gaps
    return copy
