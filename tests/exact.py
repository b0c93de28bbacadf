"""Models whose network is the exact posterior of a known law, so that what they generate and say can be checked."""

import anndata as ad
import numpy as np
import torch

from countsdiff_sc import CountsDiffSC


class ExactBackbone(torch.nn.Module):
    """The rate is the mean profile at the cell's depth, and the inverse dispersion a constant."""

    context_width = 2

    def __init__(self, dispersion):
        super().__init__()
        self.log_dispersion = float(np.log(dispersion))

    def forward(self, x_t, survival_prob, base_rate, context):
        return torch.zeros_like(x_t), torch.full_like(x_t, self.log_dispersion)


def exact_model(mean, dispersion, *, depth_concentration=1e12, **kwargs):
    """Model of independent negative binomial genes with these means, in cells of one depth.

    With a finite ``depth_concentration`` and a large ``dispersion``: of Poisson genes in cells of Gamma depth.
    """
    mean = torch.as_tensor(mean, dtype=torch.float32)
    model = CountsDiffSC(
        ad.AnnData(np.ones((5, len(mean)), dtype=np.float32)), denoiser=ExactBackbone(dispersion), **kwargs
    )
    nothing = torch.empty(0)
    model.module.set_reference(mean, torch.tensor([depth_concentration]), nothing, nothing)
    model.is_trained_ = True
    return model
