"""Columns of ``obs`` that condition the model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scvi import settings

from countsdiff_sc._constants import UNKNOWN_LABEL

from ._wording import some


def check_labels_are_names(values: pd.Series, *, column: str) -> None:
    """Raise ``TypeError`` unless labels are strings, as "unknown" is."""
    categories = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else pd.unique(values)
    others = [category for category in categories if not isinstance(category, str)]
    if others:
        msg = (
            f"{column} holds labels that are not strings (first: {others[0]!r}). Labels must be names. "
            f"Convert them: {column} = {column}.astype(str)."
        )
        raise TypeError(msg)


def check_no_missing_category(values: pd.Series, *, column: str) -> None:
    """Raise ``ValueError`` if a categorical condition is NaN for some cells."""
    n_missing = int(values.isna().sum())
    if not n_missing:
        return
    msg = (
        f"{column} is missing for {n_missing:,} of {len(values):,} cells. Every cell needs a category. "
        f"Name it, for example {column}.astype(object).fillna('unknown'), or leave the column out."
    )
    raise ValueError(msg)


def check_categories(values: pd.Series, known: Sequence, *, column: str) -> None:
    """Raise ``ValueError`` if a cell has a category that the model does not know, or none at all."""
    check_no_missing_category(values, column=column)
    unseen = [category for category in pd.unique(values) if category not in set(known)]
    if not unseen:
        return
    msg = (
        f"{column} holds {len(unseen)} categories the model was not trained on (first: {unseen[0]!r}). "
        f"Categories must be among {list(known)[:8]}{'' if len(known) <= 8 else f' ... ({len(known)} in all)'}. Map them to known ones"
        f"{f' or to {UNKNOWN_LABEL!r}' if UNKNOWN_LABEL in list(known) else ''}, or train on data that has them."
    )
    raise ValueError(msg)


def warn_of_unknown_labels(labels: pd.Series, *, column: str) -> None:
    """Say that labels are left open for a model that always saw them in training."""
    n_unknown = int((labels == UNKNOWN_LABEL).sum())
    if n_unknown:
        msg = (
            f"{column} is {UNKNOWN_LABEL!r} for {n_unknown:,} of {len(labels):,} cells, and the model was trained with p_uncond=0, so that "
            "it has met few such cells or none. What is imputed in them may be far off. Train with p_uncond=0.2, or label them."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


#: How unknown labels are spelled elsewhere, in small letters.
_UNKNOWN_ELSEWHERE = {"", "na", "n/a", "nan", "none", "null", "unknown", "<na>"}


def warn_of_other_unknown_labels(labels: pd.Series, *, column: str) -> None:
    """Say that there are labels which look like unknown ones, and are taken for a cell type."""
    alike = [name for name in pd.unique(labels) if name.strip().lower() in _UNKNOWN_ELSEWHERE and name != UNKNOWN_LABEL]
    if alike:
        msg = (
            f"{column} has the label {alike[0]!r}, which is learned as a cell type. Cells of unknown type are spelled {UNKNOWN_LABEL!r}. "
            f"Rename it, if that is meant: {column} = {column}.astype(str).replace({alike[0]!r}, {UNKNOWN_LABEL!r})."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def warn_of_unused_categories(values: pd.Series, *, column: str) -> None:
    """Say that there are categories of which no cell is there to learn from."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        unused = pd.Index(values.cat.categories.difference(values.unique(), sort=False))
        if len(unused):
            msg = (
                f"{column} has {len(unused)} categories without a cell{some(unused)}. Nothing is learned about them. Leave them out: "
                f"{column} = {column}.cat.remove_unused_categories()."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def check_finite(values: pd.Series, *, column: str) -> None:
    """Raise ``ValueError`` unless a continuous covariate is a finite number for every cell."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    n_bad = int((~np.isfinite(numbers)).sum())
    if n_bad:
        msg = (
            f"{column} is not a finite number for {n_bad:,} of {len(values):,} cells. Continuous covariates "
            "must be finite in every cell. Fill the gaps, or leave the column out."
        )
        raise ValueError(msg)


#: Standard deviations from the mean of the training data beyond which a network has seen no covariate.
_FAR = 10.0


def warn_of_far_covariates(values: pd.Series, location: float, scale: float, *, column: str) -> None:
    """Say that a covariate is far from all of the training data."""
    distance = (values.to_numpy(dtype=float) - location) / scale
    n_far = int((np.abs(distance) > _FAR).sum())
    if n_far:
        worst = values.to_numpy(dtype=float)[np.abs(distance).argmax()]
        msg = (
            f"{column} is more than {_FAR:g} standard deviations from the mean of the training data, {location:g}, in {n_far:,} of "
            f"{len(values):,} cells (furthest: {worst:g}). What is imputed there means little. Check its unit."
        )
        warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
