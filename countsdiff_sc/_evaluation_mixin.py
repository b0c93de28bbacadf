"""How well a model like this one would do on the data at hand."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from anndata import AnnData
from torch import nn

from countsdiff_sc import _validation, evaluation
from countsdiff_sc.evaluation._baselines import BASELINES


class EvaluationMixin:
    """``evaluate``."""

    def evaluate(
        self,
        adata: AnnData | None = None,
        *,
        mechanism: str = "mcar",
        fraction: float = 0.5,
        baselines: Sequence[str] = tuple(BASELINES),
        seed: int = 0,
        **train_kwargs,
    ) -> pd.DataFrame:
        """Hide entries of a copy of the data, train a model like this one without them, and score what it imputes.

        Parameters
        ----------
        adata
            The training data (default) or other data set up alike; not changed.
        mechanism
            How entries are chosen: ``"mcar"`` (completely at random), ``"mar"`` (shallow cells lose more), ``"mnar_low"``
            or ``"mnar_high"`` (low, or high, counts of a gene are lost more often).
        fraction
            Expected fraction of entries that is hidden.
        baselines
            What to compare with: ``"zeros"``, ``"gene mean x depth"``, ``"label mean x depth"`` (only with labels),
            ``"nearest neighbours"``, ``"low rank"``.
        seed
            Seed of the mask; that of the training is ``scvi.settings.seed``.
        **train_kwargs
            Arguments of :meth:`train` for the model that is trained.

        Returns
        -------
        One row per method, this model last, with ``poisson_deviance`` (nats per hidden entry) and ``rmse_log1p``;
        lower is better. See :func:`countsdiff_sc.evaluation.hold_out`.

        Raises
        ------
        TypeError
            For MuData, and if the denoiser was given as a module.
        ValueError
            If ``mechanism`` or a baseline is not known, or nothing is hidden.
        """
        adata = self.adata if adata is None else adata
        _validation.check_anndata(adata, method="evaluate")
        arguments = self._constructor_arguments()
        if isinstance(arguments["denoiser"], nn.Module):
            msg = (
                f"The denoiser is a {type(arguments['denoiser']).__name__} object, which has been trained on what would "
                "be hidden. evaluate trains a new model and needs a new denoiser. Use evaluation.hold_out with a "
                "function that makes one."
            )
            raise TypeError(msg)
        setup_args = self.registry["setup_args"]

        def fit(data: AnnData):
            type(self).setup_anndata(data, **setup_args)
            model = type(self)(data, **arguments)
            model.train(**train_kwargs)
            return model

        columns = {key: setup_args[key] for key in ("layer", "observed_mask_layer", "labels_key")}
        return evaluation.hold_out(
            adata, fit, **columns, mechanism=mechanism, fraction=fraction, baselines=baselines, seed=seed
        ).table

    def _constructor_arguments(self) -> dict:
        saved = self.init_params_
        arguments = {**saved["non_kwargs"], **{k: v for group in saved["kwargs"].values() for k, v in group.items()}}
        return {key: value for key, value in arguments.items() if key not in {"adata", "registry"}}
