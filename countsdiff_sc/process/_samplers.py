"""Samplers: run the birth-death process from the empty state at ``t = 1`` back to data at ``t = 0``.

Both have one signature. ``denoise(x_t, t)`` returns ``(expected_births, dispersion)``, each ``(B, G)``: whatever else a
network needs (conditions, guidance, which entries are observed) is bound into it by the caller. Only missing entries
are ever sampled; observed ones come back as they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ._birth_death import AttritionSchedule, birth_death_step, get_attrition
from ._births import BirthRule, get_birth_rule
from ._schedules import SurvivalSchedule
from ._thinning import thin

#: ``(x_t (B, G), t ()) -> (expected_births (B, G), dispersion (B, G))``
Denoise = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def time_grid(n_steps: int, *, device: torch.device | str | None = None) -> Tensor:
    """``n_steps`` equal transitions from ``t = 1`` to ``t = 0``; shape ``(n_steps + 1,)``."""
    if n_steps < 1:
        msg = f"n_steps={n_steps} leaves no transition. It must be at least 1. Pass 1 for a single network pass."
        raise ValueError(msg)
    return torch.linspace(1.0, 0.0, n_steps + 1, device=device)


def sample_conditioned(
    denoise: Denoise,
    x_known: Tensor,
    missing_mask: Tensor,
    schedule: SurvivalSchedule,
    *,
    n_steps: int,
    attrition: float | str | AttritionSchedule | None = None,
    births: str | BirthRule = "negative_binomial",
    final_mean: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Sample the missing entries while the observed ones are present in full at every step.

    An observed entry is one whose survival probability is 1 at all times, so a network trained with random observed
    sets knows the conditional law and no remasking is needed (this package).

    Parameters
    ----------
    denoise
        Predicts the molecules lost; sees ``x_t`` with observed entries in place.
    x_known
        Counts (molecules), shape ``(B, G)``; only its observed entries are read.
    missing_mask
        True where a count is to be sampled, shape ``(B, G)``.
    schedule
        Survival schedule the network was trained with.
    n_steps
        Transitions, equal to network passes.
    attrition
        See :func:`get_attrition`.
    births
        How the molecules lost are drawn, see :func:`get_birth_rule`.
    final_mean
        Replace the last draw by its expectation, so that averaging runs estimates the posterior mean with less noise.
    generator
        Source of randomness on the device of ``x_known``.

    Returns
    -------
    Counts (molecules), shape ``(B, G)``; integers unless ``final_mean``.
    """
    rule, sigma = get_birth_rule(births), get_attrition(attrition)
    grid = time_grid(n_steps, device=x_known.device)
    survival = schedule.survival_prob(grid).to(x_known.dtype)
    entries = missing_mask.nonzero(as_tuple=True)  # the only device synchronisation
    x = x_known.masked_fill(missing_mask, 0.0)
    for k in range(n_steps):
        births_k, dispersion_k = denoise(x, grid[k])
        x_t, expected = x[entries], births_k[entries]
        if final_mean and k == n_steps - 1:
            x[entries] = x_t + expected
            break
        n_deaths = rule(expected, dispersion_k[entries], generator)
        p_t, p_s = survival[k], survival[k + 1]
        x[entries] = birth_death_step(x_t, n_deaths, p_s=p_s, p_t=p_t, attrition=sigma(p_s, p_t), generator=generator)
    return x


def sample_remasked(
    denoise: Denoise,
    x_known: Tensor,
    missing_mask: Tensor,
    schedule: SurvivalSchedule,
    *,
    n_steps: int,
    attrition: float | str | AttritionSchedule | None = None,
    births: str | BirthRule = "negative_binomial",
    final_mean: bool = False,
    n_resample: int = 1,
    window: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Sample the missing entries with an unconditional denoiser, putting observed ones back at every step.

    RePaint (Lugmayr et al. 2022) for counts, the imputation of the CountsDiff paper: after each step to ``s`` the
    observed entries are replaced by fresh draws of :math:`\mathrm{Binomial}(x_0, p_s)`. With ``n_resample > 1`` each
    window of transitions is run again after thinning everything back to the window's start.

    Parameters
    ----------
    denoise, x_known, missing_mask, schedule, n_steps, attrition, births, final_mean, generator
        As in :func:`sample_conditioned`, except that ``denoise`` sees observed entries thinned to ``p(t)``.
    n_resample
        Times each window is run. Network passes are ``1 + (n_steps - 1) * n_resample``.
    window
        Transitions in a window. The first transition stands alone: at ``t = 1`` no molecule is left, so running a
        window again from there would only forget it.

    Returns
    -------
    Counts (molecules), shape ``(B, G)``; integers unless ``final_mean``.
    """
    rule, sigma = get_birth_rule(births), get_attrition(attrition)
    grid = time_grid(n_steps, device=x_known.device)
    survival = schedule.survival_prob(grid).to(x_known.dtype)
    x_known = x_known.masked_fill(missing_mask, 0.0)  # never read: torch.binomial does not return from a NaN
    x = torch.zeros_like(x_known)
    plan = list(_resampling_plan(n_steps, n_resample, window))
    for run, (first, last, rerun) in enumerate(plan, start=1):
        if rerun:  # forward again, from the window's end to its start
            x = thin(x, survival[first] / survival[last], generator=generator)
            x = _thinned_known(x_known, x, missing_mask, survival[first], generator)
        for k, following in pairwise(range(first, last + 1)):
            expected, dispersion = denoise(x, grid[k])
            # Only the very last transition: an earlier run is thinned again, so it must leave whole molecules.
            if final_mean and following == n_steps and run == len(plan):
                x = x + expected
            else:
                p_t, p_s = survival[k], survival[following]
                n_deaths = rule(expected, dispersion, generator)
                x = birth_death_step(x, n_deaths, p_s=p_s, p_t=p_t, attrition=sigma(p_s, p_t), generator=generator)
            x = _thinned_known(x_known, x, missing_mask, survival[following], generator)
    return x


def _thinned_known(
    x_known: Tensor, x: Tensor, missing_mask: Tensor, survival_prob: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Put freshly thinned observed entries into ``x``; at ``p = 1`` they are exact."""
    return torch.where(missing_mask, x, thin(x_known, survival_prob, generator=generator))


def _resampling_plan(n_steps: int, n_resample: int, window: int) -> Iterator[tuple[int, int, bool]]:
    """Yield ``(first, last, rerun)`` grid indices: the first transition, then each window ``n_resample`` times."""
    if n_resample < 1 or window < 1:
        msg = f"n_resample={n_resample} and window={window} must both be at least 1. Pass 1 and 1 for no resampling."
        raise ValueError(msg)
    yield 0, 1, False
    for first in range(1, n_steps, window):
        last = min(first + window, n_steps)
        for run in range(n_resample):
            yield first, last, run > 0
