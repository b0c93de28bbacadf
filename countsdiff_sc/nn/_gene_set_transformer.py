"""The default denoiser: attention over a few learned gene sets, so cost is linear in genes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._blocks import ModulatedBlock
from ._denoiser import freeman_tukey_residual
from ._members import MemberLinear


class GeneSetTransformer(nn.Module):
    """Read a cell into gene-set tokens, run transformer blocks over them, read back to genes.

    Parameters
    ----------
    n_genes
        Number of genes ``G``.
    n_members
        Number of networks ``E`` of this kind, side by side.
    n_tokens
        Number of gene-set tokens ``M``.
    width
        Token width ``H``.
    context_width
        Width ``C`` of what is known about a cell besides its counts. It modulates the blocks and is read out beside the
        tokens, so that labels tell where little is visible.
    n_layers
        Transformer blocks.
    n_heads
        Attention heads.
    dropout
        Dropout inside the blocks.
    input_dropout
        Probability with which a visible gene is left out of the read-in.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        n_members: int = 1,
        n_tokens: int = 5,
        width: int = 32,
        context_width: int = 64,
        n_layers: int = 1,
        n_heads: int = 1,
        dropout: float = 0.0,
        input_dropout: float = 0.2,
    ):
        super().__init__()
        self.n_members, self.n_tokens, self.width = n_members, n_tokens, width
        self.context_width, self.input_dropout = context_width, input_dropout
        self.read_in = MemberLinear(n_members, n_genes, n_tokens * width)
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, context_width, n_heads, dropout, n_members) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.n_features = n_tokens * width + context_width
        self.read_log_ratio = MemberLinear(n_members, self.n_features, n_genes)
        self.read_log_dispersion = LogDispersion(n_members, width, n_genes)
        # Start from the depth-scaled mean profile.
        nn.init.normal_(self.read_log_ratio.weight, std=2e-3)
        nn.init.zeros_(self.read_log_ratio.bias)

    def forward(
        self,
        x_t: Tensor,
        survival_prob: Tensor,
        base_rate: Tensor,
        context: Tensor,
        genes: slice | Tensor = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Log-ratio to ``base_rate`` and log inverse dispersion of ``genes``, each ``(E, B, G)``."""
        tokens = self.encode(x_t, survival_prob, base_rate, context)
        # The dispersion reads the tokens but does not shape them: they serve the mean.
        log_dispersion = self.read_log_dispersion(tokens.detach().mean(2), genes)
        return self.read_log_ratio(self.features(tokens, context), genes), log_dispersion

    def features(self, tokens: Tensor, context: Tensor) -> Tensor:
        """What is read out to genes, ``(E, B, M H + C)``."""
        return torch.cat([tokens.flatten(2), F.silu(context)], dim=-1)

    def encode(self, x_t: Tensor, survival_prob: Tensor, base_rate: Tensor, context: Tensor) -> Tensor:
        """Tokens ``(E, B, M, H)`` of cells."""
        dropout = self.input_dropout if self.training else 0.0
        cells = (tensor.flatten(0, 1) for tensor in (x_t, survival_prob, base_rate))
        residual = freeman_tukey_residual(*cells, dropout=dropout).view_as(x_t)
        # The residuals tell what is hidden as well: theirs are 0, which those of visible entries hardly ever are.
        tokens = self.read_in(residual).unflatten(2, (self.n_tokens, self.width))
        for block in self.blocks:
            tokens = block(tokens, context)
        return self.norm(tokens)


class LogDispersion(MemberLinear):
    """Log inverse dispersion of each gene: a level common to all, an offset of the gene, and what a cell's features say.

    Most genes have few molecules, which say little about their own dispersion and much about that of all genes together
    (as in Robinson & Smyth 2007). The training plan has the level learn fastest.

    Parameters
    ----------
    n_members
        Number of networks ``E``.
    in_features
        Features of a cell.
    n_genes
        Number of genes ``G``.
    """

    def __init__(self, n_members: int, in_features: int, n_genes: int):
        super().__init__(n_members, in_features, n_genes)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
        self.common_bias = nn.Parameter(torch.ones(n_members, 1, 1))  # a moderate dispersion

    def offset(self, columns: slice | Tensor) -> Tensor:
        """The level with the offsets of genes, ``(E, 1, G)`` or some columns of that."""
        return super().offset(columns) + self.common_bias
