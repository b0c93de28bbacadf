"""Classifier-free guidance of a birth rate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

#: Expected births below this many molecules are treated as this many before a logarithm is taken.
RATE_FLOOR = 1e-8


def geometric_guidance(conditional: Tensor, unconditional: Tensor, guidance_scale: float) -> Tensor:
    r"""Mix two rates geometrically: :math:`\hat y_c^{\gamma}\, \hat y_u^{1-\gamma}`, computed in logarithms.

    The guided rate of a jump process (Nisonoff et al. 2025; CountsDiff, Section 3). ``guidance_scale`` 0 returns the
    unconditional rate, 1 the conditional one, above 1 sharpens.

    Parameters
    ----------
    conditional, unconditional
        Positive rates (molecules), same shape.
    guidance_scale
        The exponent, at least 0.
    """
    return product_guidance(conditional, [(unconditional, guidance_scale)])


def product_guidance(conditional: Tensor, guides: Sequence[tuple[Tensor, float]]) -> Tensor:
    r"""Guide by several conditions, each with a scale of its own: :math:`\hat y \prod_i (\hat y / \hat y_{-i})^{\gamma_i - 1}`.

    :math:`\hat y` knows all conditions and :math:`\hat y_{-i}` all but the ``i``-th, so their ratio is what that one adds. It
    is raised to :math:`\gamma_i`: 0 takes it out, 1 leaves it as it is, more exaggerates it. With one condition this is
    :func:`geometric_guidance`; products of conditions are due to Liu et al. (2022), ratios to all others to this package.

    Parameters
    ----------
    conditional
        Rates (molecules) given all conditions.
    guides
        For each guided condition the rates without it, same shape, and its scale, at least 0.
    """
    log_conditional = conditional.clamp(min=RATE_FLOOR).log()
    log_rate = log_conditional
    for without, guidance_scale in guides:
        log_rate = log_rate + (guidance_scale - 1.0) * (log_conditional - without.clamp(min=RATE_FLOOR).log())
    return log_rate.exp()
