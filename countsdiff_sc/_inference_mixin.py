"""What a trained model does before it imputes, generates or evaluates cells."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from mudata import MuData
from scvi import settings
from scvi.data._constants import _SCVI_UUID_KEY

from countsdiff_sc import _registration, _validation
from countsdiff_sc._counts import CountMatrix

#: Cells worked off together unless ``batch_size`` says otherwise, and the entries that they may have: so few that what is
#: computed from them, 1 MB a matrix, stays in the cache of a processor. With many genes it is the weights that do not: each is
#: read once for so many cells at least.
BLOCK_SIZE, BLOCK_ENTRIES, MIN_BLOCK_SIZE = 1024, 2**18, 128
#: The same on other devices: a GPU waits for operations to be started, not for memory.
DEVICE_BLOCK_SIZE, DEVICE_BLOCK_ENTRIES = 4096, 2**22


class InferenceMixin:
    """Data that are checked, and blocks of cells."""

    def _check_trained(self, purpose: str) -> None:
        """Raise ``RuntimeError`` unless there are weights that something can be computed with."""
        if not self.is_trained_:
            msg = f"The model is not trained. Only a trained model can {purpose}. Call model.train() first."
            raise RuntimeError(msg)
        _validation.check_finite_weights(self.module.ema.parameters(), purpose)

    def _prepare(self, adata: AnnData | MuData | None, *, purpose: str) -> tuple[AnnData | MuData, list[CountMatrix]]:
        self._check_trained(purpose)
        data = self._validate_anndata(adata)
        latest = self._setup_adata_manager_store.get(data.uns.get(_SCVI_UUID_KEY))
        is_of_these = latest is not None and latest.adata is data  # and not of a copy
        _registration.warn_of_another_setup(self.registry["setup_args"], latest if is_of_these else None)
        matrices = self._count_matrices(data)
        for matrix in matrices:  # also of the training data, which may have been filtered since
            names = _registration.registered_names(self.registry, matrix.registry_key)
            _validation.check_var_names(matrix.adata.var_names, names, where=matrix.holder)
        return data, matrices

    def _block_size(self, batch_size: int | None) -> int:
        """Cells worked off together: by default the fewer the more genes there are, down to a least number."""
        if batch_size is not None:
            _validation.check_number("batch_size", batch_size, low=1, integer=True)
            return batch_size
        on_cpu = self.module.device.type == "cpu"
        most, n_entries = (BLOCK_SIZE, BLOCK_ENTRIES) if on_cpu else (DEVICE_BLOCK_SIZE, DEVICE_BLOCK_ENTRIES)
        return min(most, max(MIN_BLOCK_SIZE, n_entries // self.n_genes))


def resolve_seed(seed: int | None) -> int:
    """The seed given, that of scvi-tools, or a fresh one."""
    if seed is None:
        seed = settings.seed
    if seed is not None:
        _validation.check_number("seed", seed, low=0, integer=True)
    return int(np.random.SeedSequence().entropy % 2**31) if seed is None else int(seed)
