"""Several networks side by side: one call of a layer serves all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemberLinear(nn.Module):
    """A linear map for each of ``E`` networks, initialised as :class:`torch.nn.Linear`.

    A training step of small networks spends its time on starting operations, so these are shared: the networks are an axis
    of every tensor.

    Parameters
    ----------
    n_members
        Number of networks ``E``.
    in_features, out_features
        Sizes of input and output.
    bias
        Whether there is a bias.
    """

    def __init__(self, n_members: int, in_features: int, out_features: int, *, bias: bool = True):
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(n_members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_members, 1, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(E, N, in)``, or ``(1, N, in)`` that all networks share, to ``(E, N, out)``."""
        x = x.expand(len(self.weight), -1, -1)
        return torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)
