"""Every check of what a user hands in, and every text they read when it is wrong.

A message has three clauses: what is wrong, with its value and place; the rule; what to do.
"""

from ._arguments import (
    check_can_be_saved,
    check_choice,
    check_indices,
    check_key,
    check_no_further,
    check_not_string,
    check_number,
    check_output_layer,
    check_quantiles,
)
from ._columns import (
    check_categories,
    check_finite,
    check_labels_are_names,
    check_no_missing_category,
    warn_of_far_covariates,
    warn_of_unknown_labels,
    warn_of_unused_categories,
)
from ._counts import (
    check_counts,
    check_finite_values,
    check_mask_layer,
    check_observed_mask,
    check_something_observed,
    warn_of_divergence,
    warn_of_hidden_zeros,
    warn_of_unobserved,
)
from ._objects import (
    check_anndata,
    check_mudata,
    check_not_empty,
    check_not_view,
    check_same_cells,
    check_type,
    check_var_names,
    named_layers,
)
from ._wording import brief

__all__ = [
    "brief",
    "check_anndata",
    "check_can_be_saved",
    "check_categories",
    "check_choice",
    "check_counts",
    "check_finite",
    "check_finite_values",
    "check_indices",
    "check_key",
    "check_labels_are_names",
    "check_mask_layer",
    "check_mudata",
    "check_no_further",
    "check_no_missing_category",
    "check_not_empty",
    "check_not_string",
    "check_not_view",
    "check_number",
    "check_observed_mask",
    "check_output_layer",
    "check_quantiles",
    "check_same_cells",
    "check_something_observed",
    "check_type",
    "check_var_names",
    "named_layers",
    "warn_of_divergence",
    "warn_of_far_covariates",
    "warn_of_hidden_zeros",
    "warn_of_unknown_labels",
    "warn_of_unobserved",
    "warn_of_unused_categories",
]
