r"""Laws of the training time, and the time at which a schedule has a given survival probability.

The loss is an integral over time, :math:`\int_0^1 w(t)\, \ell(t)\, dt`, or the average of :math:`w_k\, \ell(t_k)` over a
grid. A law with density :math:`\varphi` estimates it by :math:`w(t)\, \ell(t) / \varphi(t)`, so the objective does not
depend on the law: only the noise of a minibatch does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from numbers import Integral

import torch
from torch import Tensor

from ._losses import LossWeighting, get_loss_weighting
from ._schedules import SurvivalSchedule

#: Halvings of an interval of times: more than double precision can tell apart.
_N_HALVINGS = 60
#: Half the distance of the uniform numbers that are drawn in single precision: the middle of the interval each stands for.
_HALF_STEP = 2.0**-25


def times_at(schedule: SurvivalSchedule, survival_prob: Tensor) -> Tensor:
    """Times at which a schedule has the given survival probabilities, by bisection; double precision, same shape."""
    survival_prob = survival_prob.double()
    early, late = torch.zeros_like(survival_prob), torch.ones_like(survival_prob)
    for _ in range(_N_HALVINGS):
        middle = (early + late) / 2.0
        is_early = schedule.survival_prob(middle) > survival_prob
        early, late = torch.where(is_early, middle, early), torch.where(is_early, late, middle)
    return (early + late) / 2.0


class TimeDistribution(ABC):
    """How training times are drawn, and what weighs the loss at each so that the objective stays as it is."""

    @abstractmethod
    def at(self, schedule: SurvivalSchedule, u: Tensor) -> Tensor:
        """Times of the quantiles ``u`` in ``[0, 1)``; same shape and dtype. Uniform ``u`` gives random times."""

    @abstractmethod
    def weighting(self, loss_weighting: str | LossWeighting) -> LossWeighting:
        """What weighs the loss at times drawn from this law, so that the objective is that of ``loss_weighting``."""


class UniformTimes(TimeDistribution):
    """``t`` uniform on ``[0, 1]``, weight ``w(t)``: the default, and that of the CountsDiff paper."""

    def at(self, schedule: SurvivalSchedule, u: Tensor) -> Tensor:
        return u

    def weighting(self, loss_weighting: str | LossWeighting) -> LossWeighting:
        return get_loss_weighting(loss_weighting)


class DiscreteTimes(TimeDistribution):
    """``t = k / T`` with ``k`` uniform on ``1..T``; weights of steps, see :func:`get_loss_weighting`.

    With the schedule ``"blackout"`` and the weighting ``"paper"`` this is Blackout diffusion (Santos et al. 2023).

    Parameters
    ----------
    n_times
        Number ``T`` of times.
    """

    def __init__(self, n_times: int):
        if not 1 <= n_times <= 2**20:
            msg = (
                f"time_distribution={n_times} is out of range. A number of discrete times must be between 1 and 2^20. Pass "
                "such a number, such as 1000."
            )
            raise ValueError(msg)
        self.n_times = int(n_times)

    def at(self, schedule: SurvivalSchedule, u: Tensor) -> Tensor:
        # Double precision, or u * T could be rounded up to the next whole number before it is rounded down.
        return (((u.double() * self.n_times).floor() + 1.0) / self.n_times).to(u.dtype)

    def weighting(self, loss_weighting: str | LossWeighting) -> LossWeighting:
        return get_loss_weighting(loss_weighting, n_times=self.n_times)


class ImportanceTimes(TimeDistribution):
    r"""``t`` such that :math:`p = \cos^2(\pi u / 2)` with uniform ``u``, weight :math:`w(t) / \varphi(t)`.

    The density is :math:`\varphi = -p' / (\pi \sqrt{p (1 - p)})`. Near :math:`p = 1` the weighting ``"likelihood"`` grows as
    :math:`1 / (1 - p)` while the loss falls as :math:`1 - p`; the density with the least variance is then proportional to
    :math:`1 / \sqrt{1 - p}` in ``p``, as this one is. No time is cut off. The weight of ``"likelihood"`` becomes
    :math:`\pi \sqrt{p / (1 - p)}`, whatever the schedule; for the schedule ``"cosine"`` nothing changes, since there
    :math:`t = u` (this package).
    """

    def at(self, schedule: SurvivalSchedule, u: Tensor) -> Tensor:
        # Never 0, where the density of some schedules is infinite.
        survival_prob = (0.5 * math.pi * (u.double() + _HALF_STEP)).cos().square()
        return times_at(schedule, survival_prob).to(u.dtype)

    def weighting(self, loss_weighting: str | LossWeighting) -> LossWeighting:
        return partial(_over_density, get_loss_weighting(loss_weighting))


def _over_density(loss_weighting: LossWeighting, schedule: SurvivalSchedule, t: Tensor) -> Tensor:
    """Weight over the density of :class:`ImportanceTimes`, in double precision: both may vanish at the ends."""
    wide = t.double()
    p, rate = schedule.survival_prob(wide), -schedule.survival_prob_rate(wide)
    inverse_density = math.pi * (p * (1.0 - p)).sqrt() / rate.clamp(min=torch.finfo(wide.dtype).tiny)
    return (loss_weighting(schedule, wide) * inverse_density).to(t.dtype)


def get_time_distribution(time_distribution: str | int | TimeDistribution) -> TimeDistribution:
    """Turn ``"uniform"``, ``"importance"`` or a number of discrete times into a :class:`TimeDistribution`."""
    if isinstance(time_distribution, TimeDistribution):
        return time_distribution
    if isinstance(time_distribution, Integral) and not isinstance(time_distribution, bool):
        return DiscreteTimes(time_distribution)
    if time_distribution == "uniform":
        return UniformTimes()
    if time_distribution == "importance":
        return ImportanceTimes()
    msg = (
        f"time_distribution={time_distribution!r} is not known. It must be 'uniform', 'importance' or a number of discrete "
        "times. Pass one of these, such as 1000."
    )
    raise ValueError(msg)
