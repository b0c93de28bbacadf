"""What is passed on to scvi-tools' ``train``: checked, and with our defaults beneath."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import lightning.pytorch as pl
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import Trainer, TrainRunner

from countsdiff_sc._training_plan import CountsDiffTrainingPlan
from countsdiff_sc._validation import check_no_further

#: Arguments of the training plan, and those of ``train`` and of everything that it hands them to.
_PLAN_ARGUMENTS = [name for name in inspect.signature(CountsDiffTrainingPlan).parameters if name != "module"]
_TAKERS = UnsupervisedTrainingMixin.train, TrainRunner, Trainer, pl.Trainer
_TRAIN_ARGUMENTS = sorted({"ckpt_path", *(name for taker in _TAKERS for name in inspect.signature(taker).parameters)})


def check_train_arguments(arguments: Mapping[str, object]) -> None:
    """Raise ``TypeError`` for what neither ``train`` nor the trainer nor the training plan takes."""
    if isinstance(arguments.get("plan_kwargs"), Mapping):
        check_no_further(arguments["plan_kwargs"], known=_PLAN_ARGUMENTS)
    for name in arguments:
        if name in _PLAN_ARGUMENTS:
            msg = f"{name!r} is an argument of the training plan, not of train. Pass plan_kwargs={{{name!r}: ...}}."
            raise TypeError(msg)
    check_no_further(arguments, known=_TRAIN_ARGUMENTS)


def with_defaults(config: object, defaults: Mapping[str, object]) -> dict[str, object]:
    """A configuration, a mapping or one of scvi-tools' objects, with defaults for what it leaves open."""
    return {**defaults, **(config.to_kwargs() if hasattr(config, "to_kwargs") else config or {})}
