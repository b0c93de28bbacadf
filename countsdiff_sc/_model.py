"""The model class: registers data, trains, imputes. No mathematics here."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401  (scvi-tools 1.4 uses it without importing it)
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin
from scvi.utils import setup_anndata_dsp, track

from countsdiff_sc import _registration, _validation, _writing, evaluation
from countsdiff_sc._counts import CountMatrix, dense, estimate_reference
from countsdiff_sc._imputation import ImputationRequest, impute_cells
from countsdiff_sc._module import CountsDiffModule
from countsdiff_sc._training_plan import CountsDiffTrainingPlan

logger = logging.getLogger(__name__)

#: Cells imputed together unless ``batch_size`` says otherwise.
BLOCK_SIZE = 1024


class CountsDiffSC(UnsupervisedTrainingMixin, BaseModelClass):
    """Count diffusion for single-cell imputation.

    Molecules die one by one by binomial thinning, and a learned birth-death process brings them back :cite:p:`Soatto2026`.
    Missing counts are imputed given the observed ones, which are kept exactly.

    Parameters
    ----------
    adata
        AnnData or MuData of raw counts. If it was not set up with :meth:`setup_anndata`, that is done with the
        defaults, and said.
    registry
        Registry of a saved model; used by :meth:`load` when it is given no data.
    denoiser
        ``"gene_set_transformer"`` (default), ``"full_attention"`` (quadratic in genes, for comparison), or a backbone
        module, see :class:`~countsdiff_sc.nn.CountDenoiser`.
    schedule
        Survival schedule: ``"cosine"``, ``"blackout"``, ``"jump"`` or a callable ``p(t)``. To be saved with the model
        a callable must be importable: a function of a module, not a lambda.
    loss_weighting
        Weight of a time in the loss: ``"uniform"``, ``"paper"``, ``"likelihood"`` or a callable ``(schedule, t)``.
    p_uncond
        Probability with which a condition of a cell is hidden in training; needed for ``guidance_scale`` other than 1.
    **module_kwargs
        Further arguments of the module and the denoiser, such as ``n_tokens``, ``width``, ``ema_decay``.

    Raises
    ------
    TypeError, ValueError
        If ``adata`` does not hold counts, is empty, or an argument is not known.

    Examples
    --------
    >>> import countsdiff_sc
    >>> adata = countsdiff_sc.datasets.pbmc68k_counts()
    >>> model = countsdiff_sc.CountsDiffSC(adata)  # doctest: +SKIP
    >>> model.train()  # doctest: +SKIP
    >>> model.impute(adata, layer="imputed")  # doctest: +SKIP
    """

    _module_cls = CountsDiffModule
    _training_plan_cls = CountsDiffTrainingPlan

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict | None = None,
        *,
        denoiser: str | torch.nn.Module = "gene_set_transformer",
        schedule="cosine",
        loss_weighting="uniform",
        p_uncond: float = 0.2,
        **module_kwargs,
    ):
        if adata is not None:
            self._set_up_if_needed(adata)
        super().__init__(adata, registry)
        conditions = _registration.ConditionSpec.from_registry(self.registry)
        keys = _registration.count_keys(self.registry)
        self.module = self._module_cls(
            count_keys=keys,
            modality_sizes=tuple(len(_registration.registered_names(self.registry, key)) for key in keys),
            categorical_keys=conditions.categorical_keys,
            n_categories=conditions.n_categories,
            n_continuous=conditions.n_continuous,
            denoiser=denoiser,
            schedule=schedule,
            loss_weighting=loss_weighting,
            p_uncond=p_uncond,
            **module_kwargs,
        )
        n_conditions = len(conditions.n_categories) + conditions.n_continuous
        self._model_summary_string = (
            f"CountsDiffSC with {self.n_genes} genes, {n_conditions} conditions, denoiser {denoiser}, schedule "
            f"{self.module.schedule}"
        )
        self.init_params_ = self._get_init_params(locals())

    # ------------------------------------------------------------------ setup

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        observed_mask_layer: str | None = None,
        **kwargs,
    ) -> None:
        """%(summary)s.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
            Raw counts; NaN marks a missing entry.
        %(param_batch_key)s
        labels_key
            Column of ``adata.obs`` with labels such as cell types. They condition the model and are never needed:
            cells labelled ``"unknown"``, and new data without the column, are imputed without.
        categorical_covariate_keys
            Columns of ``adata.obs`` with further categories that condition the model.
        continuous_covariate_keys
            Columns of ``adata.obs`` with numbers that condition the model.
        observed_mask_layer
            Layer of booleans, True where a count was observed. Other entries are neither trained on nor trusted: they
            are what :meth:`impute` fills in.

        Raises
        ------
        KeyError
            If a layer or column does not exist.
        TypeError, ValueError
            If the layer does not hold counts, or the mask is not boolean.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        matrices = [CountMatrix(adata, layer, observed_mask_layer, _registration.count_key(0))]
        obs_keys = _registration.ObsKeys(
            batch_key, labels_key, categorical_covariate_keys, continuous_covariate_keys
        )
        cls._register(adata, matrices, obs_keys, setup_method_args, kwargs)

    @classmethod
    @setup_anndata_dsp.dedent
    def setup_mudata(
        cls,
        mdata: MuData,
        layer: str | Mapping[str, str] | None = None,
        *,
        modalities: Sequence[str] | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        observed_mask_layer: str | Mapping[str, str] | None = None,
        **kwargs,
    ) -> None:
        """Set up a MuData whose modalities are modelled together.

        Parameters
        ----------
        %(param_mdata)s
        layer
            Layer with raw counts, one name for all modalities or a mapping from modality to name; None for ``X``.
        modalities
            Names of the modalities to model together, for example ``["rna", "prot"]``; all by default. Each must
            hold counts, and each has a sequencing depth of its own.
        batch_key, labels_key, categorical_covariate_keys, continuous_covariate_keys
            Columns of ``mdata.obs``, as in :meth:`setup_anndata`.
        observed_mask_layer
            As in :meth:`setup_anndata`, one name or a mapping from modality to name. A modality that was not measured
            in some cells is one whose mask is False there.

        Raises
        ------
        KeyError, TypeError, ValueError
            As in :meth:`setup_anndata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        for name in modalities or ():
            _validation.check_key(name, mdata.mod, where="mdata.mod", argument="modalities")
        matrices = _registration.count_matrices(mdata, setup_method_args["setup_args"])
        obs_keys = _registration.ObsKeys(
            batch_key, labels_key, categorical_covariate_keys, continuous_covariate_keys
        )
        cls._register(mdata, matrices, obs_keys, setup_method_args, kwargs)

    @classmethod
    def _register(cls, data, matrices, obs_keys, setup_method_args, kwargs) -> None:
        for matrix in matrices:
            _registration.check_matrix(matrix)
        obs_keys.check(data)
        if (source := kwargs.get("source_registry")) is not None:
            _registration.check_query(data, source)
        is_mudata = isinstance(data, MuData)
        fields = [field for matrix in matrices for field in _registration.matrix_fields(matrix)]
        manager = AnnDataManager(
            fields=fields + obs_keys.fields(mudata=is_mudata), setup_method_args=setup_method_args
        )
        manager.register_fields(data, **kwargs)
        cls.register_manager(manager)

    @classmethod
    def _set_up_if_needed(cls, data: AnnData | MuData) -> None:
        _validation.check_type(data)
        _validation.check_not_empty(data.n_obs, data.n_vars, where="The data")
        if cls._get_most_recent_anndata_manager(data) is not None:
            return
        if isinstance(data, MuData):
            cls.setup_mudata(data)
            found = f"counts in X of the modalities {list(data.mod)}"
        else:
            cls.setup_anndata(data)
            found = "counts in adata.X, no labels, no batches, no mask"
        # A warning-level record reaches the user without any logging having been configured.
        logger.warning("The data was not set up; set up with the defaults: %s.", found)

    @property
    def var_names(self) -> np.ndarray:
        """Names of the genes, modality after modality, in the order of the imputed matrices."""
        keys = _registration.count_keys(self.registry)
        return np.concatenate([_registration.registered_names(self.registry, key) for key in keys])

    @property
    def n_genes(self) -> int:
        """Number of genes, over all modalities."""
        return len(self.var_names)

    # ------------------------------------------------------------------ training

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        *,
        devices: int | list[int] | str = "auto",
        batch_size: int = 128,
        train_size: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = True,
        early_stopping_monitor: str = "validation_loss",
        early_stopping_patience: int = 20,
        gradient_clip_val: float = 1.0,
        **kwargs,
    ) -> None:
        """Train the model.

        Afterwards ``model.history`` holds ``train_loss`` and ``validation_loss`` by epoch. Seed with
        ``scvi.settings.seed``.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default about 1,000 optimiser steps and at least 5 epochs.
        accelerator, devices
            Where to train, as in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
        batch_size
            Cells in a minibatch.
        train_size, validation_size
            Fractions of cells; by default 0.9 and the rest.
        early_stopping, early_stopping_monitor, early_stopping_patience
            Stop when the validation loss, computed on the same masks and times at every epoch, has not improved for
            this many epochs. The weights with the lowest validation loss are kept in any case.
        gradient_clip_val
            Largest gradient norm.
        **kwargs
            Further arguments of scvi-tools' ``train``: ``plan_kwargs``, ``datasplitter_kwargs``, ``callbacks``,
            ``logger``, ``precision``, ...
        """
        n_obs = self.adata_manager.adata.n_obs
        if train_size is None and n_obs < 20:  # too few cells to hold any out
            train_size, early_stopping = 1.0, False
        n_train = math.ceil((train_size or 0.9) * n_obs)
        if max_epochs is None:
            max_epochs = _default_max_epochs(n_train, batch_size)
        if not self.is_trained_:
            self._set_reference()
        self.module.train()  # inference left it in evaluation mode, and the trainer does not change modes
        if "callbacks" in kwargs:
            kwargs["callbacks"] = list(kwargs["callbacks"])  # the trainer appends to it
        # Without this the trainer switches cudnn's non-deterministic autotuning on, also when a seed is set.
        kwargs.setdefault("benchmark", False)
        if n_train < n_obs:
            kwargs.setdefault("check_val_every_n_epoch", 1)
        super().train(
            max_epochs=max_epochs,
            accelerator=accelerator,
            devices=devices,
            batch_size=batch_size,
            train_size=train_size,
            validation_size=validation_size,
            early_stopping=early_stopping,
            early_stopping_monitor=early_stopping_monitor,
            early_stopping_patience=early_stopping_patience,
            gradient_clip_val=gradient_clip_val,
            **kwargs,
        )

    def _set_reference(self) -> None:
        references = [estimate_reference(matrix) for matrix in self._count_matrices(self.adata)]
        covariates = np.empty((self.adata.n_obs, 0))
        if self.module.n_continuous:
            covariates = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.CONT_COVS_KEY), dtype=float)
        self.module.set_reference(
            torch.as_tensor(np.concatenate([r.mean_profile for r in references])),
            torch.tensor([r.depth_concentration for r in references]),
            torch.as_tensor(covariates.mean(axis=0)),
            torch.as_tensor(np.maximum(covariates.std(axis=0), 1e-6)),
        )

    # ------------------------------------------------------------------ imputation

    def impute(
        self,
        adata: AnnData | MuData | None = None,
        layer: str = "imputed",
        *,
        observed_mask=None,
        estimate: str = "mean",
        n_samples: int = 1,
        n_steps: int | None = None,
        guidance_scale: float = 1.0,
        attrition=None,
        conditioning: str = "observed",
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Impute missing counts and *write* them, with the observed ones, to ``layer``.

        Note that ``layer`` is where the result goes; the counts are read from where :meth:`setup_anndata` was told.
        Arguments are recorded in ``adata.uns["countsdiff_sc"][layer]``. No other layer is changed, and nothing is
        written if anything fails. New data are registered as by scvi-tools, which adds ``_scvi`` columns to ``obs``;
        if they lack the labels the model was trained with, every cell is labelled ``"unknown"``.

        Parameters
        ----------
        adata
            The training data (default) or new data with the same genes.
        layer
            Name of the layer to write. Several samples go to ``imputed_0``, ``imputed_1``, ...
        observed_mask
            Booleans, cells x genes, True where a count is observed and kept: an array, a sparse matrix or the name of
            a layer (for MuData a mapping from modality to one of these). By default the layer registered at setup,
            else NaN marks missing entries, else *zeros* are imputed, each gene fold predicted from the other genes.
            NaN is missing whatever a mask says.
        estimate
            ``"mean"`` (float32; lowest squared error), ``"median"`` or ``"sample"`` (integers; right distribution,
            but a single draw has about 1.4 times the error of the mean).
        n_samples
            Number of draws for ``"sample"``. Where a mean, median or quantile has no closed form (``n_steps`` above 1,
            or ``"remask"``), the draws it is formed from; 1 then means 1 for a mean and 25 for the others.
        n_steps
            Transitions of the sampler, equal to network passes; by default 1 (exact marginals), 20 for ``"remask"``.
        guidance_scale
            1 uses labels and covariates as trained, 0 ignores them, above 1 exaggerates them.
        attrition
            Molecules that die again on the way back: None, ``"max"``, a fraction of the maximum or a callable.
        conditioning
            ``"observed"``: the network sees the observed counts in full. ``"remask"``: an unconditional run into
            which thinned observed counts are put at every step, as in the paper.
        indices
            Cells to impute; others keep their counts.
        batch_size
            Cells imputed together.
        seed
            Seed of the draws and of the gene folds; the same seed and ``batch_size`` give the same result. By default
            ``scvi.settings.seed``, else a fresh one, which is recorded.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        KeyError, TypeError, ValueError
            If ``adata`` does not fit the model, the mask does not fit ``adata``, or an argument is out of range.
        """
        arguments = {
            "estimate": estimate,
            "n_samples": n_samples,
            "n_steps": n_steps,
            "guidance_scale": guidance_scale,
            "attrition": attrition,
            "conditioning": conditioning,
        }
        request = ImputationRequest(**arguments)
        data, matrices = self._prepare(adata)
        names = _writing.layer_names(layer, request.n_outputs)
        for matrix in matrices:
            for name in names:
                _validation.check_output_layer(name, matrix, written_before=_writing.was_imputed(matrix, name))
        seed = _resolve_seed(seed)
        outputs, rows, mask_kind = self._impute(data, matrices, request, observed_mask, indices, batch_size, seed)
        record = {
            **{key: value if isinstance(value, (str, int, float)) else repr(value)
               for key, value in arguments.items() if value is not None},
            "n_steps": request.transitions,
            "observed_mask": mask_kind,
            "seed": seed,
            "batch_size": batch_size or BLOCK_SIZE,
            "n_cells": len(rows),
            "versions": _writing.versions(),
        }
        subset = rows if len(rows) < data.n_obs else None
        for name, values in zip(names, outputs, strict=True):
            offset = 0
            for matrix in matrices:
                n_vars = matrix.adata.n_vars
                part = values if len(matrices) == 1 else values[:, offset : offset + n_vars]
                _writing.write_layer(matrix, name, part, subset, record)
                offset += n_vars

    def get_imputed_counts(
        self,
        adata: AnnData | MuData | None = None,
        *,
        observed_mask=None,
        estimate: str = "mean",
        n_samples: int = 1,
        n_steps: int | None = None,
        guidance_scale: float = 1.0,
        attrition=None,
        conditioning: str = "observed",
        quantiles: Sequence[float] | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> np.ndarray | sparse.csr_matrix | list[np.ndarray | sparse.csr_matrix]:
        """Impute missing counts and return them, with the observed ones; nothing is written.

        Parameters
        ----------
        quantiles
            Levels in (0, 1) of the predictive distribution, instead of an ``estimate``: ``(0.05, 0.95)`` bounds a 90%
            interval.
        adata, observed_mask, estimate, n_samples, n_steps, guidance_scale, attrition, conditioning, indices, batch_size, seed
            As in :meth:`impute`.

        Returns
        -------
        One matrix (cells x genes), or a list of them for several samples or for ``quantiles``: dense float32 for
        means, CSR of integers for everything else. Rows follow ``indices``.

        Raises
        ------
        RuntimeError, KeyError, TypeError, ValueError
            As in :meth:`impute`.
        """
        request = ImputationRequest(
            estimate=estimate,
            n_samples=n_samples,
            n_steps=n_steps,
            guidance_scale=guidance_scale,
            attrition=attrition,
            conditioning=conditioning,
            quantiles=None if quantiles is None else tuple(quantiles),
        )
        data, matrices = self._prepare(adata)
        seed = _resolve_seed(seed)
        outputs, _, _ = self._impute(data, matrices, request, observed_mask, indices, batch_size, seed)
        return outputs if quantiles is not None or len(outputs) > 1 else outputs[0]

    # ------------------------------------------------------------------ evaluation

    def evaluate(
        self,
        adata: AnnData | None = None,
        *,
        mechanism: str = "mcar",
        fraction: float = 0.5,
        seed: int = 0,
        **train_kwargs,
    ) -> pd.DataFrame:
        """Hide entries of a copy of the data, train a model like this one without them, and score what it imputes.

        Parameters
        ----------
        adata
            The training data (default) or other data set up alike; not changed.
        mechanism
            How entries are chosen: ``"mcar"``, completely at random.
        fraction
            Probability with which an entry is hidden.
        seed
            Seed of the mask.
        **train_kwargs
            Arguments of :meth:`train` for the model that is trained.

        Returns
        -------
        One row per method, this model last, with ``poisson_deviance`` (nats per hidden entry) and ``rmse_log1p``;
        lower is better. See :func:`countsdiff_sc.evaluation.hold_out`.

        Raises
        ------
        TypeError
            For MuData.
        ValueError
            If ``mechanism`` is not known or nothing is hidden.
        """
        adata = self.adata if adata is None else adata
        _validation.check_anndata(adata, method="evaluate")
        _validation.check_choice("mechanism", mechanism, ("mcar",))
        setup_args = self.registry["setup_args"]

        def fit(data: AnnData) -> CountsDiffSC:
            type(self).setup_anndata(data, **setup_args)
            model = type(self)(data, **self._constructor_arguments())
            model.train(**train_kwargs)
            return model

        keys = ("layer", "observed_mask_layer", "labels_key")
        arguments = {key: setup_args[key] for key in keys}
        return evaluation.hold_out(adata, fit, **arguments, fraction=fraction, seed=seed).table

    def _constructor_arguments(self) -> dict:
        saved = self.init_params_
        arguments = {**saved["non_kwargs"], **{k: v for group in saved["kwargs"].values() for k, v in group.items()}}
        return {key: value for key, value in arguments.items() if key not in {"adata", "registry"}}

    # ------------------------------------------------------------------ private

    @torch.inference_mode()
    def _impute(self, data, matrices, request, observed_mask, indices, batch_size, seed):
        mask, mask_kind = self._resolve_mask(data, matrices, observed_mask)
        rows = _validation.check_indices(indices, data.n_obs)
        in_order = np.sort(rows)  # backed data are read in this order whatever is asked for
        batch_size = batch_size or BLOCK_SIZE
        loader = self._make_data_loader(adata=data, indices=in_order, batch_size=batch_size)
        outputs, n_empty = impute_cells(
            self.module,
            track(loader, description="Imputing...", style="tqdm", disable=len(loader) < 2),
            None if mask is None else _mask_blocks(mask, in_order, batch_size),
            request,
            zeros_are_missing=mask_kind == "zeros",
            seed=seed,
        )
        if n_empty:
            warnings.warn(
                f"{n_empty:,} of {len(rows):,} cells have no observed entry. Their counts are generated from the "
                "conditions alone. Check observed_mask if this is not meant.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
        stacked = [_writing.stack_rows(blocks) for blocks in outputs]
        if not np.array_equal(rows, in_order):
            stacked = [values[np.searchsorted(in_order, rows)] for values in stacked]
        return stacked, rows, mask_kind

    def _prepare(self, adata: AnnData | MuData | None) -> tuple[AnnData | MuData, list[CountMatrix]]:
        if not self.is_trained_:
            msg = "The model is not trained. Only a trained model can impute. Call model.train() first."
            raise RuntimeError(msg)
        data = self._validate_anndata(adata)
        return data, self._count_matrices(data)

    def _resolve_mask(self, data, matrices: list[CountMatrix], observed_mask) -> tuple[object, str]:
        """The observed mask given now, or None, and how missing entries are told from observed ones."""
        marked = [_registration.check_matrix(matrix) for matrix in matrices]
        if observed_mask is None:
            if any(matrix.mask_layer is not None for matrix in matrices):
                return None, "registered layer"
            return None, "nan" if any(marked) else "zeros"
        mask = _registration.stack_masks(matrices, observed_mask)
        if data is self.adata and not any(marked):
            warnings.warn(
                "observed_mask hides entries of the training data that were not hidden in training: the model has "
                "learned from what stands there. Register the mask with setup_anndata(adata, observed_mask_layer=...) "
                "and train again, unless that is meant.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
        return mask, "argument"

    def _count_matrices(self, data: AnnData | MuData) -> list[CountMatrix]:
        return _registration.count_matrices(data, self.registry["setup_args"])

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True):
        """As upstream, after checking what upstream accepts in silence."""
        if adata is not None and adata is not self.adata:
            _validation.check_type(adata)
            _registration.check_query(adata, self.registry)
            _registration.add_unknown_labels(adata, self.registry)
        return super()._validate_anndata(adata, copy_if_view=copy_if_view)


def _default_max_epochs(n_train: int, batch_size: int) -> int:
    """Epochs for about 1,000 optimiser steps, but at least 5."""
    return max(5, math.ceil(1000 * batch_size / max(n_train, batch_size)))


def _resolve_seed(seed: int | None) -> int:
    if seed is None:
        seed = settings.seed
    return int(np.random.SeedSequence().entropy % 2**31) if seed is None else int(seed)


def _mask_blocks(mask, rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), batch_size):
        yield dense(mask[rows[first : first + batch_size]])
