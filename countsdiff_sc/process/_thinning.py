"""The forward process: binomial thinning."""

from __future__ import annotations

import torch
from torch import Tensor

from countsdiff_sc.kernels import thin_counts

from ._compiled import drawn_seed


def thin(x_0: Tensor, survival_prob: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Keep each molecule independently with a given probability.

    Draws :math:`x_t \sim \mathrm{Binomial}(x_0, p)`, the marginal at time ``t`` of the pure-death process started at
    ``x_0`` (CountsDiff, Section 3). Thinning from ``s`` to ``t > s`` is the same call with ``p(t) / p(s)``.

    Parameters
    ----------
    x_0
        Counts (molecules): a floating tensor of non-negative integers, shape ``(B, G)``.
    survival_prob
        Probability in ``[0, 1]`` that a molecule survives, broadcastable to ``x_0``.
    generator
        Source of randomness on the device of ``x_0``; ``None`` uses the global one.

    Returns
    -------
    Thinned counts, same shape, dtype and device as ``x_0``.

    Notes
    -----
    On a CPU a compiled loop over the molecules does the work, elsewhere :func:`torch.binomial`.

    Nothing is checked here, because a check would stop the device at every step: of fractions, negative counts and NaN the loop
    makes small counts, and :func:`torch.binomial` others, without a word. Counts are checked once, where the user hands them in.

    Examples
    --------
    >>> thin(torch.tensor([[4.0, 0.0]]), torch.tensor([[1.0]]))
    tensor([[4., 0.]])
    """
    survival_prob = survival_prob.expand_as(x_0)
    if x_0.device.type != "cpu":
        return torch.binomial(x_0, survival_prob, generator=generator)
    n_columns = x_0.shape[-1] if x_0.ndim else 1
    rows = (x_0.numel() // max(n_columns, 1), n_columns)
    counts, prob = x_0.reshape(rows).numpy(), survival_prob.reshape(rows).numpy()
    thinned = thin_counts(counts, prob, seed=drawn_seed(generator), n_threads=torch.get_num_threads())
    return torch.from_numpy(thinned).view(x_0.shape)
