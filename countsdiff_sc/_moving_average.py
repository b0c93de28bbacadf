"""The average of a network's weights over its training, which is what imputes."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """Exponential moving average of a network's weights; the decay grows with the steps as ``(1 + n) / (10 + n)``.

    The start is forgotten soon that way. Afterwards the average moves at every fourth step only, by as much as in four: weights
    change little in so few, and a move reads all of them and writes as many. Unlike its parent it reads nothing back from the
    device, which would stop that at every step.

    Parameters
    ----------
    net
        The network; a copy of it holds the average.
    decay
        Decay in the end, per step.
    """

    #: Steps from one move to the next, and how many have one each at first.
    EVERY, AT_FIRST = 4, 40

    def __init__(self, net: nn.Module, decay: float):
        super().__init__(net)
        self.decay = decay
        self._n_steps = 0  # n_averaged would have to be read back
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, net: nn.Module) -> None:
        """Count a step, and where a move is due make it, towards the weights of ``net``; at the first step all the way."""
        self._n_steps += 1
        n_steps = self.EVERY if self._n_steps > self.AT_FIRST else 1
        if self._n_steps % n_steps:
            return
        decay = ((1.0 + self.n_averaged) / (10.0 + self.n_averaged)).clamp(max=self.decay)
        weight = (1.0 - decay**n_steps).masked_fill(self.n_averaged == 0, 1.0)
        averaged, current = list(self.module.parameters()), list(net.parameters())
        torch._foreach_lerp_(averaged, current, [weight] * len(averaged))
        # Such as the running means of a user's layers.
        for kept, buffer in zip(self.module.buffers(), net.buffers(), strict=True):
            kept.copy_(buffer)
        self.n_averaged += n_steps
