"""The forward process of a training minibatch: which entries are observed, and what is left of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from countsdiff_sc import kernels

from ._compiled import arrays, compiles, drawn_seed
from ._thinning import thin


def corrupt(
    x_0: Tensor,
    known: Tensor,
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
        Counts (molecules), 0 where unknown, shape ``(B, G)``.
    known
        Whether there is a count, bool, shape ``(B, G)``.
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
    Visible counts ``x_t``; the molecules lost; the probability with which each entry's molecules are visible, 0 where
    unknown; and 1 where a known entry may have lost molecules, which are the target of training, else 0: each of shape
    ``(B, G)``.
    """
    if compiles(x_0, observed_prob):
        seed, n_threads = drawn_seed(generator), torch.get_num_threads()
        cells = arrays(exposure.float().flatten(), survival_prob.float().flatten())
        matrices = arrays(x_0, known.contiguous(), observed_prob)
        found = kernels.corrupt(*matrices, *cells, seed=seed, n_threads=n_threads)
        return tuple(torch.from_numpy(array) for array in found)
    observed = torch.rand(x_0.shape, generator=generator, device=x_0.device) < observed_prob
    # Products and interpolations by 0 and 1 rather than `where`, which is many times slower on a CPU.
    prob = known * torch.lerp(survival_prob, exposure, observed.to(x_0.dtype))
    x_t = thin(x_0, prob, generator=generator)
    return x_t, x_0 - x_t, prob, (known & (prob < 1.0)).to(x_0.dtype)
