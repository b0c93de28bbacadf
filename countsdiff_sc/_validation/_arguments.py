"""Arguments of any kind."""

from __future__ import annotations

import difflib
import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

import numpy as np

from countsdiff_sc._counts import CountMatrix

from ._wording import brief

#: Names that nobody reads a list of.
_MANY = 20


def check_key(key: str, available: Iterable[str], *, where: str, argument: str) -> None:
    """Raise ``KeyError`` with the nearest names unless ``key`` is one of ``available``."""
    names = [str(name) for name in available]
    if key in names:
        return
    nearest = difflib.get_close_matches(str(key), names, n=3, cutoff=0.3) or names[:5]
    msg = (
        f"{argument}={key!r} is not in {where}. It must name an existing entry"
        f"{f' (nearest: {nearest})' if nearest else ', and there are none'}. Correct the name, or add the entry first."
    )
    raise KeyError(msg)


def check_no_further(arguments: Iterable[str], *, known: Sequence[str]) -> None:
    """Raise ``TypeError`` with the nearest names if there are ``arguments`` beyond the ``known`` ones."""
    for name in (each for each in arguments if each not in known):
        nearest = difflib.get_close_matches(name, known, n=1)
        rule = f" It must be one of {known}." if len(known) <= _MANY else ""
        msg = f"{name!r} is not an argument.{rule} {f'Was {nearest[0]!r} meant?' if nearest else 'Leave it out.'}"
        raise TypeError(msg)


def check_can_be_saved(arguments: Mapping[str, object]) -> None:
    """Raise ``TypeError`` for an argument of a model that cannot be pickled, before anything is written."""
    for name, value in arguments.items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            msg = (
                f"{name}={brief(value)} cannot be saved: {error}. A function or class must be one that can be imported, from the top "
                "level of a module, not a lambda. Define it there, make the model with it, and train again."
            )
            raise TypeError(msg) from error


def check_not_string(name: str, value: object) -> None:
    """Raise ``TypeError`` for a string in place of a list of names, which would be taken letter by letter."""
    if isinstance(value, str):
        msg = f"{name}={value!r} is a string. It must be a list of names. Pass [{value!r}]."
        raise TypeError(msg)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        msg = f"{name}={value!r} is not known. It must be one of {list(choices)}. Pass one of these."
        raise ValueError(msg)


def check_number(name: str, value: object, *, low: float, high: float = math.inf, integer: bool = False) -> None:
    """Raise unless ``value`` is a finite number, whole if ``integer``, in ``[low, high]``.

    Raises
    ------
    TypeError
        If it is no number of that kind.
    ValueError
        If it is out of range.
    """
    kind, noun = (Integral, "an integer") if integer else (Real, "a number")
    rule = f"{noun} of at least {low:g}" if high == math.inf else f"{noun} between {low:g} and {high:g}"
    if not isinstance(value, kind) or isinstance(value, bool):
        msg = f"{name}={value!r} is a {type(value).__name__}. It must be {rule}. Pass such a number."
        raise TypeError(msg)
    if not low <= value <= high or not math.isfinite(value):
        msg = f"{name}={value!r} is out of range. It must be {rule}. Pass a value in that range."
        raise ValueError(msg)


def check_quantiles(quantiles: Sequence[float] | None) -> None:
    """Raise ``ValueError`` unless ``quantiles`` is None or a sequence of levels strictly between 0 and 1."""
    if quantiles is None:
        return
    levels = np.asarray(quantiles)
    is_valid = levels.ndim == 1 and levels.size and np.issubdtype(levels.dtype, np.floating)
    if not is_valid or not ((levels > 0.0) & (levels < 1.0)).all():
        msg = (
            f"quantiles={brief(quantiles)} are not levels. They must be a sequence of numbers strictly between 0 and 1, at "
            "least one. Pass for example quantiles=(0.05, 0.95)."
        )
        raise ValueError(msg)


def check_indices(indices, n_obs: int) -> np.ndarray:
    """Return distinct row numbers, or raise ``ValueError``; a boolean mask over cells is accepted."""
    if indices is None:
        return np.arange(n_obs)
    rows = np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n_obs,):
        rows = np.flatnonzero(rows)
    is_valid = rows.ndim == 1 and rows.size and np.issubdtype(rows.dtype, np.integer)
    if not is_valid or rows.min() < 0 or rows.max() >= n_obs or len(np.unique(rows)) < len(rows):
        msg = (
            f"indices={brief(indices)} does not select cells. It must hold distinct integers in [0, {n_obs}), at least one, "
            "or a boolean per cell. Pass for example np.flatnonzero(adata.obs['batch'] == 'a')."
        )
        raise ValueError(msg)
    return rows


def check_devices(devices: int | list[int] | str, strategy: object) -> None:
    """Raise ``ValueError`` for several devices without a strategy, whose minibatches scvi-tools does not deal out."""
    try:
        n_devices = len(devices) if isinstance(devices, (list, tuple)) else int(devices)
    except ValueError:  # "auto", which is one
        return
    if n_devices > 1 and strategy is None:
        msg = (
            f"devices={devices!r} was given without a strategy. Several devices need to be told how they work together. Pass "
            "strategy='ddp', or 'ddp_notebook' in a notebook, or one device."
        )
        raise ValueError(msg)


def check_precision(precision: str | int | None) -> None:
    """Raise ``ValueError`` for a precision that has the weights themselves in 16 bits."""
    if str(precision) in {"bf16-true", "16-true"}:
        msg = (
            f"precision={precision!r} stores weights and counts in 16 bits, which hold no whole number above "
            f"{256 if precision == 'bf16-true' else 2048:,} exactly. Weights must be of 32 or 64 bits. Pass 'bf16-mixed', which has matrix "
            "products in 16 bits, or '32-true'."
        )
        raise ValueError(msg)


def check_output_layer(layer: str, matrix: CountMatrix, *, written_before: bool) -> None:
    """Raise ``ValueError`` if writing ``layer`` would destroy the input or somebody else's layer."""
    # "X" names generated counts in the records.
    if not isinstance(layer, str) or layer in {"", "X"} or "/" in layer:
        msg = (
            f"layer={layer!r} cannot name a layer. It must be a string without '/', and not 'X'. Pass for example "
            "layer='imputed'."
        )
    elif layer in {matrix.layer, matrix.mask_layer}:
        msg = (
            f"layer={layer!r} is the layer the model reads. impute writes its result there and never overwrites its "
            "input. Choose another name, for example layer='imputed'."
        )
    elif layer in matrix.adata.layers and not written_before:
        msg = (
            f"layer={layer!r} exists in {matrix.holder} and was not written by impute. Only layers that impute wrote are "
            f"overwritten. Choose another name, or delete it first: del {matrix.holder}.layers[{layer!r}]."
        )
    else:
        return
    raise ValueError(msg)
