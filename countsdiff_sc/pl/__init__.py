"""Pictures."""

from ._report import imputed_against_true, report, training_curve

__all__ = ["imputed_against_true", "report", "training_curve"]
