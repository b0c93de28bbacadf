"""When the compiled loops of :mod:`countsdiff_sc.kernels` take the place of tensor operations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def compiles(*tensors: Tensor) -> bool:
    """Whether all are single-precision matrices of one shape on the CPU, side by side in memory: what kernels take."""
    first = tensors[0]
    return first.ndim == 2 and all(
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.shape == first.shape
        and tensor.is_contiguous()
        for tensor in tensors
    )


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors' memory as numpy arrays."""
    return [tensor.detach().numpy() for tensor in tensors]


def drawn_seed(generator: torch.Generator | None) -> int:
    """A seed for a compiled loop, from a generator on the CPU."""
    return int(torch.randint(2**62, (), generator=generator))
