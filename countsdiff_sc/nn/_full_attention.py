"""Attention over single genes, as in the paper. Cost is quadratic in genes; kept for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._blocks import ModulatedBlock


class FullAttention(nn.Module):
    """A token per gene (gene embedding + count embedding) and one for time and conditions; attention over all of them.

    Parameters
    ----------
    n_genes
        Number of genes ``G``.
    width, n_layers, n_heads, dropout
        Transformer size; the defaults are the paper's for its first data set (CountsDiff, Appendix D). The blocks are
        those of the default denoiser, not the paper's.
    """

    def __init__(self, n_genes: int, *, width: int = 64, n_layers: int = 3, n_heads: int = 4, dropout: float = 0.1):
        super().__init__()
        self.width = width
        self.gene_embedding = nn.Parameter(0.02 * torch.randn(n_genes, width))
        self.count_embedding = nn.Linear(2, width)  # log1p count and survival probability
        self.blocks = nn.ModuleList(ModulatedBlock(width, n_heads, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width)
        self.read_log_ratio = nn.Linear(width, 1)
        self.read_log_dispersion = nn.Linear(width, 1)
        for read_out, bias in ((self.read_log_ratio, 0.0), (self.read_log_dispersion, 1.0)):
            nn.init.zeros_(read_out.weight)
            nn.init.constant_(read_out.bias, bias)

    def forward(self, x_t: Tensor, survival_prob: Tensor, base_rate: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Log-ratio to ``base_rate`` and log inverse dispersion, each ``(B, G)``."""
        counts = torch.stack([x_t.log1p(), survival_prob], dim=-1)
        tokens = torch.cat([context.unsqueeze(1), self.gene_embedding + self.count_embedding(counts)], dim=1)
        for block in self.blocks:
            tokens = block(tokens, context)
        tokens = self.norm(tokens[:, 1:])
        # As in the default: the dispersion reads the tokens but does not shape them.
        return self.read_log_ratio(tokens).squeeze(-1), self.read_log_dispersion(tokens.detach()).squeeze(-1)
