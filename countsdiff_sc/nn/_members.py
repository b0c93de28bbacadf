"""Several networks side by side: one call of a layer serves all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: From so many multiply-adds on, products of one network after another are faster on a CPU than a batched product, which
#: gives every thread whole networks: three of them keep two threads busy for three quarters of the time.
_LARGE = 2**22


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

    def forward(self, x: Tensor, columns: slice | Tensor = slice(None)) -> Tensor:
        """Map ``(E, N, in)``, or ``(1, N, in)`` that all networks share, to ``(E, N, out)``, or some columns of that."""
        weight, bias = self.weight[:, :, columns], self.offset(columns)
        x = x.expand(len(weight), -1, -1)
        is_large = x.shape[1] * weight[0].numel() >= _LARGE
        if is_large and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            return _MapOfEach.apply(x, weight, bias)
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)

    def offset(self, columns: slice | Tensor) -> Tensor | None:
        """What is added to the products, ``(E, 1, out)`` or some columns of that; None without a bias."""
        return None if self.bias is None else self.bias[:, :, columns]


class _MapOfEach(torch.autograd.Function):
    """The linear maps, ``(E, N, in)`` by ``(E, in, out)`` plus ``(E, 1, out)`` or None, one after another."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _products(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x = _products(gradient, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        by_bias = gradient.sum(1, keepdim=True) if ctx.needs_input_grad[2] else None
        return by_x, _products(x.transpose(1, 2), gradient), by_bias


def _products(left: Tensor, right: Tensor, offset: Tensor | None = None) -> Tensor:
    result = left.new_empty(len(left), left.shape[1], right.shape[2])
    for member, (a, b, out) in enumerate(zip(left, right, result, strict=True)):
        if offset is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(offset[member], a, b, out=out)
    return result
