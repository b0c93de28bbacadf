"""How well a model like this one would do on the data at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pandas as pd
from anndata import AnnData
from torch import nn

from countsdiff_sc import _validation, evaluation
from countsdiff_sc.evaluation._quiet import forgetful
from countsdiff_sc.evaluation._registry import FAST_BASELINES

#: Name of the row of a model that is not given the labels.
NO_LABELS_NAME = "CountsDiffSC, no labels"


class EvaluationMixin:
    """``evaluate``."""

    def evaluate(
        self,
        adata: AnnData | None = None,
        *,
        mechanism: str = "mcar",
        fraction: float = 0.5,
        baselines: Sequence[str] = FAST_BASELINES,
        n_samples: int = 10,
        seed: int | Sequence[int] = 0,
        **train_kwargs,
    ) -> pd.DataFrame:
        """Hide entries of a copy of the data, train a model like this one without them, and score what it imputes.

        With labels, a model that is not given them is trained too, since only some baselines are.

        Parameters
        ----------
        adata
            The training data (default) or other data set up alike; not changed.
        mechanism
            How entries are chosen: ``"mcar"`` (completely at random), ``"mar"`` (shallow cells lose more), ``"mnar_low"``
            or ``"mnar_high"`` (low, or high, counts of a gene are lost more often).
        fraction
            Expected fraction of the known entries that is hidden; with ``"mar"`` of those of nine tenths of the genes.
        baselines
            What to compare with: by default ``"zeros"``, ``"gene mean x depth"``, ``"label mean x depth"`` (only with
            labels), ``"nearest neighbours"`` and ``"low rank"``, which take seconds. Also ``"scVI"`` and ``"masked
            diffusion"``, which are trained, and, where installed, ``"MAGIC"`` and ``"halra"``.
        n_samples
            Draws by which the predicted distribution is judged; 0 for none.
        seed
            Seed of the mask and of the draws, or several: one row of each method for each. The seed of the training is
            ``scvi.settings.seed``.
        **train_kwargs
            Arguments of :meth:`train` for the model that is trained.

        Returns
        -------
        One row per seed and method, with columns ``mechanism``, ``fraction``, ``seed``, ``method``, the scores of the means
        (:func:`countsdiff_sc.evaluation.compare`; of ``poisson_deviance`` and ``rmse_log1p`` lower is better) and, for this
        model, of the draws (:func:`countsdiff_sc.evaluation.compare_draws`). :func:`countsdiff_sc.pl.evaluation` draws it.

        Raises
        ------
        ImportError
            If a baseline needs a package that is not installed.
        KeyError
            If ``adata`` lacks the labels.
        TypeError
            For MuData and models of one, and if the denoiser was given as a module.
        ValueError
            If ``mechanism`` or a baseline is not known, nothing is hidden, or there is no seed.

        Examples
        --------
        >>> import countsdiff_sc
        >>> model = countsdiff_sc.CountsDiffSC(countsdiff_sc.datasets.pbmc68k_counts())
        >>> table = model.evaluate(fraction=0.1, seed=range(3))  # doctest: +SKIP
        >>> countsdiff_sc.pl.evaluation(table)  # doctest: +SKIP
        """
        adata = self.adata if adata is None else adata
        fit, columns = self._refit(adata, method="evaluate", train_kwargs=train_kwargs)
        seeds = list(seed) if isinstance(seed, Iterable) and not isinstance(seed, str) else [seed]
        if not seeds:
            msg = "seed is empty. There must be at least one. Pass an integer, or several."
            raise ValueError(msg)
        for each in seeds:
            _validation.check_number("seed", each, low=0, integer=True)
        mask = {"mechanism": mechanism, "fraction": fraction}
        tables = []
        for each in seeds:
            shared = {**columns, **mask, "n_samples": n_samples, "seed": each}
            with forgetful(type(self)):
                found = [evaluation.hold_out(adata, fit, baselines=baselines, **shared)]
                if columns["labels_key"] is not None:
                    unlabelled = partial(fit, labels_key=None)
                    found.append(evaluation.hold_out(adata, unlabelled, baselines=(), name=NO_LABELS_NAME, **shared))
            table = pd.concat([holdout.table for holdout in found]).reset_index()
            tables.append(pd.concat([pd.DataFrame({**mask, "seed": each}, index=table.index), table], axis=1))
        return pd.concat(tables, ignore_index=True)

    def _refit(
        self, adata: AnnData, *, method: str, train_kwargs: dict
    ) -> tuple[Callable[..., EvaluationMixin], dict[str, str | None]]:
        """How a model like this one is trained on other data, and where those have their counts, mask and labels."""
        if "modalities" in self.registry["setup_args"]:
            msg = (
                f"The model is one of a MuData. {method} trains models of an AnnData only. Train one on a modality, for example "
                "CountsDiffSC(mdata['rna'].copy()), or mark entries as missing before training, and score what is imputed there with "
                "countsdiff_sc.evaluation.compare."
            )
            raise TypeError(msg)
        _validation.check_anndata(adata, method=method)
        arguments = self._constructor_arguments()
        if isinstance(arguments["denoiser"], nn.Module):
            msg = (
                f"The denoiser is a {type(arguments['denoiser']).__name__} object, which has been trained on what would "
                f"be hidden. {method} trains a new model and needs a new denoiser. Name one, such as "
                "denoiser='gene_set_transformer', or use evaluation.hold_out with a function that makes one."
            )
            raise TypeError(msg)
        setup_args = self.registry["setup_args"]

        def fit(data: AnnData, **changed) -> EvaluationMixin:
            type(self).setup_anndata(data, **{**setup_args, **changed})
            model = type(self)(data, **arguments)
            model.train(**train_kwargs)
            return model

        return fit, {key: setup_args[key] for key in ("layer", "observed_mask_layer", "labels_key")}
