"""Survival schedules: how the probability that a molecule is still alive falls from 1 to 0."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

#: Largest distance of ``p(0)`` from 1 and of ``p(1)`` from 0 that a schedule may have. The loosest one shipped
#: ("jump") ends at ``exp(-6) = 0.0025``.
END_TOLERANCE = 5e-3


class SurvivalSchedule(ABC):
    r"""The survival probability :math:`p(t)` of a molecule, and its rate of change.

    ``p`` is differentiable and decreasing on ``[0, 1]`` with ``p(0) = 1`` (data) and ``p(1) = 0`` (all molecules
    gone). The matching pure-death process kills each molecule at rate :math:`-p'(t)/p(t)` (CountsDiff, Proposition
    3.1). A subclass gives a curve whose ends are right up to 0.005; the rest is closed by an affine
    map, so that no sampler starts with molecules left over or stops with molecules missing.
    """

    @abstractmethod
    def curve(self, t: Tensor) -> Tensor:
        """``p(t)`` before its ends are closed; same shape as ``t``."""

    @abstractmethod
    def curve_rate(self, t: Tensor) -> Tensor:
        """Derivative of :meth:`curve`; same shape as ``t``."""

    @cached_property
    def _ends(self) -> tuple[float, float]:
        start, end = self.curve(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        return start, end

    def survival_prob(self, t: Tensor) -> Tensor:
        """Probability that a molecule alive at time 0 is alive at ``t``; same shape as ``t``."""
        start, end = self._ends
        prob = ((self.curve(t) - end) / (start - end)).clamp(0.0, 1.0)
        # Exactly, in single precision too: otherwise observed molecules could be lost at t = 0.
        return prob.masked_fill(t <= 0.0, 1.0).masked_fill(t >= 1.0, 0.0)

    def survival_prob_rate(self, t: Tensor) -> Tensor:
        """Derivative ``p'(t)``, at most 0 (probability per unit time); same shape as ``t``."""
        start, end = self._ends
        return self.curve_rate(t) / (start - end)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class CosineSchedule(SurvivalSchedule):
    r"""``p(t) = cos^2(pi t / 2)``, the default of the CountsDiff paper.

    Examples
    --------
    >>> CosineSchedule().survival_prob(torch.tensor([0.0, 0.5]))
    tensor([1.0000, 0.5000])
    """

    def curve(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t).square()

    def curve_rate(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * torch.sin(math.pi * t)


class FisherInformationSchedule(SurvivalSchedule):
    r"""``p(t) = sigmoid((1 - 2t) L)`` with ``L = -logit(exp(-t_end))``: steps of equal Fisher information about ``p``.

    A binomial carries information ``1 / (p (1 - p))`` about ``p``, so a grid that is uniform in ``logit p`` spends it
    evenly. This is the clock of Blackout diffusion (Santos et al. 2023) rescaled to ``[0, 1]``.

    Parameters
    ----------
    t_end
        End of Blackout's own clock, where ``p = exp(-t_end)``.
    """

    def __init__(self, *, t_end: float = 15.0):
        self.logit_range = math.log(math.expm1(t_end))  # -logit(e^-T) = log(e^T - 1)

    def curve(self, t: Tensor) -> Tensor:
        return torch.sigmoid((1.0 - 2.0 * t) * self.logit_range)

    def curve_rate(self, t: Tensor) -> Tensor:
        prob = self.curve(t)
        return -2.0 * self.logit_range * prob * (1.0 - prob)


class LinearBetaSchedule(SurvivalSchedule):
    r"""``p(t) = sqrt(alpha_bar(t))`` of a Gaussian diffusion with linear noise rate, as in JUMP models (Chen & Zhou 2023).

    The noise rate runs from 0.1 per unit time upwards, to the value at which the terminal log signal-to-noise ratio
    ``log(alpha_bar / (1 - alpha_bar))`` equals ``end_log_snr``.
    """

    def __init__(self, *, end_log_snr: float = -12.0):
        self.beta_start = 0.1
        total = math.log1p(math.exp(-end_log_snr))  # -log alpha_bar(1)
        self.beta_slope = 2.0 * (total - self.beta_start)

    def curve(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * (self.beta_start * t + 0.5 * self.beta_slope * t.square()))

    def curve_rate(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_start + self.beta_slope * t) * self.curve(t)


class GaussianSchedule(SurvivalSchedule):
    r"""Any tabulated Gaussian cumulative alpha, read as survival probability.

    ``E^2/Var`` of ``Binomial(x_0, p)`` is ``x_0 p / (1 - p)``: the dependence on the schedule is that of a Gaussian
    diffusion's signal-to-noise ratio with ``alpha_bar = p``, so one family's schedules serve the other.

    Parameters
    ----------
    alphas_cumprod
        ``alpha_bar`` after each of ``T`` forward steps, decreasing from near 1 to near 0, shape ``(T,)``: the
        attribute of that name of a `diffusers` scheduler. Linear between the points, 1 at ``t = 0``.

    Raises
    ------
    ValueError
        If the table is not a decreasing sequence of probabilities ending at 0 up to 0.005.
    """

    def __init__(self, alphas_cumprod: Tensor | Sequence[float]):
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).flatten()
        self.table = torch.cat([torch.ones(1, dtype=torch.float64), table])
        check_schedule(self, torch.linspace(0.0, 1.0, len(self.table), dtype=torch.float64))  # at every point of it

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = self.table.to(t.device)
        position = t.double() * (len(table) - 1)
        left = position.floor().long().clamp(0, len(table) - 2)
        return table[left], table[left + 1], position - left

    def curve(self, t: Tensor) -> Tensor:
        left, right, fraction = self._locate(t)
        return torch.lerp(left, right, fraction).to(t.dtype)

    def curve_rate(self, t: Tensor) -> Tensor:
        left, right, _ = self._locate(t)
        return ((right - left) * (len(self.table) - 1)).to(t.dtype)


class CallableSchedule(SurvivalSchedule):
    r"""A user's own ``p(t)``; the derivative is taken by central differences in double precision.

    Parameters
    ----------
    function
        Maps times (any shape) to survival probabilities of the same shape.

    Raises
    ------
    ValueError
        If ``p`` is not finite, not decreasing, or does not run from 1 to 0 up to 0.005.

    Examples
    --------
    >>> CallableSchedule(lambda t: 1 - t).survival_prob(torch.tensor([0.25]))
    tensor([0.7500])
    """

    _STEP = 1e-5

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function
        check_schedule(self)

    def curve(self, t: Tensor) -> Tensor:
        return self.function(t)

    def curve_rate(self, t: Tensor) -> Tensor:
        wide = t.double()
        later, earlier = (wide + self._STEP).clamp(max=1.0), (wide - self._STEP).clamp(min=0.0)
        return ((self.function(later) - self.function(earlier)) / (later - earlier)).to(t.dtype)


def check_schedule(schedule: SurvivalSchedule, t: Tensor | None = None) -> None:
    """Raise ``ValueError`` unless ``schedule`` is finite, strictly decreasing and runs from 1 to 0 at times ``t``."""
    t = torch.linspace(0.0, 1.0, 513, dtype=torch.float64) if t is None else t
    prob = schedule.curve(t)
    if not isinstance(prob, Tensor):
        problem = f"is a {type(prob).__name__}, not a tensor with one number per time"
    elif prob.shape != t.shape or not bool(torch.isfinite(prob).all()):
        problem = "is not one finite number per time"
    elif abs(float(prob[0]) - 1.0) > END_TOLERANCE:
        problem = f"has p(0) = {float(prob[0]):.4g}"
    elif abs(float(prob[-1])) > END_TOLERANCE:
        problem = f"has p(1) = {float(prob[-1]):.4g}"
    elif bool((prob.diff() >= 0).any()):
        problem = f"does not decrease at t = {float(t[:-1][prob.diff() >= 0][0]):.3f}"
    else:
        return
    msg = (
        f"The survival schedule {problem}. A schedule must fall strictly from p(0) = 1 to p(1) = 0 "
        f"(tolerance {END_TOLERANCE:g} at the ends). Rescale the function, or use 'cosine'."
    )
    raise ValueError(msg)


_SCHEDULES: dict[str, type[SurvivalSchedule]] = {
    "cosine": CosineSchedule,
    "blackout": FisherInformationSchedule,
    "jump": LinearBetaSchedule,
}


def get_schedule(schedule: str | SurvivalSchedule | Callable[[Tensor], Tensor]) -> SurvivalSchedule:
    """Turn ``"cosine"``, ``"blackout"``, ``"jump"``, a callable or a schedule into a :class:`SurvivalSchedule`."""
    if isinstance(schedule, SurvivalSchedule):
        check_schedule(schedule)
        return schedule
    if isinstance(schedule, str) and schedule in _SCHEDULES:
        return _SCHEDULES[schedule]()
    if callable(schedule):
        return CallableSchedule(schedule)
    msg = f"schedule={schedule!r} is not known. It must be one of {sorted(_SCHEDULES)} or a callable p(t). Pass one of these."
    raise ValueError(msg)
