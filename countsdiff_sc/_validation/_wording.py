"""Parts of messages."""

from __future__ import annotations

import pandas as pd


def some(names: pd.Index) -> str:
    """The first names, to be put behind what they are examples of."""
    return f" ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})" if len(names) else ""
