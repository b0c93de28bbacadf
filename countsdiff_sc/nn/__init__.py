"""Denoisers: networks that predict how many molecules an entry has lost."""

from ._context import CellContext, Conditions
from ._denoiser import CountDenoiser
from ._full_attention import FullAttention
from ._gene_set_transformer import GeneSetTransformer
from ._molecules_lost import Readout

__all__ = ["CellContext", "Conditions", "CountDenoiser", "FullAttention", "GeneSetTransformer", "Readout"]
