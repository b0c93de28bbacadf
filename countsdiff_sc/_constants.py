"""Names that more than one file must agree on."""

#: Key in ``adata.uns`` under which every imputed layer records how it was made.
UNS_KEY = "countsdiff_sc"

#: Label of cells whose label is not known. It is a category like any other, and the one that dropped labels share.
UNKNOWN_LABEL = "unknown"


def observed_mask_key(count_key: str) -> str:
    """Registry key of the mask that belongs to a registered count matrix."""
    return f"{count_key}_observed_mask"
