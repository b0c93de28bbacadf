"""Training of an image denoiser."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from tqdm.auto import trange

from countsdiff_sc._moving_average import MovingAverage
from countsdiff_sc._one_cycle import MIN_WARMUP_FRACTION, one_cycle
from countsdiff_sc._validation import check_number
from countsdiff_sc.process import bound_integrand, get_time_distribution, thin

from ._checks import check_pixels, conditions_of
from ._data import Images
from ._denoiser import ImageDenoiser

#: Largest gradient norm.
MAX_GRADIENT = 1.0


def train(
    denoiser: ImageDenoiser,
    images: Images,
    *,
    n_steps: int,
    batch_size: int = 64,
    lr: float = 4e-3,
    warmup_fraction: float = 0.1,
    p_uncond: float = 0.1,
    loss_weighting: str = "paper",
    time_distribution: str | int = "uniform",
    flip: bool = True,
    ema_decay: float = 0.995,
    progress: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Train on random minibatches, and leave the moving average of the weights in ``denoiser``.

    Parameters
    ----------
    denoiser
        Trained in place, on the device that it is on.
    images
        Pixels and conditions, see :func:`load_images`. They are moved to the denoiser's device, all at once.
    n_steps
        Minibatches. The paper has up to 1.3 million.
    batch_size
        Images in each.
    lr, warmup_fraction
        Peak learning rate of a one-cycle schedule, and the fraction of the steps in which it rises, at least 0.001.
    p_uncond
        Probability with which an image's conditions are hidden, for :func:`sample` without, or guided by, them.
    loss_weighting, time_distribution
        See :func:`~countsdiff_sc.process.get_loss_weighting` and :func:`~countsdiff_sc.process.get_time_distribution`.
    flip
        Whether images are shown mirrored half of the time.
    ema_decay
        Decay of the moving average, per step.
    progress
        Whether a progress bar is shown.
    generator
        Source of randomness on the denoiser's device; initial weights are drawn where the denoiser is made.

    Returns
    -------
    The loss of each step, the mean over images, pixels and channels of ``w(t)`` times
    :func:`~countsdiff_sc.process.bound_integrand`, shape ``(n_steps,)``.

    Raises
    ------
    TypeError, ValueError
        If pixels, conditions and denoiser do not fit, or a number is none or out of range.
    FloatingPointError
        If a loss is not finite; the denoiser is of no use then.
    """
    check_pixels(images.pixels, denoiser)
    conditions_of_all = conditions_of(len(images.pixels), images.conditions, denoiser)
    for name, value in (("n_steps", n_steps), ("batch_size", batch_size)):
        check_number(name, value, low=1, integer=True)
    for name, value in (("p_uncond", p_uncond), ("ema_decay", ema_decay)):
        check_number(name, value, low=0, high=1)
    check_number("warmup_fraction", warmup_fraction, low=MIN_WARMUP_FRACTION, high=1)
    check_number("lr", lr, low=0)
    times = get_time_distribution(time_distribution)
    weighting, device = times.weighting(loss_weighting), next(denoiser.parameters()).device
    images = replace(images, pixels=images.pixels.to(device), conditions=conditions_of_all.to(device))  # once
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    cycle = one_cycle(optimizer, n_steps, warmup_fraction=warmup_fraction)
    average, losses = MovingAverage(denoiser, ema_decay), []
    denoiser.train()
    for _ in trange(n_steps, desc="Training", disable=not progress):
        x_0, conditions = _minibatch(images, batch_size, p_uncond=p_uncond, flip=flip, generator=generator)
        t = times.at(denoiser.schedule, torch.rand(batch_size, generator=generator, device=device))
        x_t = thin(x_0, denoiser.schedule.survival_prob(t).view(-1, 1, 1, 1), generator=generator)
        by_image = bound_integrand(x_0 - x_t, denoiser(x_t, t, conditions)).mean((1, 2, 3))
        loss = (weighting(denoiser.schedule, t) * by_image).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), MAX_GRADIENT)
        optimizer.step()
        cycle.step()
        average.update_parameters(denoiser)
        losses.append(loss.detach())
    losses = torch.stack(losses).cpu()
    if not bool(torch.isfinite(losses).all()):
        first = int((~torch.isfinite(losses)).nonzero()[0])
        msg = (
            f"The loss of step {first} is {float(losses[first])}. What follows from it is no network. Make another denoiser, and train it "
            f"with a learning rate below lr={lr}."
        )
        raise FloatingPointError(msg)
    denoiser.load_state_dict(average.module.state_dict())
    denoiser.eval()
    return losses


def _minibatch(
    images: Images, n: int, *, p_uncond: float, flip: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Random images as counts, some of them mirrored, and their conditions, some of them hidden."""
    device = images.pixels.device
    chosen = torch.randint(len(images.pixels), (n,), generator=generator, device=device)
    uniform = torch.rand(2, n, generator=generator, device=device)
    x_0 = images.pixels[chosen].float()
    x_0 = torch.where(uniform[0].view(-1, 1, 1, 1) < 0.5 * flip, x_0.flip(3), x_0)
    return x_0, images.conditions[chosen] * (uniform[1] < 1.0 - p_uncond).unsqueeze(1)
