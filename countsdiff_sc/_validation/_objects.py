"""AnnData and MuData objects, their cells and genes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from ._wording import some


def check_type(data: object) -> None:
    """Raise ``TypeError`` unless ``data`` is an AnnData or a MuData."""
    if data is None:
        _raise_without_data()
    if not isinstance(data, (AnnData, MuData)):
        msg = (
            f"The data are a {type(data).__name__}. CountsDiffSC takes an AnnData or a MuData. "
            "Wrap a matrix with anndata.AnnData(X)."
        )
        raise TypeError(msg)


def _raise_without_data() -> None:
    msg = (
        "The model was loaded without data. It needs some to work on. Pass them as adata, or load the model with them."
    )
    raise TypeError(msg)


def check_anndata(data: object, *, method: str) -> None:
    """Raise ``TypeError`` unless ``data`` is an AnnData, for methods that take nothing else."""
    if data is None:
        _raise_without_data()
    if not isinstance(data, AnnData):
        remedy = (
            "Pass one modality, for example mdata['rna']"
            if isinstance(data, MuData)
            else "Wrap a matrix with AnnData(X)"
        )
        msg = f"{method} was given a {type(data).__name__}. It takes an AnnData. {remedy}."
        raise TypeError(msg)


def check_mudata(data: object, *, method: str) -> None:
    """Raise ``TypeError`` unless ``data`` is a MuData."""
    if not isinstance(data, MuData):
        msg = (
            f"{method} was given a {type(data).__name__}. It takes a MuData. Set up an AnnData by itself, or "
            "combine modalities with mudata.MuData({'rna': rna, 'prot': protein})."
        )
        raise TypeError(msg)


def named_layers(adata: AnnData) -> list[str]:
    """Names of the layers. From anndata 0.13 on ``X`` is among them, under no name."""
    return [name for name in adata.layers if name is not None]


def check_not_view(data: AnnData | MuData, *, name: str) -> None:
    """Raise ``ValueError`` for a view, to which nothing can be registered."""
    if data.is_view:
        msg = (
            f"{name} is a view of another object, as after {name}[:, genes]. Setting up writes to it, so it must be an "
            f"object of its own. Call {name} = {name}.{'to_memory' if getattr(data, 'isbacked', False) else 'copy'}() first."
        )
        raise ValueError(msg)


def check_not_empty(n_obs: int, n_vars: int, *, where: str) -> None:
    """Raise ``ValueError`` for an object without cells or without genes."""
    if n_obs and n_vars:
        return
    msg = (
        f"{where} has {n_obs} cells and {n_vars} genes. CountsDiffSC needs at least one of each. "
        "Check the filtering that came before."
    )
    raise ValueError(msg)


def check_same_cells(found: pd.Index, expected: pd.Index, *, modality: str) -> None:
    """Raise ``ValueError`` unless a modality holds the cells of its MuData, in the same order."""
    if found.equals(expected):
        return
    problem = "in another order" if len(found) == len(expected) and found.isin(expected).all() else "not all of them"
    msg = (
        f"mdata.mod[{modality!r}] has {len(found):,} of the {len(expected):,} cells of mdata, {problem}. Every modality "
        "must hold the same cells in the same order; they are paired by position. Reorder with "
        f"mdata.mod[{modality!r}][mdata.obs_names], or add cells that lack it with NaN counts, and make a new MuData."
    )
    raise ValueError(msg)


def check_var_names(found: Sequence[str], expected: Sequence[str], *, where: str) -> None:
    """Raise ``ValueError`` unless the genes are those of the trained model, in the same order."""
    found, expected = pd.Index(found), pd.Index(expected)
    if found.equals(expected):
        return
    if not found.is_unique:
        repeated = found[found.duplicated()].unique()
        msg = (
            f"{where} has {len(repeated)} gene names twice{some(repeated)}. Genes must have names of their own. Call "
            "var_names_make_unique()."
        )
        raise ValueError(msg)
    missing, extra = expected.difference(found, sort=False), found.difference(expected, sort=False)
    genes = "model.var_names" if where == "adata" else f"model.adata{where.removeprefix('mdata')}.var_names"
    if len(missing) or len(extra):
        problem = (
            f"lacks {len(missing)} genes of the trained model{some(missing)} and has {len(extra)} it does not know"
            f"{some(extra)}"
        )
        remedy = (
            f"Subset with {where}[:, {genes}]"
            if not len(missing)
            else "Subset to the shared genes before training, or add the lacking genes as NaN columns: they are imputed"
        )
    else:
        first = int(np.flatnonzero(found.to_numpy() != expected.to_numpy())[0])
        problem = f"has the genes of the trained model in another order (first at {first}: {found[first]!r} for {expected[first]!r})"
        remedy = f"Reorder with {where}[:, {genes}]"
    msg = f"{where} {problem}. Genes must be those the model was trained on, in the same order. {remedy}."
    raise ValueError(msg)
