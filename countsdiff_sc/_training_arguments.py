"""What is passed on to scvi-tools' ``train``: checked, and with our defaults beneath."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import lightning.pytorch as pl
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import Trainer

from countsdiff_sc._training_plan import MAX_GRADIENT, CountsDiffTrainingPlan
from countsdiff_sc._validation import check_devices, check_no_further, check_precision

#: Arguments of the training plan, and those of ``train`` and of everything that it hands them to.
_PLAN_ARGUMENTS = [name for name in inspect.signature(CountsDiffTrainingPlan).parameters if name != "module"]
_TAKERS = UnsupervisedTrainingMixin.train, Trainer, pl.Trainer
_TRAIN_ARGUMENTS = {name for taker in _TAKERS for name in inspect.signature(taker).parameters} | {"ckpt_path"}
_TRAIN_ARGUMENTS -= {"self", "kwargs", "trainer_kwargs"}


def check_train_arguments(arguments: Mapping[str, object], devices: int | list[int] | str) -> None:
    """Check what ``train`` passes on.

    Raises
    ------
    TypeError
        For what neither ``train`` nor the trainer nor the training plan takes.
    ValueError
        For a precision of the weights themselves, and for several devices without a strategy.
    """
    if isinstance(arguments.get("plan_kwargs"), Mapping):
        check_no_further(arguments["plan_kwargs"], known=_PLAN_ARGUMENTS)
    for name in arguments:
        if name in _PLAN_ARGUMENTS:
            msg = f"{name!r} is an argument of the training plan, not of train. Pass plan_kwargs={{{name!r}: ...}}."
            raise TypeError(msg)
    check_no_further(arguments, known=sorted(_TRAIN_ARGUMENTS))
    of_trainer = _as_dict(arguments.get("trainer_config")) | arguments
    check_precision(of_trainer.get("precision"))
    check_devices(devices, of_trainer.get("strategy"))


def trainer_config(given: object, *, max_epochs: int, validate_every: int) -> dict[str, object]:
    """A configuration of the trainer, with defaults for what it leaves open; ``validate_every`` is 0 where nothing validates."""
    defaults = {
        # Without this the trainer switches cudnn's non-deterministic autotuning on, also when a seed is set.
        "benchmark": False,
        "log_every_n_steps": 1,  # or Lightning warns about every small data set
        "gradient_clip_val": MAX_GRADIENT,
        "early_stopping_monitor": "validation_loss",
    }
    if validate_every:
        defaults["check_val_every_n_epoch"] = validate_every
        defaults["early_stopping_patience"] = max(10, math.ceil(max_epochs / validate_every / 3))
    return defaults | _as_dict(given)


def _as_dict(config: object) -> dict[str, object]:
    """A mapping, one of scvi-tools' objects, or None."""
    return dict(config.to_kwargs() if hasattr(config, "to_kwargs") else config or {})
