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

#: How observed entries go through the times of the remasking sampler.
KNOWN_PATHS = ("fresh", "coherent")

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
        attrition_k = sigma(p_s, p_t)
        if attrition_k.ndim:
            attrition_k = attrition_k.expand_as(x)[entries]
        x[entries] = birth_death_step(x_t, n_deaths, p_s=p_s, p_t=p_t, attrition=attrition_k, generator=generator)
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
    resample_window: int = 1,
    known_path: str = "fresh",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Sample the missing entries with an unconditional denoiser, putting observed ones back at every step.

    RePaint (Lugmayr et al. 2022) for counts, the imputation of the CountsDiff paper. With ``n_resample > 1`` each window of
    transitions is run again after thinning everything back to the window's start.

    Parameters
    ----------
    denoise, x_known, missing_mask, schedule, n_steps, attrition, births, final_mean, generator
        As in :func:`sample_conditioned`, except that ``denoise`` sees observed entries thinned to ``p(t)``.
    n_resample
        Times each window is run. Network passes are ``1 + (n_steps - 1) * n_resample``.
    resample_window
        Transitions in a window. The first transition stands alone: at ``t = 1`` no molecule is left, so running a
        window again from there would only forget it.
    known_path
        ``"fresh"``: after each step to ``s`` observed entries are new draws of :math:`\mathrm{Binomial}(x_0, p_s)`, as in the
        paper. ``"coherent"``: they follow one trajectory of the death process from :math:`x_0`, which backwards is
        :math:`x_s = x_t + \mathrm{Binomial}(x_0 - x_t, (p_s - p_t) / (1 - p_t))`, the reverse step without attrition. A
        window's second run starts from that trajectory thinned forward again (this package).

    Returns
    -------
    Counts (molecules), shape ``(B, G)``; integers unless ``final_mean``.
    """
    rule, sigma = get_birth_rule(births), get_attrition(attrition)
    is_fresh = _check_known_path(known_path)
    grid = time_grid(n_steps, device=x_known.device)
    survival = schedule.survival_prob(grid).to(x_known.dtype)
    x_known = x_known.masked_fill(missing_mask, 0.0)  # never read: torch.binomial does not return from a NaN
    x = torch.zeros_like(x_known)

    def put_back(x: Tensor, survival_prob: Tensor) -> Tensor:
        """Put freshly thinned observed entries into ``x``; at ``p = 1`` they are exact."""
        return torch.where(missing_mask, x, thin(x_known, survival_prob, generator=generator)) if is_fresh else x

    plan = list(_resampling_plan(n_steps, n_resample, resample_window))
    for run, (first, last, rerun) in enumerate(plan, start=1):
        if rerun:  # forward again, from the window's end to its start
            x = put_back(thin(x, survival[first] / survival[last], generator=generator), survival[first])
        for k, following in pairwise(range(first, last + 1)):
            n_deaths, dispersion = denoise(x, grid[k])
            p_t, p_s = survival[k], survival[following]
            # Only the very last transition: an earlier run is thinned again, so it must leave whole molecules.
            is_last_mean = final_mean and following == n_steps and run == len(plan)
            if not is_last_mean:
                n_deaths = rule(n_deaths, dispersion, generator)
            attrition_k = sigma(p_s, p_t)
            if not is_fresh:  # what observed entries have lost is known
                n_deaths = torch.where(missing_mask, n_deaths, x_known - x)
                attrition_k = attrition_k * missing_mask
            if is_last_mean:
                x = x + n_deaths
            else:
                x = birth_death_step(x, n_deaths, p_s=p_s, p_t=p_t, attrition=attrition_k, generator=generator)
            x = put_back(x, p_s)
    return x


def _check_known_path(known_path: str) -> bool:
    """Return whether observed entries are drawn afresh at each step, or raise ``ValueError``."""
    if known_path in KNOWN_PATHS:
        return known_path == "fresh"
    msg = f"known_path={known_path!r} is not known. It must be one of {list(KNOWN_PATHS)}. Pass one of these."
    raise ValueError(msg)


def _resampling_plan(n_steps: int, n_resample: int, resample_window: int) -> Iterator[tuple[int, int, bool]]:
    """Yield ``(first, last, rerun)`` grid indices: the first transition, then each window ``n_resample`` times."""
    if n_resample < 1 or resample_window < 1:
        msg = (
            f"n_resample={n_resample} and resample_window={resample_window} must both be at least 1. Pass 1 and 1 for no "
            "resampling."
        )
        raise ValueError(msg)
    yield 0, 1, False
    for first in range(1, n_steps, resample_window):
        last = min(first + resample_window, n_steps)
        for run in range(n_resample):
            yield first, last, run > 0
