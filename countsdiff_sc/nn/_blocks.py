"""A pre-norm transformer block whose normalisations are shifted, scaled and gated by a cell's context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._members import MemberLinear


class ModulatedBlock(nn.Module):
    """Self-attention and a two-layer perceptron over tokens, modulated by a context vector (adaLN, Peebles & Xie 2023).

    Parameters
    ----------
    width
        Token width ``H``.
    context_width
        Width ``C`` of the context.
    n_heads
        Attention heads; must divide ``width``.
    dropout
        Probability with which a number in a residual branch's output is dropped.
    n_members
        Number of networks ``E``, each with a block of its own.
    """

    def __init__(self, width: int, context_width: int, n_heads: int, dropout: float, n_members: int = 1):
        super().__init__()
        if width % n_heads:
            msg = f"width={width} is not divisible by n_heads={n_heads}. Heads share the width evenly. Change one of them."
            raise ValueError(msg)
        self.n_heads = n_heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = MemberLinear(n_members, width, 3 * width, bias=False)
        # Values of a single head are linear in the tokens already, and need no second map.
        self.attention_out = MemberLinear(n_members, width, width, bias=False) if n_heads > 1 else nn.Identity()
        self.mlp_in = MemberLinear(n_members, width, 4 * width, bias=False)
        self.mlp_out = MemberLinear(n_members, 4 * width, width, bias=False)
        # Zero, so that training starts from plain pre-norm blocks.
        self.modulation = MemberLinear(n_members, context_width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Map tokens ``(E, B, M, H)`` to tokens of the same shape, given context ``(E, B, C)``."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (
            self.modulation(F.silu(context)).unsqueeze(2).chunk(6, dim=-1)
        )
        hidden = torch.addcmul(shift_1, self.norm(tokens), 1.0 + scale_1)
        tokens = torch.addcmul(tokens, 1.0 + gate_1, self._drop(self._attend(hidden)))
        hidden = torch.addcmul(shift_2, self.norm(tokens), 1.0 + scale_2)
        hidden = self.mlp_out(F.relu(self.mlp_in(hidden.flatten(1, 2))))
        return torch.addcmul(tokens, 1.0 + gate_2, self._drop(hidden.view_as(tokens)))

    def _attend(self, hidden: Tensor) -> Tensor:
        n_members, n_cells, n_tokens, width = hidden.shape
        query, key, value = (
            self.qkv(hidden.flatten(1, 2))
            .view(n_members * n_cells, n_tokens, 3, self.n_heads, width // self.n_heads)
            .permute(2, 0, 3, 1, 4)
        )
        mixed = attention(query, key, value).transpose(1, 2).reshape(n_members, n_cells * n_tokens, width)
        return self.attention_out(mixed).view_as(hidden)

    def _drop(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, self.dropout, self.training)


#: Up to this many tokens plain matrix products are faster than the fused kernel on a CPU: by 3 times at 8 tokens.
_FEW_TOKENS = 32


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention; all of shape ``(N, heads, M, H / heads)``."""
    if query.device.type != "cpu" or query.shape[2] > _FEW_TOKENS:
        return F.scaled_dot_product_attention(query, key, value)
    # Keys before queries: a softmax over a short last axis is several times slower than one across rows.
    scores = key @ (query * query.shape[-1] ** -0.5).transpose(-1, -2)
    return torch.softmax(scores, dim=-2).transpose(-1, -2) @ value
