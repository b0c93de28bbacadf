"""How probable cells are under a trained model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scvi.utils import track

from countsdiff_sc import _registration, _validation
from countsdiff_sc._inference_mixin import InferenceMixin, resolve_seed
from countsdiff_sc._likelihood import likelihood_bound
from countsdiff_sc._side_by_side import side_by_side


class LikelihoodMixin(InferenceMixin):
    """``get_elbo``."""

    @torch.inference_mode()
    def get_elbo(
        self,
        adata: AnnData | MuData | None = None,
        *,
        indices: Sequence[int] | None = None,
        n_times: int = 32,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """Evidence lower bound (ELBO) of each cell: the log-probability of its counts is at least this. Higher is better.

        As that of scvi-tools it is in nats, of whole counts with all constants, so models of one set of genes and
        cells can be compared by it. It is conditional on labels, batches and covariates. Entries that are missing by NaN or
        by the registered mask are left out. It is estimated from random times, see :doc:`/theory`. New data are registered as in
        :meth:`impute`.

        Parameters
        ----------
        adata
            The training data (default) or new data with the same genes.
        indices
            Cells; by default all.
        n_times
            Intervals into which the time is divided; the network is asked twice in each. The standard error falls as
            ``1 / sqrt(n_times)``, or faster.
        batch_size
            Cells evaluated together, by default as in :meth:`impute`.
        seed
            Seed of the estimate. By default ``scvi.settings.seed``, else a fresh one.

        Returns
        -------
        A row per cell in the order of ``indices``, with columns ``elbo`` and ``standard_error`` (nats), that of the
        estimate. The standard error of the mean over ``n`` cells is ``sqrt((standard_error**2).sum()) / n``, for these cells.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError, TypeError, ValueError
            If ``adata`` does not fit the model, or an argument is out of range.

        Examples
        --------
        >>> model.get_elbo()["elbo"].mean()  # doctest: +SKIP
        """
        _validation.check_number("n_times", n_times, low=1, integer=True)
        seed, batch_size = resolve_seed(seed), self._block_size(batch_size)
        data, matrices = self._prepare(adata, purpose="bound a likelihood")
        for matrix in matrices:
            _registration.check_matrix(matrix)
        rows = _validation.check_indices(indices, data.n_obs)
        in_order = np.sort(rows)  # backed data are read in this order whatever is asked for
        module = self.module.eval()  # a training run that was interrupted leaves it in training mode
        loader = self._make_data_loader(adata=data, indices=in_order, batch_size=batch_size)

        def bounded(tensors: dict[str, torch.Tensor], generator: torch.Generator) -> np.ndarray:
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            counts, known = module.counts_and_known(tensors)
            conditions = module.conditions(tensors)
            found = likelihood_bound(module, counts, known, conditions, n_times=n_times, generator=generator)
            return torch.stack(found, dim=1).cpu().numpy()

        minibatches = track(loader, "Evaluating...", disable=len(loader) < 2, style="tqdm")
        blocks = list(side_by_side(bounded, minibatches, n_blocks=len(loader), seed=seed, device=module.device))
        elbo, variance = np.concatenate(blocks).T
        table = pd.DataFrame({"elbo": elbo, "standard_error": np.sqrt(variance)}, index=data.obs_names[in_order])
        return table if np.array_equal(rows, in_order) else table.iloc[np.searchsorted(in_order, rows)]
