"""One optimiser, one loss, a moving average of the weights, and the last of it that is no worse than the best kept."""

from __future__ import annotations

import math
from collections import defaultdict

import lightning.pytorch as pl
import torch

from countsdiff_sc._cuda_graph import StepRecorder
from countsdiff_sc._module import LOSS_BY_CELL, CountsDiffModule
from countsdiff_sc._one_cycle import MIN_WARMUP_FRACTION, one_cycle
from countsdiff_sc._thread_budget import ThreadBudget
from countsdiff_sc._validation import check_number

#: Decay of AdamW's averages. A run has some hundreds of steps, and 0.999 for the squares would average all of them.
BETAS = (0.9, 0.95)
#: Decay of weights by default.
WEIGHT_DECAY = 0.05
#: Largest gradient norm by default: so low that practically every step reaches it.
MAX_GRADIENT = 0.03
#: Learning rates of some parameters, by the end of their names, relative to that of the others. The dispersion of all genes, and how
#: it depends on the rate, have a way to go, in some hundreds of steps, and a gradient that all genes agree on; that of one gene has
#: a noisy one.
LR_FACTORS = {"log_dispersion.common_bias": 30.0, "log_dispersion.bias": 10.0, "dispersion_slope": 10.0}
#: Weights are compared by the differences of cells' losses, of which one in so many is left out at either end.
ODD_CELLS = 10


class CountsDiffTrainingPlan(pl.LightningModule):
    """How :class:`CountsDiffModule` is trained.

    What training leaves behind is the last moving average whose validation loss exceeds the lowest one by less than a standard
    error of the difference over cells (as in Breiman et al. 1984), of which the tenth that gained most and the tenth that lost most
    are left out. A run that goes on too long for few cells then costs time but not accuracy, and a few odd cells, which can make up
    for what all others gain or lose, do not decide when the learning ends.

    Parameters
    ----------
    module
        What is trained.
    lr
        Peak learning rate of a one-cycle schedule (Smith & Topin 2018), which ``LR_FACTORS`` multiplies for some parameters.
    weight_decay
        AdamW's decay of matrices; biases and slopes are not decayed.
    warmup_fraction
        Fraction of the steps in which the learning rate rises, at least 0.001.
    cuda_graph
        Whether a single GPU repeats a recorded step instead of starting each of its operations. It does so in single precision, for
        models whose parts are all built in.
    """

    def __init__(
        self,
        module: CountsDiffModule,
        *,
        lr: float = 2.5e-3,
        weight_decay: float = WEIGHT_DECAY,
        warmup_fraction: float = 0.1,
        cuda_graph: bool = True,
    ):
        super().__init__()
        check_number("lr", lr, low=0)
        check_number("weight_decay", weight_decay, low=0)
        check_number("warmup_fraction", warmup_fraction, low=MIN_WARMUP_FRACTION, high=1)
        self.module = module
        self.lr, self.weight_decay, self.warmup_fraction = lr, weight_decay, warmup_fraction
        self.cuda_graph = cuda_graph
        self.n_obs_training = self.n_obs_validation = None  # set by scvi's TrainRunner
        self._last_step = 0
        self._recorder: StepRecorder | None = None
        self._threads: ThreadBudget | None = None
        self._losses: list[tuple[torch.Tensor, int]] = []
        self._loss_by_cell: list[torch.Tensor] = []
        self._lowest: torch.Tensor | None = None
        self._kept_weights: dict[str, torch.Tensor] | None = None

    def on_train_start(self):
        self._recorder = StepRecorder(self.module)
        self._threads = ThreadBudget()

    def on_train_batch_start(self, batch, batch_idx):
        if self.device.type == "cpu":
            self._threads.look()

    def training_step(self, batch, batch_idx):
        loss = self._recorder.loss(batch) if self._records() else None
        if loss is None:
            loss = self.module(batch).loss
        # Logged once an epoch: what Lightning does to log a step takes a sixteenth of one (1.6 of 25 ms).
        self._losses.append((loss.detach(), len(batch[self.module.count_keys[0]])))
        return loss

    def _records(self) -> bool:
        trainer, is_plain = self.trainer, self.module.is_built_in and self.cuda_graph
        # The gradients of several minibatches, or devices, are not added up.
        is_alone = trainer.world_size == 1 and trainer.accumulate_grad_batches == 1
        return is_plain and is_alone and self.device.type == "cuda" and trainer.precision == "32-true"

    def backward(self, loss, *args, **kwargs):
        if loss.requires_grad:
            super().backward(loss, *args, **kwargs)
        else:
            self._recorder.give_gradients()

    def on_train_epoch_end(self):
        losses = torch.stack([loss for loss, _ in self._losses])
        n_cells = torch.tensor([n for _, n in self._losses]).to(losses)
        self._losses.clear()
        self.log("train_loss", losses @ n_cells / n_cells.sum(), prog_bar=True)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        # After the optimiser, and only where it moved: gradient accumulation has batches without a step.
        if self.trainer.global_step != self._last_step:
            self._last_step = self.trainer.global_step
            self.module.ema.update_parameters(self.module.net)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        if gradient_clip_val and gradient_clip_algorithm in {None, "norm"} and optimizer.defaults.get("fused"):
            scale_to_norm(optimizer, gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch, batch_idx):
        device = batch[self.module.count_keys[0]].device
        # The same times, masks and deaths at every epoch: only the weights change the validation loss.
        output = self.module(batch, generator=torch.Generator(device).manual_seed(batch_idx))
        self.log("validation_loss", output.loss, on_epoch=True, batch_size=output.n_obs_minibatch, sync_dist=True)
        self._loss_by_cell.append(output.extra_metrics[LOSS_BY_CELL])

    def on_validation_epoch_start(self):
        self._loss_by_cell = []

    def on_validation_epoch_end(self):
        if self.trainer.sanity_checking or not math.isfinite(self.trainer.callback_metrics["validation_loss"]):
            return
        loss_by_cell = torch.cat(self._loss_by_cell)
        mean, error = (0.0, 0.0) if self._lowest is None else self._difference(loss_by_cell - self._lowest)
        if self._lowest is None or mean < 0.0:
            self._lowest = loss_by_cell
        if mean <= error:
            self._kept_weights = {k: v.clone() for k, v in self.module.ema.state_dict().items()}

    def _difference(self, by_cell: torch.Tensor) -> tuple[float, float]:
        """Mean over the cells of all devices without the odd ones of each, and its standard error."""
        n_odd = len(by_cell) // ODD_CELLS
        by_cell = by_cell.sort().values[n_odd : len(by_cell) - n_odd]
        sums = torch.stack([torch.ones_like(by_cell), by_cell, by_cell.square()]).sum(1)
        n_cells, total, squares = self.all_gather(sums).view(-1, 3).sum(0).tolist()
        mean = total / n_cells
        return mean, (max(squares / n_cells - mean**2, 0.0) / n_cells) ** 0.5

    def on_train_end(self):
        self._recorder = None  # the trainer outlives the training, and would keep the memory of its steps
        if self._kept_weights is not None:
            self.module.ema.load_state_dict(self._kept_weights)

    def configure_optimizers(self):
        kinds = defaultdict(list)
        for name, parameter in self.module.net.named_parameters():
            if parameter.requires_grad:
                factor = next((factor for end, factor in LR_FACTORS.items() if name.endswith(end)), 1.0)
                kinds[factor, _is_matrix(name, parameter)].append(parameter)
        groups = [
            {"params": parameters, "lr": factor * self.lr, "weight_decay": self.weight_decay if is_matrix else 0.0}
            for (factor, is_matrix), parameters in kinds.items()
        ]
        # A fused optimiser clips as well, see below; with 16-bit precision that is left to Lightning, which cannot clip gradients
        # that the optimiser unscales itself.
        is_fused = self.device.type in {"cpu", "cuda"} and self.trainer.precision in {"32-true", "64-true"}
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=BETAS, fused=is_fused)
        n_steps = self.trainer.estimated_stepping_batches
        if n_steps == float("inf"):
            return optimizer
        scheduler = one_cycle(optimizer, n_steps, warmup_fraction=self.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def scale_to_norm(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Have a fused optimiser divide gradients, as it reads them, so that their norm is at most ``max_norm``.

    As :func:`torch.nn.utils.clip_grad_norm_`, without a pass over all gradients.
    """
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
    scale = (torch.stack(norms).norm() / max_norm).clamp(min=1.0)
    # What a loss scaler would set for mixed precision, which is not used with fused optimisers here.
    optimizer.grad_scale, optimizer.found_inf = scale.float(), None


def _is_matrix(name: str, parameter: torch.Tensor) -> bool:
    # Biases and slopes of several networks have as many axes.
    return parameter.ndim > 1 and not name.endswith(("bias", "slope"))
