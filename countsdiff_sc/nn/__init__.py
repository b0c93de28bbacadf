"""Denoisers: networks that predict how many molecules an entry has lost."""

from ._context import CellContext, Conditions
from ._denoiser import CountDenoiser
from ._full_attention import FullAttention
from ._gene_set_transformer import GeneSetTransformer

__all__ = ["CellContext", "Conditions", "CountDenoiser", "FullAttention", "GeneSetTransformer"]
