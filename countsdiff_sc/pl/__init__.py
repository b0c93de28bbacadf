"""Pictures."""

from ._evaluation import evaluation
from ._generation import generated
from ._report import imputed_against_true, report, training_curve

__all__ = ["evaluation", "generated", "imputed_against_true", "report", "training_curve"]
