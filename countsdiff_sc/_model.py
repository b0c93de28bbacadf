"""The model class: registers data, trains, imputes. No mathematics here."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import rich.pretty  # noqa: F401  (scvi-tools 1.4 uses it without importing it)
import torch
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data._constants import _SCVI_UUID_KEY
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin

from countsdiff_sc import _registration, _validation
from countsdiff_sc._counts import CountMatrix, Reference, estimate_reference
from countsdiff_sc._evaluation_mixin import EvaluationMixin
from countsdiff_sc._generation_mixin import GenerationMixin
from countsdiff_sc._imputation_mixin import ImputationMixin
from countsdiff_sc._likelihood_mixin import LikelihoodMixin
from countsdiff_sc._module import CountsDiffModule
from countsdiff_sc._setup_mixin import SetupMixin
from countsdiff_sc._training_arguments import check_train_arguments, trainer_config
from countsdiff_sc._training_defaults import default_max_epochs
from countsdiff_sc._training_plan import CountsDiffTrainingPlan
from countsdiff_sc.process._losses import LossWeighting

logger = logging.getLogger(__name__)


class CountsDiffSC(
    SetupMixin,
    ImputationMixin,
    GenerationMixin,
    LikelihoodMixin,
    EvaluationMixin,
    UnsupervisedTrainingMixin,
    BaseModelClass,
):
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
    time_distribution
        Times seen in training: ``"uniform"`` on ``[0, 1]``; a number ``T`` for the discrete times ``1/T, 2/T, ..., 1``; or
        ``"importance"``, more often where ``"likelihood"`` weighs most. See :doc:`/design_space`.
    p_uncond
        Probability with which a condition of a cell is hidden in training; needed for ``guidance_scale`` other than 1.
    **module_kwargs
        Further arguments of the module and the denoiser, such as ``n_members`` (networks that are averaged in one pass, or
        of which a generated cell follows one; 3 by default, 1 trains three times as fast), ``n_tokens``, ``width``, ``ema_decay``.

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
    #: Whether the training data had missing entries.
    missing_in_training_ = False
    _has_only_queries = False

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict | None = None,
        *,
        denoiser: str | torch.nn.Module = "gene_set_transformer",
        schedule: str | Callable[[torch.Tensor], torch.Tensor] = "cosine",
        loss_weighting: str | LossWeighting = "uniform",
        time_distribution: str | int = "uniform",
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
            condition_names=conditions.names,
            denoiser=denoiser,
            schedule=schedule,
            loss_weighting=loss_weighting,
            time_distribution=time_distribution,
            p_uncond=p_uncond,
            **module_kwargs,
        )
        n_conditions = len(conditions.n_categories) + conditions.n_continuous
        self._model_summary_string = (
            f"CountsDiffSC with {self.n_genes} genes, {n_conditions} conditions, denoiser {denoiser}, schedule "
            f"{self.module.schedule}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def _set_up_if_needed(cls, data: AnnData | MuData) -> None:
        _validation.check_type(data)
        _validation.check_not_empty(data.n_obs, data.n_vars, where="The data")
        try:
            if cls._get_most_recent_anndata_manager(data) is not None:
                return
        except ValueError as error:  # it has the identifier of another object
            name = "mdata" if isinstance(data, MuData) else "adata"
            msg = (
                f"This {type(data).__name__} is a copy, or a part, of one that was set up. Every object is set up by itself. Call "
                f"CountsDiffSC.setup_{type(data).__name__.lower()}({name}, ...) for this one."
            )
            raise ValueError(msg) from error
        if isinstance(data, MuData):
            cls.setup_mudata(data)
            found = f"counts in X of the modalities {list(data.mod)}"
        else:
            cls.setup_anndata(data)
            found = "counts in adata.X, no labels, no batches, no mask"
        # A warning-level record reaches the user without any logging having been configured.
        logger.warning("The data was not set up; set up with the defaults: %s.", found)

    def save(self, dir_path: str, *args, **kwargs) -> None:
        """Save the model, as :meth:`scvi.model.base.BaseModelClass.save`, which says what the arguments are.

        Raises
        ------
        TypeError
            If the model was made of something that cannot be saved, such as a lambda. Nothing is written then, and an earlier
            model in the folder stays.

        Examples
        --------
        >>> model.save("model", overwrite=True)  # doctest: +SKIP
        >>> model = CountsDiffSC.load("model", adata)  # doctest: +SKIP
        """
        _validation.check_can_be_saved(self._constructor_arguments())
        super().save(dir_path, *args, **kwargs)

    def _constructor_arguments(self) -> dict:
        """What the model was made with, besides the data."""
        named, further = self.init_params_["non_kwargs"], self.init_params_["kwargs"].values()
        arguments = named | {name: value for group in further for name, value in group.items()}
        return {name: value for name, value in arguments.items() if name not in {"adata", "registry"}}

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
        early_stopping: bool = False,
        **kwargs,
    ) -> None:
        """Train the model.

        Afterwards ``model.history`` holds ``train_loss`` and ``validation_loss`` by epoch. Seed with
        ``scvi.settings.seed``. While other programs keep the cores of the processor busy it uses fewer of torch's threads, and says so.

        Parameters
        ----------
        max_epochs
            Passes over the training cells, which the networks share. By default the cells shown to each grow with the
            square root of the number of molecules, and as the fraction of entries that is observed falls; they are twice as many
            where ``one_pass_fraction`` is below 0.5.
        accelerator, devices
            Where to train, as in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ... Several devices need ``strategy="ddp"``.
        batch_size
            Cells in a minibatch of each network.
        train_size, validation_size
            Fractions of cells; by default 0.9 and the rest.
        early_stopping
            Whether to stop when the validation loss, computed on the same masks and times every ``n_members`` epochs, has not
            improved ``early_stopping_patience`` times, by default a third of the times there are and at least 10. In any case the
            last weights are kept whose validation loss is above the lowest by less than a standard error of the difference over
            cells, but for the tenth that gained most and the tenth that lost most.
        **kwargs
            Further arguments of scvi-tools' ``train``: ``plan_kwargs`` (a dictionary with ``lr``, ``weight_decay``, ``warmup_fraction`` or
            ``cuda_graph``), ``datasplitter_kwargs``, ``plan_config``, ``trainer_config``, and those of its trainer:
            ``early_stopping_monitor``, ``callbacks``, ``logger``, ``precision``, ...
            By default gradients are clipped to so low a norm, ``gradient_clip_val=0.03``, that practically every step reaches it: a
            minibatch with a few deep cells then steers no more than others.

        Raises
        ------
        ValueError
            If counts are not raw or none are observed, for an argument out of range, and for a ``precision`` that weights
            themselves are stored in, other than 32 and 64 bits.

        Examples
        --------
        >>> model.train()  # doctest: +SKIP
        >>> countsdiff_sc.pl.training_curve(model)  # doctest: +SKIP
        """
        _validation.check_type(self.adata)
        if max_epochs is not None:
            _validation.check_number("max_epochs", max_epochs, low=1, integer=True)
        _validation.check_number("batch_size", batch_size, low=1, integer=True)
        check_train_arguments(kwargs, devices)
        n_obs = self.adata_manager.adata.n_obs
        if train_size is None and validation_size is None and n_obs < 20:  # too few cells to hold any out
            train_size = 1.0
        n_train = math.ceil((train_size or 0.9) * n_obs)
        n_validation = n_obs - n_train if validation_size is None else math.floor(validation_size * n_obs)
        n_members = self.module.net.n_members
        early_stopping = early_stopping and n_validation > 0  # nothing to watch otherwise
        fitting_epochs = self._look_at_training_data(n_train)
        max_epochs = fitting_epochs if max_epochs is None else max_epochs
        self.module.train()  # inference left it in evaluation mode, and the trainer does not change modes
        if kwargs.get("callbacks"):
            kwargs["callbacks"] = list(kwargs["callbacks"])  # the trainer appends to it
        if torch.cuda.is_available():  # from pinned memory Lightning copies without waiting
            kwargs["datasplitter_kwargs"] = {"pin_memory": True, **(kwargs.get("datasplitter_kwargs") or {})}
        # Every network has then seen as many cells between two validations as there are.
        validate_every = min(n_members, max_epochs) if n_validation > 0 else 0
        # What is given in any other way takes precedence over these.
        kwargs["trainer_config"] = trainer_config(
            kwargs.get("trainer_config"), max_epochs=max_epochs, validate_every=validate_every
        )
        n_threads = torch.get_num_threads()
        try:
            super().train(
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                batch_size=batch_size * n_members,
                train_size=train_size,
                validation_size=validation_size,
                early_stopping=early_stopping,
                **kwargs,
            )
        finally:
            torch.set_num_threads(n_threads)  # of which training may have used fewer
            self.module.float()  # a precision such as "64-true" leaves weights that counts in single precision do not fit
        self._has_only_queries = False  # whatever the data were, they were trained on now
        _validation.warn_of_divergence(self.module.ema.parameters())

    def _look_at_training_data(self, n_train: int) -> int:
        """Check the training data, set what they fix before the first training; return how many epochs they take."""
        matrices = self._count_matrices(self.adata)
        # They may have been normalised since they were set up, so every one is checked again.
        self.missing_in_training_ = max(_registration.check_matrix(matrix) for matrix in matrices)
        references = [estimate_reference(matrix) for matrix in matrices]
        n_observed = sum(reference.n_observed for reference in references)
        n_molecules = sum(reference.n_molecules for reference in references)
        _validation.check_something_observed(n_observed, n_molecules)
        if not self.is_trained_:
            self._set_reference(references)
            for matrix, reference in zip(matrices, references, strict=True):
                _validation.warn_of_unobserved(matrix, reference.never_observed)
                n_zeros, n_ones = reference.n_zeros_and_ones
                _validation.warn_of_hidden_zeros(matrix.location, reference.n_observed, n_zeros, n_ones)
                is_binary = n_zeros + n_ones == reference.n_observed
                _validation.warn_of_scaled_counts(matrix.location, reference.cell_totals, is_binary=is_binary)
                _registration.warn_of_silent_genes(matrix, self.adata, self.registry)
        # Conditionals at all times take longer to learn than those at one.
        factor = 2 if self.module.is_for_generation else 1
        fraction = n_observed / (self.adata.n_obs * self.n_genes)
        return factor * self.module.net.n_members * default_max_epochs(n_molecules, n_train, fraction)

    def _set_reference(self, references: list[Reference]) -> None:
        covariates = np.empty((self.adata.n_obs, 0))
        if self.module.n_continuous:
            covariates = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.CONT_COVS_KEY), dtype=float)
        scale = covariates.std(axis=0)
        is_constant = scale <= 1e-6 * np.abs(covariates).max(axis=0, initial=0.0)  # up to rounding
        scale[is_constant] = 1.0
        self.module.set_reference(
            torch.as_tensor(np.concatenate([r.mean_profile for r in references])),
            torch.tensor([r.depth_concentration for r in references]),
            torch.as_tensor(covariates.mean(axis=0)),
            torch.as_tensor(scale),
        )

    def _count_matrices(self, data: AnnData | MuData) -> list[CountMatrix]:
        return _registration.count_matrices(data, self.registry["setup_args"])

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True):  # noqa: FBT001, FBT002  (scvi-tools' signature)
        """As upstream, after checking what upstream accepts in silence."""
        if self._training_data is None or (adata is not None and adata is not self.adata):
            adata = self.adata if adata is None else adata
            _validation.check_type(adata)
            _registration.check_query(adata, self.registry)
            _registration.add_unknown_labels(adata, self.registry)
            if not self.module.p_uncond:
                _registration.warn_of_unknown_labels(adata, self.registry)
            net = self.module.net
            _registration.warn_of_far_covariates(adata, self.registry, net.continuous_location, net.continuous_scale)
            self._forget_registration(adata)
        # Upstream has a model that was loaded without data keep the first that it is given.
        self._has_only_queries |= self.adata is None
        return super()._validate_anndata(adata, copy_if_view=copy_if_view)

    def _forget_registration(self, adata: AnnData | MuData) -> None:
        """Have data registered anew, since upstream would go on with the labels of the first time."""
        identifier = adata.uns.get(_SCVI_UUID_KEY)
        if self.adata is not None and adata is not self.adata and identifier == self.adata.uns.get(_SCVI_UUID_KEY):
            # A copy of the data that the model has, whose setup stays theirs.
            adata.uns.pop(_SCVI_UUID_KEY, None)
        else:
            self._per_instance_manager_store.get(self.id, {}).pop(identifier, None)

    @property
    def _training_data(self) -> AnnData | MuData | None:
        """The data that the model was set up with; None if it was loaded without."""
        return None if self._has_only_queries else self.adata
