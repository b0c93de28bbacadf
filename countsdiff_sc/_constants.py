"""Names that more than one file must agree on."""

#: Suffix of the registry keys under which observed masks are registered.
OBSERVED_MASK_KEY = "observed_mask"

#: Key in ``adata.uns`` under which every imputed layer records how it was made.
UNS_KEY = "countsdiff_sc"

#: Label of cells whose label is not known. It is a category like any other, and the one that dropped labels share.
UNKNOWN_LABEL = "unknown"
