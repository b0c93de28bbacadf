"""The forward process of a training minibatch: which entries are observed, and what is left of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from countsdiff_sc import kernels

from ._compiled import arrays, compiles, drawn_seed
from ._thinning import thin


def corrupt(
    x_0: Tensor,
    *,
    observed_prob: Tensor,
    exposure: Tensor,
    survival_prob: Tensor,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a random observed set, and thin the entries of and outside it.

    Parameters
    ----------
    x_0
        Counts (molecules), NaN where there is none, shape ``(B, G)``.
    observed_prob
        Probability with which a known entry is observed, shape ``(B, G)``.
    exposure
        Probability that a molecule of an observed entry is visible, 1 for observed in full; shape ``(B, 1)``.
    survival_prob
        That of the other known entries, shape ``(B, 1)``.
    generator
        Source of randomness on the device of ``x_0``.

    Returns
    -------
    Visible counts ``x_t``, 0 where unknown; the molecules lost, which are the target of training, and NaN where none can
    have been, or nothing is known; and the probability with which each entry's molecules are visible, 0 where unknown:
    each of shape ``(B, G)``. Also the number of targets in each cell, ``(B, 1)``.
    """
    if compiles(x_0, observed_prob):
        seed, n_threads = drawn_seed(generator), torch.get_num_threads()
        cells = arrays(exposure.float().flatten(), survival_prob.float().flatten())
        found = kernels.corrupt(*arrays(x_0, observed_prob), *cells, seed=seed, n_threads=n_threads)
        *matrices, n_targets = map(torch.from_numpy, found)
        return *matrices, n_targets.unsqueeze(1)
    observed = torch.rand(x_0.shape, generator=generator, device=x_0.device) < observed_prob
    known, x_0 = x_0 == x_0, torch.nan_to_num(x_0)
    prob = known * torch.lerp(survival_prob, exposure, observed.to(x_0.dtype))
    x_t, is_target = thin(x_0, prob, generator=generator), known & (prob < 1.0)
    return x_t, (x_0 - x_t).masked_fill(~is_target, torch.nan), prob, is_target.sum(1, keepdim=True).to(x_0.dtype)
