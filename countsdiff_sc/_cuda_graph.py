"""A minibatch's loss and gradients as one CUDA graph: a single launch in place of some hundreds of small ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Sizes of minibatches that are recorded: an epoch ends with a smaller one.
N_SIZES = 2
#: Calls before one is recorded: what only the first ones do must not be in the record.
N_WARM_UPS = 3


class StepRecorder:
    """Records a training step for each of the first sizes of minibatches that come, and repeats it for those that follow.

    Parameters
    ----------
    module
        See :class:`RecordedGradients`.
    """

    def __init__(self, module: nn.Module):
        self._module = module
        self._recorded: list[RecordedGradients] = []
        self._last: RecordedGradients | None = None

    def loss(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Loss of a minibatch, whose gradients :meth:`give_gradients` has; None for sizes that are not recorded."""
        self._last = next((recorded for recorded in self._recorded if recorded.takes(batch)), None)
        if self._last is None and len(self._recorded) < N_SIZES:
            self._last = RecordedGradients(self._module, batch)
            self._recorded.append(self._last)
        return None if self._last is None else self._last.loss(batch)

    def give_gradients(self) -> None:
        """Hand the weights the gradients of the last loss, which hold until the next."""
        self._last.give_gradients()


class RecordedGradients:
    """The loss of ``module`` and its gradients, for minibatches of the sizes of a first one.

    What was recorded is repeated on the memory it was recorded on, with new random numbers: those that the operations would have
    drawn one by one. So a training run is the same with and without.

    Parameters
    ----------
    module
        Called with a minibatch, returns an output with a ``loss``. It is on a CUDA device, in training mode, and does not wait for
        the device.
    batch
        The first minibatch: tensors on the device.
    """

    def __init__(self, module: nn.Module, batch: dict[str, Tensor]):
        self._batch = {name: tensor.clone() for name, tensor in batch.items()}
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

        def compute() -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = module(self._batch).loss
            return loss.detach(), torch.autograd.grad(loss, self._parameters)

        before, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.random.fork_rng([aside.device.index]), torch.cuda.stream(aside):
            for _ in range(N_WARM_UPS):
                compute()
        before.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss, self._gradients = compute()

    def takes(self, batch: dict[str, Tensor]) -> bool:
        """Whether a minibatch has the recorded sizes."""
        return all(batch[name].shape == tensor.shape for name, tensor in self._batch.items())

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of such a minibatch, from which no gradient can be taken."""
        for name, tensor in self._batch.items():
            tensor.copy_(batch[name], non_blocking=True)
        self._graph.replay()
        return self._loss.clone()

    def give_gradients(self) -> None:
        """As :meth:`StepRecorder.give_gradients`."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
