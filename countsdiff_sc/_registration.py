"""Between an AnnData or MuData and the tensors a module sees: fields, count matrices, conditions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.data import AnnDataManager, fields
from torch import Tensor

from countsdiff_sc import _validation
from countsdiff_sc._constants import UNKNOWN_LABEL, observed_mask_key
from countsdiff_sc._counts import CountMatrix, dense, totals_by_group

#: What may be passed as an observed mask.
ObservedMask = np.ndarray | sparse.spmatrix | pd.DataFrame | str | Mapping[str, object]


class CategoricalCovariates(fields.CategoricalJointObsField):
    """Covariates of new data coded by name.

    To upstream they are coded already where they have the same categories, also where these are in another order.
    """

    def _make_array_categorical(self, adata: AnnData, category_dict: dict | None = None) -> dict:
        if category_dict is not None:
            adata.obsm[self.attr_key] = adata.obsm[self.attr_key].astype(object)
        return super()._make_array_categorical(adata, category_dict)


MuDataCategoricalCovariates = fields.MuDataWrapper(CategoricalCovariates)


@dataclass(frozen=True)
class ObsKeys:
    """Columns of ``obs`` that condition the model."""

    batch_key: str | None = None
    labels_key: str | None = None
    categorical_covariate_keys: Sequence[str] | None = None
    continuous_covariate_keys: Sequence[str] | None = None

    def check(self, data: AnnData | MuData) -> None:
        """Raise ``KeyError`` for columns that do not exist, ``ValueError`` for categories or values that are missing."""
        where, used_by = obs_name(data), {}
        for argument, keys in vars(self).items():
            if argument.endswith("_keys"):
                _validation.check_not_string(argument, keys)
            elif not isinstance(keys, (str, type(None))):
                msg = (
                    f"{argument}={keys!r} is a {type(keys).__name__}. It must be the name of one column. Pass a string."
                )
                raise TypeError(msg)
            keys = [keys] if isinstance(keys, str) else keys or []
            for key in keys:
                _validation.check_key(key, data.obs.columns, where=where, argument=argument)
                if key in used_by:
                    msg = (
                        f"{where}[{key!r}] is given twice, as {used_by[key]} and {argument}. A column can condition the model once. "
                        "Leave it out of one of them."
                    )
                    raise ValueError(msg)
                used_by[key] = argument
                values, column = data.obs[key], f"{where}[{key!r}]"
                if argument == "continuous_covariate_keys":
                    _validation.check_finite(values, column=column)
                else:
                    _validation.check_no_missing_category(values, column=column)
                    _validation.warn_of_unused_categories(values, column=column)
                if argument == "labels_key":
                    _validation.check_labels_are_names(values, column=column)
                    _validation.warn_of_other_unknown_labels(values, column=column)

    def fields(self, *, mudata: bool) -> list:
        """scvi-tools fields of the columns."""
        kind = "MuData" if mudata else ""
        categorical = getattr(fields, f"{kind}CategoricalObsField")
        result = [categorical(REGISTRY_KEYS.BATCH_KEY, self.batch_key)]
        if self.labels_key is None:
            result.append(categorical(REGISTRY_KEYS.LABELS_KEY, None))
        else:
            with_unknown = getattr(fields, f"{kind}LabelsWithUnlabeledObsField")
            result.append(with_unknown(REGISTRY_KEYS.LABELS_KEY, self.labels_key, UNKNOWN_LABEL))
        joint_categorical = MuDataCategoricalCovariates if mudata else CategoricalCovariates
        joint_numerical = getattr(fields, f"{kind}NumericalJointObsField")
        result.append(joint_categorical(REGISTRY_KEYS.CAT_COVS_KEY, self.categorical_covariate_keys))
        result.append(joint_numerical(REGISTRY_KEYS.CONT_COVS_KEY, self.continuous_covariate_keys))
        return result


def obs_name(data: AnnData | MuData) -> str:
    """What messages call the table of the cells."""
    return "mdata.obs" if isinstance(data, MuData) else "adata.obs"


def count_key(index: int) -> str:
    """Registry key of the ``index``-th count matrix: the first is scvi-tools' own ``X``."""
    return REGISTRY_KEYS.X_KEY if index == 0 else f"{REGISTRY_KEYS.X_KEY}_{index}"


def check_modalities(mdata: MuData, modalities: Sequence[str] | None) -> list[str]:
    """Names of the modalities to model, checked to exist and to hold the same cells in the same order."""
    if isinstance(modalities, str) or (modalities is not None and len(set(modalities)) < max(len(modalities), 1)):
        msg = (
            f"modalities={modalities!r} does not name modalities. It must be a list of distinct names, at least one, or "
            "None for all. Pass for example modalities=['rna', 'prot']."
        )
        raise ValueError(msg)
    names = list(mdata.mod) if modalities is None else list(modalities)
    for name in names:
        _validation.check_key(name, mdata.mod, where="mdata.mod", argument="modalities")
        _validation.check_same_cells(mdata.mod[name].obs_names, mdata.obs_names, modality=name)
    return names


def check_modality_mapping(value: object, modalities: Sequence[str], *, argument: str) -> None:
    """Check a mapping from modality to anything; other values are passed over.

    Raises
    ------
    TypeError
        For an AnnData, whose only modality is None.
    KeyError
        If a key is not one of ``modalities``.
    """
    if isinstance(value, Mapping):
        if list(modalities) == [None]:
            msg = (
                f"{argument} is a mapping from {list(value)}. An AnnData has no modalities to choose from. Pass what the mapping "
                "holds, or set up a MuData."
            )
            raise TypeError(msg)
        for name in value:
            _validation.check_key(name, modalities, where="the modelled modalities", argument=f"a key of {argument}")


def count_matrices(data: AnnData | MuData, setup_args: Mapping) -> list[CountMatrix]:
    """Where the counts of a set-up object live, in registration order.

    Parameters
    ----------
    data
        The AnnData or MuData.
    setup_args
        Arguments of ``setup_anndata`` or ``setup_mudata`` as scvi-tools' registry stores them.
    """
    layer, mask_layer = setup_args["layer"], setup_args["observed_mask_layer"]
    if isinstance(data, AnnData):
        return [CountMatrix(data, layer, mask_layer, count_key(0))]
    return [
        CountMatrix(data.mod[name], _of_modality(layer, name), _of_modality(mask_layer, name), count_key(i), name)
        for i, name in enumerate(setup_args["modalities"])
    ]


def count_keys(registry: Mapping) -> tuple[str, ...]:
    """Registry keys of all registered count matrices, in order."""
    found = set(registry["field_registries"])
    return tuple(count_key(index) for index in range(len(found)) if count_key(index) in found)


def matrix_fields(matrix: CountMatrix) -> list:
    """scvi-tools fields of a count matrix and its mask; the counts are checked by us, in full."""
    if matrix.modality is None:
        layer_field, extra = fields.LayerField, {}
    else:
        layer_field, extra = fields.MuDataLayerField, {"mod_key": matrix.modality, "mod_required": True}
    result = [layer_field(matrix.registry_key, matrix.layer, is_count_data=False, **extra)]
    if matrix.mask_layer is not None:
        mask_key = observed_mask_key(matrix.registry_key)
        result.append(layer_field(mask_key, matrix.mask_layer, is_count_data=False, **extra))
    return result


def check_matrix(matrix: CountMatrix) -> bool:
    """Check names, counts and mask of a count matrix; return whether it marks entries as missing."""
    adata, where = matrix.adata, matrix.holder
    _validation.check_not_empty(adata.n_obs, adata.n_vars, where=where)
    if matrix.layer is not None:
        _validation.check_key(matrix.layer, _validation.named_layers(adata), where=f"{where}.layers", argument="layer")
    elif adata.X is None:
        _validation.check_key(
            "X", _validation.named_layers(adata), where=f"{where}, whose X is empty", argument="layer"
        )
    _validation.check_mask_layer(matrix)
    has_nan = _validation.check_counts(matrix)
    return has_nan or matrix.mask_layer is not None


def registered_names(registry: Mapping, key: str) -> np.ndarray:
    """Gene names of a registered count matrix."""
    return np.asarray(registry["field_registries"][key]["state_registry"]["column_names"])


def check_query(data: AnnData | MuData, registry: Mapping) -> list[CountMatrix]:
    """Check that ``data`` can be given to a model trained on the object that ``registry`` describes."""
    setup_args = registry["setup_args"]
    if "modalities" in setup_args:
        _validation.check_mudata(data, method="A model of a MuData")
        check_modalities(data, setup_args["modalities"])
    else:
        _validation.check_anndata(data, method="A model of an AnnData")
    matrices = count_matrices(data, setup_args)
    for matrix in matrices:
        check_matrix(matrix)
        names = registered_names(registry, matrix.registry_key)
        _validation.check_var_names(matrix.adata.var_names, names, where=matrix.holder)
    fields_, where = registry["field_registries"], obs_name(data)
    for argument, registry_key in (("batch_key", REGISTRY_KEYS.BATCH_KEY), ("labels_key", REGISTRY_KEYS.LABELS_KEY)):
        key = setup_args[argument]
        if key is None or (argument == "labels_key" and key not in data.obs):
            continue  # labels are never needed: a cell without one is of unknown label
        _validation.check_key(key, data.obs.columns, where=where, argument=argument)
        known = fields_[registry_key]["state_registry"]["categorical_mapping"]
        _validation.check_categories(data.obs[key], known, column=f"{where}[{key!r}]")
    covariates = fields_[REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"].get("mappings", {})
    for key, known in covariates.items():
        _validation.check_key(key, data.obs.columns, where=where, argument="categorical_covariate_keys")
        _validation.check_categories(data.obs[key], known, column=f"{where}[{key!r}]")
    for key in setup_args["continuous_covariate_keys"] or ():
        _validation.check_key(key, data.obs.columns, where=where, argument="continuous_covariate_keys")
        _validation.check_finite(data.obs[key], column=f"{where}[{key!r}]")
    return matrices


def add_unknown_labels(data: AnnData | MuData, registry: Mapping) -> None:
    """Label every cell ``"unknown"`` where the model was trained with labels and ``data`` has none."""
    key = registry["setup_args"]["labels_key"]
    if key is not None and key not in data.obs:
        data.obs[key] = pd.Categorical([UNKNOWN_LABEL] * data.n_obs)


def warn_of_far_covariates(data: AnnData | MuData, registry: Mapping, location: Tensor, scale: Tensor) -> None:
    """Say that continuous covariates are far from the mean of the training data, ``location``, in terms of ``scale``."""
    keys = registry["setup_args"]["continuous_covariate_keys"] or ()
    for key, *moments in zip(keys, location.tolist(), scale.tolist(), strict=True):
        _validation.warn_of_far_covariates(data.obs[key], *moments, column=f"{obs_name(data)}[{key!r}]")


def warn_of_unknown_labels(data: AnnData | MuData, registry: Mapping) -> None:
    """Say that labels of the training data's column are left open, for a model that cannot do without."""
    key = registry["setup_args"]["labels_key"]
    if key is not None:
        _validation.warn_of_unknown_labels(data.obs[key], column=f"{obs_name(data)}[{key!r}]")


def warn_of_silent_genes(matrix: CountMatrix, data: AnnData | MuData, registry: Mapping) -> None:
    """Say that a batch has no molecule of genes that others have many of."""
    key = registry["setup_args"]["batch_key"]
    if key is not None:
        batches = data.obs[key].astype("category").cat
        totals = totals_by_group(matrix, batches.codes.to_numpy(), len(batches.categories))
        _validation.warn_of_silent_genes(matrix, *totals, batches.categories)


def warn_of_another_setup(setup_args: Mapping, latest: AnnDataManager | None) -> None:
    """Say that data were set up in another way since, of which a model that was made before knows nothing."""
    for argument in () if latest is None else ("layer", "observed_mask_layer"):
        now, then = latest.registry["setup_args"].get(argument), setup_args[argument]
        if now != then:
            msg = (
                f"The data were set up with {argument}={now!r}, and the model with {argument}={then!r}. A model keeps to the setup that it "
                "was made with. Make a new one, CountsDiffSC(adata), and train it."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)


def stack_masks(matrices: Sequence[CountMatrix], observed_mask: ObservedMask) -> np.ndarray | sparse.csr_matrix:
    """The user's observed mask of all count matrices side by side: boolean, cells x genes, dense or CSR.

    Parameters
    ----------
    matrices
        Registered count matrices.
    observed_mask
        An array, a sparse matrix, the name of a layer, or for MuData a mapping from modality to one of these; a
        modality that the mapping leaves out keeps its registered mask, if it has one.
    """
    check_modality_mapping(observed_mask, [matrix.modality for matrix in matrices], argument="observed_mask")
    masks = []
    for matrix in matrices:
        mask, argument = observed_mask, "observed_mask"
        if matrix.modality is not None and not isinstance(observed_mask, str):
            if not isinstance(observed_mask, Mapping):
                msg = (
                    f"observed_mask is a {type(observed_mask).__name__}. For MuData it must be the name of a layer or a "
                    "mapping from modality to mask. Pass observed_mask={'rna': mask}."
                )
                raise TypeError(msg)
            mask, argument = observed_mask.get(matrix.modality), f"observed_mask[{matrix.modality!r}]"
        if mask is None:
            mask = np.ones(matrix.adata.shape, dtype=bool) if matrix.mask_layer is None else matrix.observed_mask
        elif isinstance(mask, str):
            names = _validation.named_layers(matrix.adata)
            _validation.check_key(mask, names, where=f"{matrix.holder}.layers", argument=argument)
            mask = matrix.adata.layers[mask]
        masks.append(_validation.check_observed_mask(mask, matrix.adata, argument=argument))
    if len(masks) == 1:
        return masks[0]
    if all(sparse.issparse(mask) for mask in masks):
        return sparse.hstack(masks, format="csr")
    return np.hstack([dense(mask) for mask in masks])


@dataclass(frozen=True)
class ConditionSpec:
    """Which registered fields condition the module.

    Parameters
    ----------
    categorical_keys
        Registry key and column of each categorical condition.
    n_categories
        Number of categories of each.
    n_continuous
        Number of continuous covariates.
    names
        Column of ``obs`` of each condition, categorical ones first.
    """

    categorical_keys: tuple[tuple[str, int], ...]
    n_categories: tuple[int, ...]
    n_continuous: int
    names: tuple[str, ...]

    @classmethod
    def from_registry(cls, registry: Mapping) -> ConditionSpec:
        """Read it off scvi-tools' registry; a field with one category conditions nothing."""
        stats = AnnDataManager._get_summary_stats_from_registry(registry)
        # The last label is "unknown", which the module embeds as such.
        setup_args = registry["setup_args"]
        n_labels = stats.n_labels - (setup_args["labels_key"] is not None)
        keys, sizes, names = [], [], []
        for key, argument, n in (
            (REGISTRY_KEYS.BATCH_KEY, "batch_key", stats.n_batch),
            (REGISTRY_KEYS.LABELS_KEY, "labels_key", n_labels),
        ):
            if n > 1:
                keys.append((key, 0))
                sizes.append(int(n))
                names.append(setup_args[argument])
        covariates = registry["field_registries"][REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]
        for column, n in enumerate(covariates.get("n_cats_per_key", ())):
            keys.append((REGISTRY_KEYS.CAT_COVS_KEY, column))
            sizes.append(int(n))
        names += [*(setup_args["categorical_covariate_keys"] or ()), *(setup_args["continuous_covariate_keys"] or ())]
        return cls(tuple(keys), tuple(sizes), int(stats.get("n_extra_continuous_covs", 0)), tuple(names))


def _of_modality(value: str | Mapping[str, str | None] | None, name: str) -> str | None:
    return value.get(name) if isinstance(value, Mapping) else value
