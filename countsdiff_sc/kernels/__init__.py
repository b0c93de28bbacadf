"""Compiled loops for what vectors cannot do well on a CPU. Each has a plain counterpart that its tests compare it with."""

from ._ranks import group_correlations
from ._thinning import thin_counts

__all__ = ["group_correlations", "thin_counts"]
