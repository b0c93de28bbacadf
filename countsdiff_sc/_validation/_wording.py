"""Parts of messages."""

from __future__ import annotations

import pandas as pd


def brief(value: object, *, length: int = 80) -> str:
    """What is written for a value, cut off where it is long; of an array the shape as well."""
    written = " ".join(repr(value).split())
    written = written if len(written) <= length else f"{written[:length]}..."
    shape = getattr(value, "shape", ())
    return f"{written} of shape {tuple(shape)}" if len(shape) else written


def some(names: pd.Index) -> str:
    """The first names, to be put behind what they are examples of."""
    return f" ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})" if len(names) else ""
