"""Classifier-free guidance of a birth rate."""

from __future__ import annotations

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
    log_conditional = conditional.clamp(min=RATE_FLOOR).log()
    log_unconditional = unconditional.clamp(min=RATE_FLOOR).log()
    return (guidance_scale * log_conditional + (1.0 - guidance_scale) * log_unconditional).exp()
