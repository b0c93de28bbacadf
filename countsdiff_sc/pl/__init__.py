"""Pictures."""

from ._evaluation import evaluation
from ._report import imputed_against_true, report, training_curve

__all__ = ["evaluation", "imputed_against_true", "report", "training_curve"]
