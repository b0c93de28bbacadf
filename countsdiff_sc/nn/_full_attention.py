"""Attention over single genes, as in the paper. Cost is quadratic in genes; kept for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._blocks import ModulatedBlock
from ._members import MemberLinear


class FullAttention(nn.Module):
    """A token per gene (gene embedding + count embedding) and one for time and conditions; attention over all of them.

    Parameters
    ----------
    n_genes
        Number of genes ``G``.
    n_members
        Number of networks ``E`` of this kind, side by side.
    width, n_layers, n_heads, dropout
        Transformer size; the defaults are the paper's for its first data set (CountsDiff, Appendix D). The blocks are
        those of the default denoiser, not the paper's.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        n_members: int = 1,
        width: int = 64,
        n_layers: int = 3,
        n_heads: int = 4,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.n_members, self.context_width = n_members, width
        self.gene_embedding = nn.Parameter(0.02 * torch.randn(n_members, 1, n_genes, width))
        self.count_embedding = MemberLinear(n_members, 2, width)  # log1p count and survival probability
        self.blocks = nn.ModuleList(ModulatedBlock(width, width, n_heads, dropout, n_members) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.read_log_ratio = MemberLinear(n_members, width, 1)
        self.read_log_dispersion = MemberLinear(n_members, width, 1)
        for read_out, bias in ((self.read_log_ratio, 0.0), (self.read_log_dispersion, 1.0)):
            nn.init.zeros_(read_out.weight)
            nn.init.constant_(read_out.bias, bias)

    def forward(
        self,
        x_t: Tensor,
        survival_prob: Tensor,
        base_rate: Tensor,
        context: Tensor,
        genes: slice | Tensor = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Log-ratio to ``base_rate`` and log inverse dispersion of ``genes``, each ``(E, B, G)``."""
        n_cells, n_genes = x_t.shape[1:]
        counts = torch.stack([x_t.log1p(), survival_prob], dim=-1).flatten(1, 2)
        embedded = self.gene_embedding + self.count_embedding(counts).unflatten(1, (n_cells, n_genes))
        tokens = torch.cat([context.unsqueeze(2), embedded], dim=2)
        for block in self.blocks:
            tokens = block(tokens, context)
        tokens = self.norm(tokens[:, :, 1:]).flatten(1, 2)
        # As in the default: the dispersion reads the tokens but does not shape them.
        read = self.read_log_ratio(tokens), self.read_log_dispersion(tokens.detach())
        return tuple(values.view(-1, n_cells, n_genes)[:, :, genes] for values in read)
