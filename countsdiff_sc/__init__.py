"""Count diffusion for single-cell imputation."""

from importlib.metadata import version

from . import datasets, evaluation, nn, pl, process
from ._model import CountsDiffSC

__version__ = version("countsdiff_sc")

__all__ = ["CountsDiffSC", "__version__", "datasets", "evaluation", "nn", "pl", "process"]
