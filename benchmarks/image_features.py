"""Features of images for a Fréchet distance, and a baseline that knows pixels' means and covariances only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResNet20(nn.Module):
    """A CIFAR-10 classifier up to its pooled features, ``(N, 64)`` (He et al. 2016; shortcuts without weights).

    Its distances are not comparable with published ones, which are in features of Inception-v3.
    """

    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    BATCH_SIZE = 250

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            first = ResidualBlock(widths[stage - 1], widths[stage])
            others = [ResidualBlock(widths[stage], widths[stage]) for _ in range(2)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))

    @classmethod
    def load(cls, path: Path) -> ResNet20:
        """With weights of a checkpoint that has them under ``state_dict``, each named ``module.*``."""
        weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        weights = {name.removeprefix("module."): values for name, values in weights.items()}
        net = cls()
        net.load_state_dict({name: values for name, values in weights.items() if not name.startswith("linear")})
        return net.eval()

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> np.ndarray:
        """Features of pixels, uint8 ``(N, 3, 32, 32)``."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.MEAN, self.STD))
        features = []
        for batch in pixels.split(self.BATCH_SIZE):
            x = F.relu(self.bn1(self.conv1((batch / 255.0 - mean) / std)))
            features.append(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
        return torch.cat(features).numpy()


class ResidualBlock(nn.Module):
    """Two convolutions; where the width doubles, the shortcut takes every other pixel and pads with zero channels."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.stride, self.padding = n_out // n_in, (n_out - n_in) // 2
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, self.stride, 1, bias=False), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


def gaussian_images(pixels: Tensor, n_images: int, generator: torch.Generator) -> Tensor:
    """Draws from the normal law with the mean and covariance of some images, rounded and cut off at 0 and 255."""
    flat = pixels.flatten(1).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    noise = torch.randn(n_images, len(mean), dtype=torch.double, generator=generator)
    drawn = mean + (noise * values.clamp(min=0.0).sqrt()) @ vectors.T
    return drawn.round().clamp(0.0, 255.0).to(torch.uint8).view(n_images, *pixels.shape[1:])
