"""From a prediction of the molecules lost to an integer number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from countsdiff_sc import kernels

from ._compiled import arrays, compiles, drawn_seed

#: Maps ``(expected_births, dispersion, generator)`` to an integer-valued draw of the molecules lost.
BirthRule = Callable[[Tensor, Tensor, "torch.Generator | None"], Tensor]


def negative_binomial_births(expected_births: Tensor, dispersion: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from the posterior itself, a negative binomial: right variance at any number of steps.

    On a CPU a compiled loop inverts the distribution function, elsewhere a Gamma rate is drawn, and a Poisson count with it.

    Raises
    ------
    ValueError
        On a CPU, where a law is not finite, or its mean above 2^24.
    """
    mean, shape = torch.atleast_2d(expected_births), torch.atleast_2d(dispersion)
    if not compiles(mean, shape):
        _check_means(expected_births, dispersion)
        return _gamma_poisson(expected_births, dispersion, generator)
    seed, n_threads = drawn_seed(generator), torch.get_num_threads()
    drawn, has_pending = kernels.draw_negative_binomial(*arrays(mean, shape), seed=seed, n_threads=n_threads)
    counts = torch.from_numpy(drawn)
    if has_pending:
        pending = (counts == kernels.PENDING).nonzero(as_tuple=True)
        counts[pending] = _gamma_poisson(*_finite(mean, shape, *pending), generator)
    return counts.view_as(expected_births)


def filled_by_draws(
    x: Tensor, mean: Tensor, dispersion: Tensor, n_draws: int, generator: torch.Generator | None
) -> Iterator[Tensor | sparse.csr_matrix]:
    """Counts with draws of :func:`negative_binomial_births` beside them, ``n_draws`` times.

    Parameters
    ----------
    x
        Observed counts (molecules), 0 where missing, shape ``(B, G)``.
    mean, dispersion
        Of the missing counts, shape ``(B, G)``; the mean is 0 elsewhere.
    n_draws
        Number of matrices.
    generator
        Source of randomness on the device of ``x``.

    Yields
    ------
    Tensors, or CSR where a compiled loop makes them at once.

    Raises
    ------
    ValueError
        In the latter case, where a law is not finite, or its mean above 2^24.
    """
    if not compiles(x, mean, dispersion):
        yield from (x + negative_binomial_births(mean, dispersion, generator) for _ in range(n_draws))
        return
    seeds = np.array([drawn_seed(generator) for _ in range(n_draws)], dtype=np.uint64)
    inputs, n_threads = arrays(x, mean, dispersion), torch.get_num_threads()
    for seed, matrix in zip(seeds, kernels.fill_with_draws(*inputs, seeds=seeds, n_threads=n_threads), strict=True):
        pending = np.flatnonzero(matrix.data == kernels.PENDING)
        if len(pending):
            rows, columns = np.searchsorted(matrix.indptr, pending, side="right") - 1, matrix.indices[pending]
            # A generator of its own, or a matrix would depend on how many there are.
            own = torch.Generator().manual_seed(int(seed))
            matrix.data[pending] = _gamma_poisson(*_finite(mean, dispersion, rows, columns), own).numpy()
            matrix.eliminate_zeros()
        yield matrix


def _finite(
    mean: Tensor, dispersion: Tensor, rows: np.ndarray | Tensor, columns: np.ndarray | Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and inverse dispersion of some entries."""
    laws = mean[rows, columns], dispersion[rows, columns]
    is_wrong = ~((laws[0] <= kernels.MAX_COUNT) & (laws[1] > 0.0) & torch.isfinite(laws[1]))
    if is_wrong.any():
        first = int(is_wrong.nonzero()[0])
        place = f"at cell {rows[first]} of a block and gene {columns[first]}"
        _raise_not_finite(int(is_wrong.sum()), float(laws[0][first]), f"{float(laws[1][first])}, {place}")
    return laws


def _check_means(expected_births: Tensor, dispersion: Tensor) -> None:
    """Raise ``ValueError`` for means that no molecules can be drawn with, which thinning would make some of; on a CPU.

    Another device would have to be waited for.
    """
    if expected_births.device.type != "cpu":
        return
    is_wrong = ~(expected_births <= kernels.MAX_COUNT)  # nor is NaN
    if is_wrong.any():
        dispersion = dispersion.expand_as(expected_births)[is_wrong]
        _raise_not_finite(int(is_wrong.sum()), float(expected_births[is_wrong][0]), f"{float(dispersion[0])}")


def _raise_not_finite(n_wrong: int, mean: float, others: str) -> None:
    msg = (
        f"{n_wrong} predicted laws are not finite, or have means above 2^24, the first with mean {mean} and inverse dispersion "
        f"{others}. Counts can be drawn from finite laws only. Lower guidance_scale if it is far above 1, bring continuous "
        "covariates into the range of the training data, or train the model again if its loss is NaN."
    )
    raise ValueError(msg)


def _gamma_poisson(mean: Tensor, dispersion: Tensor, generator: torch.Generator | None) -> Tensor:
    gamma = torch._standard_gamma(dispersion, generator=generator)
    return torch.poisson(gamma * (mean / dispersion), generator=generator)


def poisson_births(expected_births: Tensor, dispersion: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a Poisson number: the negative binomial of infinite dispersion parameter."""
    _check_means(expected_births, dispersion)
    return torch.poisson(expected_births, generator=generator)


def stochastic_births(expected_births: Tensor, dispersion: Tensor, generator: torch.Generator | None) -> Tensor:
    """Round up with probability equal to the fraction (the CountsDiff paper): unbiased, but loses the posterior's variance."""
    _check_means(expected_births, dispersion)
    whole = expected_births.floor()
    uniform = torch.rand(whole.shape, generator=generator, dtype=whole.dtype, device=whole.device)
    return whole + (uniform < expected_births - whole).to(whole.dtype)


def nearest_births(expected_births: Tensor, dispersion: Tensor, generator: torch.Generator | None) -> Tensor:
    """Round to the nearest integer: biased to 0 for rare molecules, kept for comparison."""
    _check_means(expected_births, dispersion)
    return expected_births.round()


_RULES: dict[str, BirthRule] = {
    "negative_binomial": negative_binomial_births,
    "poisson": poisson_births,
    "stochastic": stochastic_births,
    "nearest": nearest_births,
}


def _checked(rule: BirthRule, expected_births: Tensor, dispersion: Tensor, generator: torch.Generator | None) -> Tensor:
    """What a user's rule returns, which is thinned as counts are: fractions would be lost without a word."""
    drawn = rule(expected_births, dispersion, generator)
    wrong = drawn[~((drawn >= 0.0) & (drawn == drawn.floor()))]
    if len(wrong):
        msg = (
            f"births returned {len(wrong):,} values that are not counts (first: {float(wrong[0]):g}). It must return whole numbers of "
            "at least 0. Round them, or draw them: torch.poisson(expected_births, generator=generator)."
        )
        raise ValueError(msg)
    return drawn


def get_birth_rule(births: str | BirthRule) -> BirthRule:
    """Turn ``"negative_binomial"``, ``"poisson"``, ``"stochastic"``, ``"nearest"`` or a callable into a rule.

    That of a callable raises ``ValueError`` where what is returned are no counts.
    """
    if callable(births):
        return partial(_checked, births)
    if births in _RULES:
        return _RULES[births]
    msg = f"births={births!r} is not known. It must be one of {sorted(_RULES)} or a callable. Pass one of these."
    raise ValueError(msg)
