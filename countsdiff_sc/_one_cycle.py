"""The schedule of learning rates that all models here are trained with."""

from __future__ import annotations

import torch

#: Least fraction of the steps in which the learning rate rises: the schedule needs a step to rise in.
MIN_WARMUP_FRACTION = 1e-3


def one_cycle(
    optimizer: torch.optim.Optimizer, n_steps: int, *, warmup_fraction: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Up to each group's own learning rate in a fraction of the steps, then down to nearly 0 (Smith & Topin 2018).

    The first of Adam's betas is cycled too, from 0.95 to 0.85 and back, whatever the optimiser was given.

    Parameters
    ----------
    optimizer
        Its groups have their peak learning rates.
    n_steps
        Steps that are to be taken, at least 1.
    warmup_fraction
        Fraction of them in which the rate rises, in ``[MIN_WARMUP_FRACTION, 1]``.
    """
    # It divides by the length of its rise, less one step.
    total_steps = max(int(n_steps) + 1, int(1.0 / warmup_fraction) + 1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps, pct_start=float(warmup_fraction))
