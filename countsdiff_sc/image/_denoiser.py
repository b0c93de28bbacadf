"""A U-Net that predicts how much brightness each pixel has lost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from countsdiff_sc._validation import check_number
from countsdiff_sc.process import SurvivalSchedule, get_schedule

#: Largest brightness of a pixel, as a count.
MAX_PIXEL = 255
#: Times in [0, 1] are scaled by this for embeddings that were made for whole numbers up to it.
_TIME_SCALE = 1000.0
#: Guess of the spread of brightness between images, relative to the largest, by which inputs are scaled.
_SPREAD = 0.25
#: Counts that a pixel's own brightness is drawn to one half by, of twice as many: without them single counts near t = 1 say too much.
_PRIOR = 2.0


class ImageDenoiser(nn.Module):
    r"""Expected number of counts that pixels have lost, by a U-Net of `diffusers` (``UNet2DModel``).

    The network predicts a brightness :math:`q \in (0, 1)` of each pixel. If the pixel's 255 possible counts were there
    independently with probability :math:`q`, and are left at time ``t`` with probability :math:`p` each, then of the
    :math:`255 - x_t` that are not seen

    .. math:: \hat y = (255 - x_t)\, \frac{q (1 - p)}{1 - q p}

    are expected to have been lost. So no prediction leaves the range of a pixel, and at :math:`p = 1` nothing has been lost
    whatever the network says (this package; the paper has a softplus, cut off at :math:`255 - x_t` where it samples). The logit of
    :math:`q` is that of the pixel's own :math:`(x_t + 2) / (255 p + 4)`, as if 2 of 4 more counts had been seen (at most 254/255), plus
    what the network says. The schedule is not among the weights that :meth:`~torch.nn.Module.state_dict` has.

    Parameters
    ----------
    n_channels
        Channels of an image: 3, or 1 without colour.
    n_conditions
        Length ``L`` of the vector that tells what is known about an image. A linear map without offset adds it to the embedding of
        time, so zeros say nothing.
    schedule
        Survival schedule, see :func:`~countsdiff_sc.process.get_schedule`.
    widths
        Channels of the network at each resolution, which halves from one to the next; multiples of 8. The second resolution and the
        last have self-attention.
    layers_per_block
        Residual layers at each resolution. The paper has ``widths=(128, 256, 256, 256)`` and 2, or 4.
    dropout
        Dropout in these.

    Raises
    ------
    ImportError
        Without `diffusers`.
    TypeError
        For sizes that are no whole numbers.
    ValueError
        For widths that are no multiples of 8, or fewer than two, and other sizes that are out of range.

    Examples
    --------
    >>> denoiser = ImageDenoiser(widths=(8, 8))
    >>> denoiser(torch.zeros(2, 3, 8, 8), torch.ones(2)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        *,
        n_channels: int = 3,
        n_conditions: int = 0,
        schedule: str | SurvivalSchedule = "cosine",
        widths: Sequence[int] = (32, 48, 64),
        layers_per_block: int = 1,
        dropout: float = 0.0,
    ):
        super().__init__()
        for name, value, low in (
            ("n_channels", n_channels, 1),
            ("n_conditions", n_conditions, 0),
            ("layers_per_block", layers_per_block, 1),
        ):
            check_number(name, value, low=low, integer=True)
        check_number("dropout", dropout, low=0, high=1)
        for level, width in enumerate(widths):
            check_number(f"widths[{level}]", width, low=8, integer=True)
        if len(widths) < 2 or any(width % 8 for width in widths):
            msg = (
                f"widths={tuple(widths)} does not fit the network. It must have a multiple of 8 for each of at least two resolutions. "
                "Pass such widths, as (32, 48, 64)."
            )
            raise ValueError(msg)
        self.n_channels, self.n_conditions, self.schedule = n_channels, n_conditions, get_schedule(schedule)
        self.side_multiple = 2 ** (len(widths) - 1)
        kinds = ["Attn" if level == 1 else "" for level in range(len(widths))]
        self.unet = _unet_class()(
            in_channels=n_channels,
            out_channels=n_channels,
            block_out_channels=tuple(widths),
            layers_per_block=layers_per_block,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            norm_num_groups=8,
            dropout=dropout,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",  # what is added before a normalisation, as by default, may be lost in it
        )
        bound = max(n_conditions, 1) ** -0.5
        self.condition_embedding = nn.Parameter(torch.empty(n_conditions, 4 * widths[0]).uniform_(-bound, bound))
        self.unet.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        # Start from what a pixel says by itself.
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, x_t: Tensor, t: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Expected counts lost by time ``t``.

        Parameters
        ----------
        x_t
            Counts that are left, float, shape ``(B, channels, height, width)``. Sides must be multiples of ``side_multiple``.
        t
            Times, shape ``(B,)``.
        conditions
            What is known, shape ``(B, L)``; None for nothing.

        Returns
        -------
        Expected counts, between 0 and ``255 - x_t``, shape of ``x_t``.
        """
        p = self.schedule.survival_prob(t).view(-1, 1, 1, 1)
        mean = 0.5 * MAX_PIXEL * p
        # Of unit variance at all times, by a guess of how images differ and by how counts of one image do.
        variance = (_SPREAD * MAX_PIXEL * p).square() + mean * (1.0 - p) + 1.0
        residual = (x_t - mean) * variance.rsqrt()
        conditions = x_t.new_zeros(len(x_t), self.n_conditions) if conditions is None else conditions
        embedding = conditions @ self.condition_embedding
        change = self.unet(residual, _TIME_SCALE * t, class_labels=embedding).sample
        own = ((x_t + _PRIOR) / (MAX_PIXEL * p + 2.0 * _PRIOR)).clamp(max=1.0 - 1.0 / MAX_PIXEL)
        return self.posterior_mean(torch.logit(own) + change, x_t, p)

    @staticmethod
    def posterior_mean(logit_brightness: Tensor, x_t: Tensor, survival_prob: Tensor) -> Tensor:
        r""":math:`(255 - x_t)\, q (1 - p) / (1 - q p)` for the logit of ``q``; shapes that broadcast."""
        # The logit of the fraction is that of q, plus log(1 - p).
        return (MAX_PIXEL - x_t) * torch.sigmoid(logit_brightness + torch.log1p(-survival_prob))


def _unet_class() -> type[nn.Module]:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        msg = 'Image experiments need diffusers, which is not installed. Install it with: pip install "countsdiff_sc[image]".'
        raise ImportError(msg) from error
    return UNet2DModel
