"""What a trained model fills in, and where it goes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import settings
from scvi.utils import track

from countsdiff_sc import _registration, _validation, _writing
from countsdiff_sc._counts import CountMatrix, dense
from countsdiff_sc._imputation import Tally, estimated_selection, impute_cells
from countsdiff_sc._inference_mixin import InferenceMixin, resolve_seed
from countsdiff_sc._registration import ObservedMask
from countsdiff_sc._request import Attrition, ImputationRequest
from countsdiff_sc.process._births import BirthRule
from countsdiff_sc.process._selection import MAX_STRENGTH

#: Entries whose masks tell how counts were selected, and the least number of cells that they belong to. In the smallest modality
#: they are as many, unless that takes more than the last number of cells.
SELECTION_ENTRIES, MIN_SELECTION_CELLS, MAX_SELECTION_CELLS = 2**16, 32, 256


class ImputationMixin(InferenceMixin):
    """``impute`` and ``get_imputed_counts``."""

    def impute(
        self,
        adata: AnnData | MuData | None = None,
        layer: str = "imputed",
        *,
        observed_mask: ObservedMask | None = None,
        estimate: str = "mean",
        n_samples: int = 1,
        n_steps: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        attrition: Attrition = None,
        births: str | BirthRule = "negative_binomial",
        conditioning: str = "observed",
        n_resample: int = 1,
        resample_window: int = 1,
        known_path: str = "fresh",
        selection: float | Mapping[str, float] | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Impute missing counts and *write* them, with the observed ones, to ``layer``.

        Note that ``layer`` is where the result goes; the counts are read from where :meth:`setup_anndata` was told.
        Arguments are recorded in ``adata.uns["countsdiff_sc"][layer]``. No layer but draws of an earlier call, which
        are replaced, is changed, and none if anything fails. Before, new data are registered as by scvi-tools, which adds ``_scvi``
        columns to ``obs``; if they lack the labels the model was trained with, every cell is labelled ``"unknown"``.

        Parameters
        ----------
        adata
            The training data (default) or new data with the same genes. A view becomes a copy, as whenever something is written to
            one: give it a name first (``v = adata[cells]``), or impute the whole with ``indices``.
        layer
            Name of the layer to write. Several samples go to ``imputed_0``, ``imputed_1``, ..., in place of all those of an
            earlier call.
        observed_mask
            Booleans, cells x genes, True where a count is observed and kept: an array, a DataFrame, a sparse matrix or the name
            of a layer (for MuData a mapping from modality to one of these; those left out keep the registered one). By default
            the layer registered at setup, else NaN marks missing entries, else *zeros* are imputed, each gene fold predicted
            from the other genes. NaN is missing whatever a mask says.
        estimate
            ``"mean"`` (float32; lowest squared error), ``"median"`` or ``"sample"`` (integers; right distribution,
            but a single draw has about 1.4 times the error of the mean).
        n_samples
            Number of draws for ``"sample"``. Where a mean, median or quantile has no closed form (``n_steps`` above 1, ``"remask"``,
            or for a median other ``births``), the draws it is formed from; 1 then means 1 for a mean and 39 for the others.
        n_steps
            Transitions of the sampler, by default 1 (exact marginals), 20 for ``"remask"``. Each is a network pass.
        guidance_scale
            1 uses labels, batches and covariates as trained, 0 ignores them, above 1 exaggerates them. A number is for all
            of them together; a mapping from column of ``obs`` to number scales each on its own, such as
            ``{"cell_type": 2, "donor": 0}``. Each scale other than 1 costs one more network pass per step.
        attrition
            Molecules that die again on the way back: None, ``"max"``, a fraction of the maximum, an array of fractions by gene
            ``(n_vars,)`` or by entry (cells x genes of ``adata``), or a callable ``(p_s, p_t)`` that returns a probability,
            clamped to the maximum. One step has no use for it. Like ``births``, a callable may be called by several threads
            at once.
        births
            How the molecules lost are drawn from their predicted law: ``"negative_binomial"`` (right variance at any number
            of steps), ``"poisson"``, ``"stochastic"`` (the paper's), ``"nearest"`` or a callable, see
            :func:`~countsdiff_sc.process.get_birth_rule`. The mean of one step is the predicted one whatever the rule.
        conditioning
            ``"observed"``: the network sees the observed counts in full. ``"remask"``: an unconditional run into
            which thinned observed counts are put at every step, as in the paper.
        n_resample, resample_window
            With ``"remask"``, run each window of ``resample_window`` steps ``n_resample`` times, forgetting in between as much
            as was gained in time :cite:p:`Lugmayr2022`. Network passes are ``1 + (n_steps - 1) * n_resample``.
        known_path
            With ``"remask"``, whether observed entries are thinned ``"fresh"`` at each step, or along one ``"coherent"`` path.
        selection
            Whether counts are missing because of what they are: the log odds ratio of being observed between a count far above and one
            far below its gene's mean, between -8 and 8. 0 says that they are missing at random, whatever cells and genes lose
            most; above 0 low counts are missing more often (dropout), and what is imputed is lower. By default it is estimated
            from the mask of some of the cells that are imputed, see :doc:`/theory`, and is 0 unless that is clearly refuted, which
            fewer than 10 genes cannot do. For MuData each modality has its own, and a mapping states some of them. What was used
            is recorded. With ``"remask"``, and where zeros are imputed, it is 0.
        indices
            Cells to impute. In the layer other cells keep an earlier result of the same kind, means or counts; otherwise they hold
            their counts.
        batch_size
            Cells imputed together; by default 1024, fewer where there are more than 256 genes, and on a GPU 4096, fewer beyond
            1024 genes.
        seed
            Seed of the draws and of the gene folds; the same seed and ``batch_size`` give the same result. By default
            ``scvi.settings.seed``, else a fresh one, which is recorded.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError, TypeError, ValueError
            If ``adata`` does not fit the model, the mask does not fit ``adata``, or an argument is out of range.

        Examples
        --------
        >>> model.impute(adata)  # means, into adata.layers["imputed"]  # doctest: +SKIP
        >>> model.impute(adata, layer="drawn", estimate="sample", n_samples=5)  # doctest: +SKIP
        """
        request = ImputationRequest(
            estimate=estimate,
            n_samples=n_samples,
            n_steps=n_steps,
            guidance_scale=guidance_scale,
            attrition=attrition,
            births=births,
            conditioning=conditioning,
            n_resample=n_resample,
            resample_window=resample_window,
            known_path=known_path,
            selection=selection,
        )
        seed, batch_size = resolve_seed(seed), self._block_size(batch_size)
        data, matrices = self._prepare(adata, purpose="impute")
        for matrix in matrices:
            for name in _writing.layer_names(layer, request.n_outputs):
                _validation.check_output_layer(name, matrix, written_before=_writing.was_imputed(matrix, name))
        outputs, rows, about = self._impute(data, matrices, request, observed_mask, indices, batch_size, seed)
        record = {
            **request.recorded(),
            "n_steps": request.transitions,
            "seed": seed,
            "batch_size": batch_size,
            "versions": _writing.versions(),
        }
        subset = None if np.array_equal(rows, np.arange(data.n_obs)) else rows
        _writing.write_layers(matrices, layer, outputs, subset, [{**record, **found} for found in about])

    def get_imputed_counts(
        self,
        adata: AnnData | MuData | None = None,
        *,
        observed_mask: ObservedMask | None = None,
        estimate: str = "mean",
        n_samples: int = 1,
        n_steps: int | None = None,
        guidance_scale: float | Mapping[str, float] = 1.0,
        attrition: Attrition = None,
        births: str | BirthRule = "negative_binomial",
        conditioning: str = "observed",
        n_resample: int = 1,
        resample_window: int = 1,
        known_path: str = "fresh",
        selection: float | Mapping[str, float] | None = None,
        quantiles: Sequence[float] | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> np.ndarray | sparse.csr_matrix | list[np.ndarray | sparse.csr_matrix]:
        """Impute missing counts and return them, with the observed ones; no layer is written.

        New data are registered as in :meth:`impute`, which may add columns to ``obs``.

        Parameters
        ----------
        quantiles
            Levels in (0, 1) of the predictive distribution, instead of an ``estimate``: ``(0.05, 0.95)`` bounds a 90%
            interval.
        adata, observed_mask, estimate, n_samples, n_steps, guidance_scale, attrition, births, conditioning
            As in :meth:`impute`.
        n_resample, resample_window, known_path, selection, indices, batch_size, seed
            As in :meth:`impute`.

        Returns
        -------
        One matrix (cells x genes), or a list of them for several samples or for ``quantiles``: dense float32 for
        means, CSR of integers for everything else. Rows follow ``indices``.

        Raises
        ------
        RuntimeError, KeyError, TypeError, ValueError
            As in :meth:`impute`.

        Examples
        --------
        >>> low, high = model.get_imputed_counts(quantiles=(0.05, 0.95))  # doctest: +SKIP
        """
        request = ImputationRequest(
            estimate=estimate,
            n_samples=n_samples,
            n_steps=n_steps,
            guidance_scale=guidance_scale,
            attrition=attrition,
            births=births,
            conditioning=conditioning,
            n_resample=n_resample,
            resample_window=resample_window,
            known_path=known_path,
            selection=selection,
            quantiles=quantiles,
        )
        seed, batch_size = resolve_seed(seed), self._block_size(batch_size)
        data, matrices = self._prepare(adata, purpose="impute")
        outputs, *_ = self._impute(data, matrices, request, observed_mask, indices, batch_size, seed)
        return outputs if quantiles is not None or len(outputs) > 1 else outputs[0]

    @torch.inference_mode()
    def _impute(self, data, matrices, request, observed_mask, indices, batch_size, seed):
        self.module.eval()  # a training run that was interrupted leaves it in training mode
        request.check_fits(self.module, data.n_obs, self.n_genes)
        mask, mask_kind = self._resolve_mask(data, matrices, observed_mask)
        rows = _validation.check_indices(indices, data.n_obs)
        in_order = np.sort(rows)  # backed data are read in this order whatever is asked for
        modalities = [matrix.modality for matrix in matrices]
        _registration.check_modality_mapping(request.selection, modalities, argument="selection")
        request.check_something_missing(mask_kind)
        selection = self._selection(data, matrices, request, mask, mask_kind, in_order, batch_size)
        loader = self._make_data_loader(adata=data, indices=in_order, batch_size=batch_size)
        blocks = [in_order[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        outputs, tally = impute_cells(
            self.module,
            track(loader, description="Imputing...", style="tqdm", disable=len(loader) < 2),
            [None] * len(blocks) if mask is None else (dense(mask[cells]) for cells in blocks),
            request,
            selection=selection,
            rows=blocks,
            zeros_are_missing=mask_kind == "zeros",
            seed=seed,
        )
        _warn_of_surprises(tally, len(rows), mask_given=mask is not None, is_training_data=data is self._training_data)
        if not np.array_equal(rows, in_order):
            outputs = [values[np.searchsorted(in_order, rows)] for values in outputs]
        about = {"observed_mask": mask_kind, "n_cells": len(rows)}
        by_modality = zip(tally.n_missing, selection, strict=True)
        return outputs, rows, [{**about, "n_imputed": int(n), "selection": strength} for n, strength in by_modality]

    def _selection(
        self,
        data,
        matrices: list[CountMatrix],
        request: ImputationRequest,
        mask,
        mask_kind: str,
        rows: np.ndarray,
        batch_size: int,
    ) -> list[float]:
        """That of each modality: as stated, or told from a fixed random subset of ``rows``, so that the same rows have the same."""
        if isinstance(request.selection, Mapping):
            stated = [request.selection.get(matrix.modality) for matrix in matrices]
        else:
            stated = [request.selection] * len(matrices)
        if mask_kind == "zeros" or request.conditioning == "remask":
            return [0.0] * len(matrices)
        if None not in stated:
            return [float(strength) for strength in stated]
        smallest = min(matrix.adata.n_vars for matrix in matrices)
        of_smallest = min(SELECTION_ENTRIES // smallest, MAX_SELECTION_CELLS)
        n_cells = max(SELECTION_ENTRIES // self.n_genes, of_smallest, MIN_SELECTION_CELLS)
        some = np.sort(np.random.default_rng(0).permutation(rows)[:n_cells])
        loader = self._make_data_loader(adata=data, indices=some, batch_size=batch_size)
        blocks = [some[first : first + batch_size] for first in range(0, len(some), batch_size)]
        masks = [None] * len(blocks) if mask is None else (dense(mask[cells]) for cells in blocks)
        told = estimated_selection(self.module, loader, masks)
        _warn_of_limits(told, stated)
        return [found if given is None else float(given) for given, found in zip(stated, told, strict=True)]

    def _resolve_mask(self, data, matrices: list[CountMatrix], observed_mask) -> tuple[object, str]:
        """The observed mask given now, or None, and how missing entries are told from observed ones."""
        marked = [_registration.check_matrix(matrix) for matrix in matrices]
        if observed_mask is None:
            if any(matrix.mask_layer is not None for matrix in matrices):
                return None, "registered layer"
            if any(marked):
                return None, "nan"
            if self.missing_in_training_ and data is not self._training_data:
                _warn_of_zeros()
            return None, "zeros"
        return _registration.stack_masks(matrices, observed_mask), "argument"


def _warn_of_surprises(tally: Tally, n_cells: int, *, mask_given: bool, is_training_data: bool) -> None:
    """Say what a user may not have meant."""
    messages = []
    if not tally.n_missing.any():
        messages.append("Nothing is missing, so the result equals the counts. Check which mask or NaN was meant.")
    if tally.n_empty_cells:
        messages.append(
            f"{tally.n_empty_cells:,} of {n_cells:,} cells have no observed entry. Their counts are generated from the "
            "conditions alone. Check observed_mask if this is not meant."
        )
    if mask_given and is_training_data and tally.n_newly_hidden:
        messages.append(
            f"observed_mask hides {tally.n_newly_hidden:,} entries of the model's data that were not hidden in training. If it was trained "
            "on these data, it has learned from what stands there. Register the mask at setup, observed_mask_layer=..., and train "
            "again, unless that is meant."
        )
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=settings.warnings_stacklevel)
    if mask_given:
        _validation.warn_of_hidden_zeros(
            "observed_mask", tally.n_observed, tally.n_observed_zeros, tally.n_observed_ones
        )


def _warn_of_zeros() -> None:
    """Say that zeros are about to be imputed by a model that knows what missing entries are."""
    msg = (
        "The new data have no NaN, by which the training data marked missing entries, so that their zeros are imputed. If they were "
        "measured, pass observed_mask, True where a count was observed."
    )
    warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def _warn_of_limits(told: Sequence[float], stated: Sequence[float | None]) -> None:
    """Say that an estimated selection is as strong as networks know it."""
    for strength, given in zip(told, stated, strict=True):
        if given is None and abs(strength) >= MAX_STRENGTH:
            which, wrong = ("low", "high") if strength > 0 else ("high", "low")
            msg = (
                f"By the mask {which} counts are missing so much more often that selection={strength:g}, the limit of what the model "
                f"knows, as behind a threshold. What is imputed is then likely too {wrong}. Do not read it as counts."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
