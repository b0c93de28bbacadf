"""One reverse step: some molecules die again (attrition), and lost ones are born back."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from ._thinning import thin

#: Maps ``(p_s, p_t)`` to the probability that a molecule alive at ``t`` dies in the step to ``s``: one for all entries, or
#: anything that broadcasts to ``(B, G)``.
AttritionSchedule = Callable[[Tensor, Tensor], Tensor]


def max_attrition(p_s: Tensor, p_t: Tensor) -> Tensor:
    """Largest attrition that leaves a birth probability of at most 1: ``min(1, (1 - p_s) / p_t)``."""
    return ((1.0 - p_s) / _positive(p_t)).clamp(0.0, 1.0)


def no_attrition(p_s: Tensor, p_t: Tensor) -> Tensor:
    """No molecule dies in a reverse step: Blackout's binomial bridge."""
    return torch.zeros_like(p_t)


def capped_attrition(eta: float) -> AttritionSchedule:
    """``min(eta, max_attrition)``: constant where allowed (ReMDM's capped remasking, Wang et al. 2025)."""
    _check_eta(eta)
    return lambda p_s, p_t: max_attrition(p_s, p_t).clamp(max=eta)


def rescaled_attrition(eta: float) -> AttritionSchedule:
    """``eta * max_attrition``, the choice of the CountsDiff paper."""
    _check_eta(eta)
    return lambda p_s, p_t: eta * max_attrition(p_s, p_t)


def _check_eta(eta: float) -> None:
    if not 0.0 <= eta <= 1.0:
        msg = f"eta={eta!r} is out of range. It is a probability, or a fraction of one, in [0, 1]. Pass such a number."
        raise ValueError(msg)


def get_attrition(attrition: float | str | Tensor | np.ndarray | AttritionSchedule | None) -> AttritionSchedule:
    """Turn ``None``, ``"max"``, a fraction of the maximum, an array of fractions or a callable into an attrition schedule.

    An array or tensor has one fraction per gene, ``(G,)``, or per entry, ``(B, G)``: molecules may die again where a prediction is
    trusted less. The result of a callable is clamped to ``[0, max_attrition]``, outside which the step would not keep the
    marginal law; NaN, as from 0 / 0 where no molecule is left, becomes 0.

    Raises
    ------
    ValueError
        For anything else, and for fractions outside ``[0, 1]``.
    """
    if attrition is None:
        return no_attrition
    if isinstance(attrition, str) and attrition == "max":
        return max_attrition
    if isinstance(attrition, Real) and 0.0 <= attrition <= 1.0:
        return rescaled_attrition(float(attrition))
    if isinstance(attrition, np.ndarray) and np.issubdtype(attrition.dtype, np.number):
        attrition = torch.from_numpy(attrition)
    if isinstance(attrition, Tensor) and bool(((attrition >= 0.0) & (attrition <= 1.0)).all()):
        return lambda p_s, p_t: attrition.to(p_t) * max_attrition(p_s, p_t)
    if callable(attrition):
        return lambda p_s, p_t: _clamped(attrition(p_s, p_t), max_attrition(p_s, p_t))
    msg = (
        f"attrition={attrition!r} is not an attrition schedule. It must be None, 'max', a fraction of the largest "
        "allowed attrition in [0, 1], an array of such fractions, or a callable (p_s, p_t) -> probability. Pass one of these."
    )
    raise ValueError(msg)


def _clamped(attrition: Tensor | float, largest: Tensor) -> Tensor:
    attrition = torch.as_tensor(attrition, dtype=largest.dtype, device=largest.device)
    return torch.minimum(attrition.nan_to_num(nan=0.0).clamp(min=0.0), largest)


def birth_prob(p_s: Tensor, p_t: Tensor, attrition: Tensor) -> Tensor:
    r"""Probability that a molecule lost by ``t`` is back at ``s``.

    :math:`\beta = (p_s - (1 - \sigma) p_t) / (1 - p_t)` (CountsDiff, Proposition 3.2): a molecule of :math:`x_0` is
    alive at ``s`` with probability :math:`p_t (1 - \sigma) + (1 - p_t) \beta = p_s`.
    """
    return ((p_s - (1.0 - attrition) * p_t) / _positive(1.0 - p_t)).clamp(0.0, 1.0)


def _positive(prob: Tensor) -> Tensor:
    """Keep 0 / 0 from becoming NaN where no molecule is alive (``p_t = 0``) or none is lost (``p_t = 1``)."""
    return prob.clamp(min=torch.finfo(prob.dtype).tiny)


def birth_death_step(
    x_t: Tensor,
    n_deaths: Tensor,
    *,
    p_s: Tensor,
    p_t: Tensor,
    attrition: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Go back from time ``t`` to ``s < t``.

    :math:`x_s = \mathrm{Binomial}(x_t, 1 - \sigma) + \mathrm{Binomial}(y, \beta)`. If
    :math:`x_t \mid x_0 \sim \mathrm{Binomial}(x_0, p_t)` and :math:`y = x_0 - x_t`, then
    :math:`x_s \mid x_0 \sim \mathrm{Binomial}(x_0, p_s)` exactly, for every allowed attrition.

    Parameters
    ----------
    x_t
        Counts alive at ``t`` (molecules), any shape.
    n_deaths
        Molecules lost by ``t``: the true ``x_0 - x_t`` or a draw of it, same shape.
    p_s, p_t
        Survival probabilities, ``p_s >= p_t``, broadcastable to ``x_t``.
    attrition
        Probability that a living molecule dies in this step, in ``[0, max_attrition(p_s, p_t)]``, broadcastable to ``x_t``.
    generator
        Source of randomness on the device of ``x_t``.

    Returns
    -------
    Counts alive at ``s``, same shape as ``x_t``.
    """
    survivors = thin(x_t, 1.0 - attrition, generator=generator)
    births = thin(n_deaths, birth_prob(p_s, p_t, attrition), generator=generator)
    return survivors + births
