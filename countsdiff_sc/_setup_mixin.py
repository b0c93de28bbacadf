"""How data are registered: the part of the model class before there is a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data._constants import _SCVI_UUID_KEY
from scvi.utils import setup_anndata_dsp

from countsdiff_sc import _registration, _validation
from countsdiff_sc._counts import CountMatrix


class SetupMixin:
    """``setup_anndata`` and ``setup_mudata``."""

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

        Examples
        --------
        >>> CountsDiffSC.setup_anndata(adata, layer="counts", labels_key="cell_type")  # doctest: +SKIP
        """
        _validation.check_anndata(adata, method="setup_anndata")
        _validation.check_not_view(adata, name="adata")
        setup_method_args = cls._get_setup_method_args(**locals())
        matrices = [CountMatrix(adata, layer, observed_mask_layer, _registration.count_key(0))]
        obs_keys = _registration.ObsKeys(batch_key, labels_key, categorical_covariate_keys, continuous_covariate_keys)
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
            As in :meth:`setup_anndata`; also if a modality has other cells than ``mdata``, or in another order.

        Examples
        --------
        >>> CountsDiffSC.setup_mudata(mdata, modalities=["rna", "prot"])  # doctest: +SKIP
        """
        _validation.check_mudata(mdata, method="setup_mudata")
        _validation.check_not_view(mdata, name="mdata")
        modalities = _registration.check_modalities(
            mdata, modalities
        )  # by name, so that later additions change nothing
        _registration.check_modality_mapping(layer, modalities, argument="layer")
        _registration.check_modality_mapping(observed_mask_layer, modalities, argument="observed_mask_layer")
        setup_method_args = cls._get_setup_method_args(**locals())
        matrices = _registration.count_matrices(mdata, setup_method_args["setup_args"])
        obs_keys = _registration.ObsKeys(batch_key, labels_key, categorical_covariate_keys, continuous_covariate_keys)
        cls._register(mdata, matrices, obs_keys, setup_method_args, kwargs)

    @classmethod
    def _register(cls, data, matrices, obs_keys, setup_method_args, kwargs) -> None:
        if (source := kwargs.get("source_registry")) is None:
            _validation.check_no_further(kwargs, known=list(setup_method_args["setup_args"]))
            for matrix in matrices:
                _registration.check_matrix(matrix)
        else:
            _registration.check_query(data, source)
            _registration.add_unknown_labels(data, source)
        obs_keys.check(data)
        holder = cls._setup_adata_manager_store.get(data.uns.get(_SCVI_UUID_KEY))
        if holder is not None and holder.adata is not data:
            del data.uns[_SCVI_UUID_KEY]  # of the object that this one is a copy of, which keeps its setup
        is_mudata = isinstance(data, MuData)
        fields = [field for matrix in matrices for field in _registration.matrix_fields(matrix)]
        manager = AnnDataManager(fields=fields + obs_keys.fields(mudata=is_mudata), setup_method_args=setup_method_args)
        manager.register_fields(data, **kwargs)
        cls.register_manager(manager)
