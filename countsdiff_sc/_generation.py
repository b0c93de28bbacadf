"""Generation of one block of cells, on tensors: from no molecule at ``t = 1`` to counts at ``t = 0``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from countsdiff_sc.process import SurvivalSchedule, birth_death_step, get_attrition, get_birth_rule
from countsdiff_sc.process._guidance import RATE_FLOOR
from countsdiff_sc.process._samplers import Denoise
from countsdiff_sc.process._times import times_at

#: Survival probability at which the steps of equal ``logit p`` end; the last transition starts half a step before. What is still lost
#: then is drawn independently by gene.
_LAST_SURVIVAL_PROB = 0.95


def generation_grid(schedule: SurvivalSchedule, n_steps: int, n_molecules: float) -> Tensor:
    r"""Times of a generated cell's transitions, from 1 to 0; double precision, shape ``(n_steps + 1,)``.

    Genes are independent within a transition, so a cell's depth and type are decided by molecules that came in earlier
    ones. Both are settled while few are back: a cell of ``n_molecules`` shows its first one at :math:`p` of about
    ``1 / n_molecules``, which equal steps of time pass at once. Hence equal steps of :math:`\operatorname{logit} p`
    from there on, whatever the schedule (this package).

    Parameters
    ----------
    schedule
        Survival schedule of the model.
    n_steps
        Number of transitions.
    n_molecules
        Molecules of an average cell.
    """
    first, last = min(1.0 / max(n_molecules, 1.0), 0.5), _LAST_SURVIVAL_PROB
    low, high = torch.logit(torch.tensor([first, last], dtype=torch.float64))
    middles = (torch.arange(n_steps - 1, dtype=torch.float64) + 0.5) / max(n_steps - 1, 1)
    inner = times_at(schedule, torch.sigmoid(torch.lerp(low, high, middles)))
    return torch.cat([inner.new_ones(1), inner, inner.new_zeros(1)])


def with_library_size(denoise: Denoise, library_size: Tensor) -> Denoise:
    """Scale the expected births of each cell to what it lacks of ``library_size`` molecules, shape ``(B,)``.

    For Poisson counts that is the exact posterior mean given their total. The total itself is met up to the noise of the
    last transition.
    """

    def scaled(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        expected_births, dispersion = denoise(x_t, t)
        lacking = (library_size - x_t.sum(1)).clamp(min=0.0)
        factor = lacking / expected_births.sum(1).clamp(min=RATE_FLOOR)
        return expected_births * factor.unsqueeze(1), dispersion

    return scaled


def generate(
    denoise: Denoise,
    shape: tuple[int, int],
    schedule: SurvivalSchedule,
    grid: Tensor,
    *,
    attrition=None,
    births="negative_binomial",
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Yield the state of ``B`` cells after each transition, counts (molecules) of shape ``(B, G)``; the last are cells.

    Parameters
    ----------
    denoise
        Predicts the molecules lost, see :mod:`countsdiff_sc.process`.
    shape
        ``(B, G)``.
    schedule
        Survival schedule of the model.
    grid
        Times of the transitions, from 1 to 0, in double precision.
    attrition, births
        See :func:`~countsdiff_sc.process.get_attrition` and :func:`~countsdiff_sc.process.get_birth_rule`.
    generator
        Source of randomness; its device is where the cells are generated.
    """
    rule, sigma = get_birth_rule(births), get_attrition(attrition)
    x = torch.zeros(shape, device=generator.device)
    # Early probabilities are small differences from 0: they are computed before precision is given up.
    survival = schedule.survival_prob(grid.double()).to(x)
    for t, (p_t, p_s) in zip(grid.to(x), pairwise(survival), strict=False):
        n_deaths = rule(*denoise(x, t), generator)
        x = birth_death_step(x, n_deaths, p_s=p_s, p_t=p_t, attrition=sigma(p_s, p_t), generator=generator)
        yield x
