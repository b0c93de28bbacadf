"""Bad input: a clear error with the value, the place and the fix, and nothing written."""

from contextlib import nullcontext

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import TINY, make_adata, train_tiny
from scipy import sparse

from countsdiff_sc import CountsDiffSC, _counts, datasets
from countsdiff_sc._validation import named_layers


def with_value(value, dense=False):
    adata = make_adata()
    counts = adata.X.toarray().astype(np.float64)
    counts[7, 3] = value
    adata.X = counts if dense else sparse.csr_matrix(counts)
    return adata


@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
@pytest.mark.parametrize("value", [-1.0, 0.37, np.inf, 2.0**25], ids=["negative", "fraction", "infinite", "huge"])
def test_non_counts_are_refused_with_place_and_remedy(value, dense):
    adata = with_value(value, dense)
    adata.layers["raw"] = make_adata().X
    message = rf"1 values that are not counts, in 1 of 60 cells \(first: {value:.10g}".replace("+", r"\+")
    with pytest.raises(ValueError, match=message) as error:
        CountsDiffSC.setup_anndata(adata)
    assert "'cell7', gene 'gene3'" in str(error.value)
    assert "layers: ['raw']" in str(error.value)
    assert not [key for key in adata.obs if key.startswith("_scvi")]
    assert "_scvi_uuid" not in adata.uns


def test_one_bad_value_in_the_last_block_of_cells_is_found(monkeypatch):
    monkeypatch.setattr(_counts, "BLOCK_ENTRIES", 20)  # ten cells of two genes
    counts = np.ones((35, 2), dtype=np.float32)
    counts[-1, 1] = 0.5
    with pytest.raises(ValueError, match="first: 0.5 in cell '34', gene '1'"):
        CountsDiffSC(ad.AnnData(counts), **TINY)


def test_setup_does_not_advance_numpys_global_generator(adata):
    np.random.seed(0)  # noqa: NPY002
    CountsDiffSC.setup_anndata(adata)
    after = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert after == np.random.random()  # noqa: NPY002


@pytest.mark.parametrize("where", ["X", "layer"])
def test_csr_array_is_refused(adata, where):
    array = sparse.csr_array(adata.X)
    if where == "X":
        adata.X = array
        with pytest.raises(TypeError, match=r"csr_array.*csr_matrix\(adata.X\)"):
            CountsDiffSC.setup_anndata(adata)
    else:
        adata.layers["counts"] = array
        with pytest.raises(TypeError, match="csr_array"):
            CountsDiffSC.setup_anndata(adata, layer="counts")


@pytest.mark.parametrize(
    ("argument", "value", "nearest"),
    [
        ("layer", "cuonts", "counts"),
        ("observed_mask_layer", "count", "counts"),
        ("labels_key", "celltype", "cell_type"),
        ("batch_key", "batches", "batch"),
        ("categorical_covariate_keys", ["donors"], "donor"),
        ("continuous_covariate_keys", ["pct_mito"], "percent_mito"),
    ],
)
def test_unknown_keys_name_the_nearest(adata, argument, value, nearest):
    adata.layers["counts"] = adata.X.copy()
    with pytest.raises(KeyError, match=nearest) as error:
        CountsDiffSC.setup_anndata(adata, **{argument: value})
    assert argument in str(error.value)


def test_missing_category_is_refused(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.set_categories(["B"])
    with pytest.raises(ValueError, match=r"missing for 30 of 60 cells.*fillna\('unknown'\)"):
        CountsDiffSC.setup_anndata(adata, labels_key="cell_type")


def test_non_finite_covariate_is_refused(adata):
    adata.obs.loc["cell3", "percent_mito"] = np.nan
    with pytest.raises(ValueError, match="not a finite number for 1 of 60 cells"):
        CountsDiffSC.setup_anndata(adata, continuous_covariate_keys=["percent_mito"])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)], ids=["no_cells", "no_genes"])
def test_empty_data(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} cells and {shape[1]} genes"):
        CountsDiffSC(ad.AnnData(np.zeros(shape, dtype=np.float32)))


def test_a_matrix_is_not_an_anndata():
    with pytest.raises(TypeError, match="takes an AnnData or a MuData"):
        CountsDiffSC(np.zeros((3, 3)))


def test_mask_of_numbers_is_refused(adata):
    adata.layers["mask"] = np.ones(adata.shape)
    with pytest.raises(TypeError, match="must be boolean"):
        CountsDiffSC.setup_anndata(adata, observed_mask_layer="mask")


def test_untrained_model_does_not_impute(adata):
    model = CountsDiffSC(adata, **TINY)
    with pytest.raises(RuntimeError, match=r"not trained.*train\(\)"):
        model.impute()
    assert not adata.layers


@pytest.mark.parametrize("argument", ["denoiser", "schedule", "loss_weighting", "time_distribution"])
def test_unknown_model_options(adata, argument):
    with pytest.raises(ValueError, match=f"{argument}='nonsense' is not known"):
        CountsDiffSC(adata, **{argument: "nonsense"})


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"observed_mask": np.ones((60, 3), dtype=bool)}, ValueError, r"shape \(60, 3\).*cells x genes = \(60, 20\)"),
        ({"observed_mask": np.ones((60, 20))}, TypeError, "must be boolean"),
        ({"observed_mask": "observe"}, KeyError, "observed"),
        ({"estimate": "mode"}, ValueError, "estimate='mode'"),
        ({"conditioning": "none"}, ValueError, "conditioning='none'"),
        ({"n_samples": 0}, ValueError, "n_samples=0"),
        ({"n_steps": 0}, ValueError, "n_steps=0"),
        ({"guidance_scale": -1.0}, ValueError, "guidance_scale=-1.0"),
        ({"attrition": 1.5, "estimate": "sample", "n_steps": 2}, ValueError, "attrition=1.5"),
        ({"indices": [0, 60]}, ValueError, r"distinct integers in \[0, 60\)"),
        ({"indices": [1, 1]}, ValueError, "distinct integers"),
        ({"indices": []}, ValueError, "at least one"),
        ({"layer": "observed"}, ValueError, "never overwrites its input"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_arguments_write_nothing(masked_model, masked, arguments, error, match):
    with pytest.raises(error, match=match):
        masked_model.impute(**arguments)
    assert set(named_layers(masked)) == {"observed"}
    assert "countsdiff_sc" not in masked.uns


@pytest.mark.parametrize("quantiles", [[0.0], [0.5, 1.0]])
def test_quantiles_out_of_range(masked_model, quantiles):
    with pytest.raises(ValueError, match="quantiles"):
        masked_model.get_imputed_counts(quantiles=quantiles)


def test_output_layer_must_not_be_the_input(adata):
    adata.layers["counts"] = adata.X.copy()
    CountsDiffSC.setup_anndata(adata, layer="counts")
    model = train_tiny(adata, max_epochs=1)
    with pytest.raises(ValueError, match="the layer the model reads"):
        model.impute(layer="counts")


GENES = [f"gene{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("genes", "match"),
    [
        (GENES[::-1], r"in another order \(first at 0: 'gene19' for 'gene0'\).*model.var_names"),
        (GENES[:-1], r"lacks 1 genes of the trained model \(gene19\)"),
        ([*GENES, "other"], r"has 1 it does not know \(other\)"),
        ([*GENES[:-1], "other"], r"lacks 1 genes.*has 1 it does not know"),
    ],
    ids=["permuted", "missing", "extra", "renamed"],
)
def test_genes_must_match_the_model(masked_model, genes, match):
    new = ad.AnnData(np.zeros((5, len(genes)), dtype=np.float32))
    new.var_names = genes
    new.layers["observed"] = np.ones(new.shape, dtype=bool)
    with pytest.raises(ValueError, match=match):
        masked_model.impute(new)
    assert set(named_layers(new)) == {"observed"}


def test_unseen_categories(adata):
    CountsDiffSC.setup_anndata(adata, batch_key="batch", labels_key="cell_type", categorical_covariate_keys=["donor"])
    model = train_tiny(adata, max_epochs=1)
    for key in ("batch", "cell_type", "donor"):
        new = make_adata(n_obs=10)
        new.obs[key] = "never seen"
        with pytest.raises(ValueError, match=rf"obs\['{key}'\] holds 1 categories.*'never seen'"):
            model.impute(new)
        assert not new.layers


def test_an_unseen_label_may_be_called_unknown(adata):
    CountsDiffSC.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    model = train_tiny(adata, max_epochs=1)
    new = make_adata(n_obs=10)
    new.obs["cell_type"] = "never seen"
    with pytest.raises(ValueError, match="Map them to known ones or to 'unknown'"):
        model.impute(new)
    new.obs["cell_type"], new.obs["batch"] = "unknown", "never seen"
    with pytest.raises(ValueError, match="Map them to known ones, or train"):
        model.impute(new)


@pytest.mark.parametrize("argument", ["observed_mask", "selection"])
def test_a_mapping_from_modalities_that_do_not_exist(masked_model, argument):
    with pytest.raises(TypeError, match=rf"{argument} is a mapping from \['rna'\]. An AnnData has no modalities"):
        masked_model.impute(**{argument: {"rna": 1.0}})


def test_genes_that_are_observed_nowhere(adata):
    """Two by the mask, and one by NaN in what is left."""
    adata.X = adata.X.toarray()
    adata.X[:, 4] = np.nan
    adata.layers["observed"] = np.ones(adata.shape, dtype=bool)
    adata.layers["observed"][:, [2, 7]] = False
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    names = ", ".join(adata.var_names[[2, 4, 7]])
    with pytest.warns(UserWarning, match=rf"adata.X has 3 genes that are observed in no cell \({names}\)"):
        model = train_tiny(adata, max_epochs=1)
    model.train(1)  # said once
    profile = model.module.net.mean_profile
    others = np.setdiff1d(np.arange(adata.n_vars), [2, 4, 7])
    np.testing.assert_allclose(profile[[2, 4, 7]], profile[others].mean(), rtol=1e-5)


def test_covariates_are_known_by_name_whatever_their_order(adata):
    """To pandas, categories in another order are the same, and upstream keeps the codes of new data then."""
    adata.obs["donor"] = pd.Categorical(adata.obs["donor"].astype(str))
    CountsDiffSC.setup_anndata(adata, categorical_covariate_keys=["donor"])
    model = train_tiny(adata)
    new = adata.copy()
    new.obs["donor"] = new.obs["donor"].cat.reorder_categories(new.obs["donor"].cat.categories[::-1])
    np.testing.assert_array_equal(model.get_imputed_counts(new, seed=0), model.get_imputed_counts(seed=0))
    np.testing.assert_array_equal(*(a.obsm["_scvi_extra_categorical_covs"].to_numpy() for a in (new, adata)))


def test_a_covariate_that_did_not_vary_says_little(adata):
    adata.obs["age"] = 5.1
    CountsDiffSC.setup_anndata(adata, continuous_covariate_keys=["age"])
    model = train_tiny(adata)
    new = adata.copy()
    new.obs["age"] = 5.6
    assert model.get_imputed_counts(new).max() < 10 * adata.X.max()


def test_laws_that_are_not_finite_are_refused(adata):
    adata.obs["age"] = np.arange(adata.n_obs) / adata.n_obs
    adata.layers["observed"] = np.random.default_rng(0).random(adata.shape) < 0.5
    CountsDiffSC.setup_anndata(adata, continuous_covariate_keys=["age"], observed_mask_layer="observed")
    model = train_tiny(adata)
    new = adata.copy()
    new.obs["age"] = 1e38
    for options in ({}, {"estimate": "sample"}, {"selection": 0.0}, {"estimate": "sample", "selection": 0.0}):
        with (
            pytest.warns(
                UserWarning, match=r"adata.obs\['age'\] is more than 10 standard deviations.*furthest: 1e\+38"
            ),
            pytest.raises(ValueError, match="not finite.*continuous covariates"),
        ):
            model.impute(new, **options)
    assert set(named_layers(new)) == {"observed"}


def test_counts_that_were_normalised_after_they_were_set_up(adata):
    CountsDiffSC.setup_anndata(adata)
    model = CountsDiffSC(adata)
    adata.X = adata.X / 2.0
    with pytest.raises(ValueError, match="not counts"):
        model.train(1)


def test_masked_arrays_are_refused(adata):
    adata.layers["counts"] = np.ma.masked_less(adata.X.toarray(), 0.0)
    with pytest.raises(TypeError, match="masked array"):
        CountsDiffSC.setup_anndata(adata, layer="counts")


def test_new_data_without_the_registered_mask_layer(masked_model):
    new = make_adata(n_obs=5)
    with pytest.raises(KeyError, match="observed_mask_layer='observed'"):
        masked_model.impute(new)


def test_mudata_mask_must_be_a_mapping(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = train_tiny(mdata, max_epochs=1)
    with pytest.raises(TypeError, match="mapping from modality to mask"):
        model.impute(observed_mask=np.ones((60, 17), dtype=bool))


def test_unknown_modality(mdata):
    with pytest.raises(KeyError, match="modalities='protein'.*prot"):
        CountsDiffSC.setup_mudata(mdata, modalities=["rna", "protein"])


def test_bad_counts_in_a_modality_are_located(mdata):
    mdata.mod["prot"].X = mdata.mod["prot"].X / 3
    with pytest.raises(ValueError, match=r"mdata.mod\['prot'\].X holds"):
        CountsDiffSC.setup_mudata(mdata)


def test_model_needs_data():
    with pytest.raises(ValueError, match="adata or registry"):
        CountsDiffSC()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"n_samples": 2.5}, "n_samples"),
        ({"n_samples": "3"}, "n_samples"),
        ({"n_samples": 0}, "n_samples"),
        ({"n_steps": 1.5}, "n_steps"),
        ({"guidance_scale": np.inf}, "guidance_scale"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"attrition": 2.0}, "attrition"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"quantiles": 0.5}, "quantiles"),
        ({"quantiles": ()}, "quantiles"),
        ({"quantiles": (0.0, 0.5)}, "quantiles"),
    ],
)
def test_arguments_out_of_range(masked_model, arguments, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name}="):
        masked_model.get_imputed_counts(**arguments)


def test_a_data_frame_mask_must_name_the_cells_and_genes_in_order(masked_model, masked, observed_mask):
    frame = pd.DataFrame(observed_mask, index=masked.obs_names, columns=masked.var_names)
    masked_model.get_imputed_counts(observed_mask=frame)
    with pytest.raises(ValueError, match="index and columns are not the cells and genes"):
        masked_model.get_imputed_counts(observed_mask=frame[::-1])


def test_labels_that_are_numbers(adata):
    adata.obs["cluster"] = pd.Categorical(np.arange(60) % 3)
    with pytest.raises(TypeError, match=r"labels that are not strings.*astype\(str\)"):
        CountsDiffSC.setup_anndata(adata, labels_key="cluster")


def test_a_string_where_a_list_is_meant(adata):
    with pytest.raises(TypeError, match="categorical_covariate_keys='donor' is a string"):
        CountsDiffSC.setup_anndata(adata, categorical_covariate_keys="donor")


def test_a_view_cannot_be_set_up(adata):
    with pytest.raises(ValueError, match=r"adata is a view.*adata = adata.copy\(\)"):
        CountsDiffSC.setup_anndata(adata[:, :10])


def test_setup_takes_its_own_kind(adata, mdata):
    with pytest.raises(TypeError, match="takes an AnnData"):
        CountsDiffSC.setup_anndata(mdata)
    with pytest.raises(TypeError, match="takes a MuData"):
        CountsDiffSC.setup_mudata(adata)


def test_genes_filtered_after_training(adata):
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata, max_epochs=1)
    adata._inplace_subset_var(np.arange(10))
    with pytest.raises(ValueError, match="lacks 10 genes"):
        model.impute()


def test_nothing_observed(adata):
    adata.layers["observed"] = np.zeros(adata.shape, dtype=bool)
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    with pytest.raises(ValueError, match="No entry of the data is observed"):
        train_tiny(adata, max_epochs=1)


def test_a_model_loaded_without_data_says_so(masked_model, tmp_path):
    masked_model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=False)
    with pytest.raises(TypeError, match="loaded without data"):
        loaded.impute()


@pytest.mark.parametrize("layer", [None, "", "imputed/mean"])
def test_names_of_layers(masked_model, layer):
    with pytest.raises(ValueError, match="cannot name a layer"):
        masked_model.impute(layer=layer)


def test_the_advice_for_missing_labels_works(adata):
    adata.obs["label"] = pd.Series(["a", None] * 30, index=adata.obs_names, dtype="category")
    with pytest.raises(ValueError, match="is missing for 30") as error:
        CountsDiffSC.setup_anndata(adata, labels_key="label")
    assert ".astype(object).fillna('unknown')" in str(error.value)
    adata.obs["label"] = adata.obs["label"].astype(object).fillna("unknown")
    CountsDiffSC.setup_anndata(adata, labels_key="label")


# --- masks that say something else than was meant ---


def test_zeros_that_are_missing_because_they_are_zeros(adata):
    adata.layers["observed"] = adata.X.toarray() > 0
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    with pytest.warns(
        UserWarning, match=r"^adata.X: all \d+ observed counts are above 0.*leave the mask, or the NaN, out"
    ):
        model = train_tiny(adata, max_epochs=1)
    new = make_adata(seed=1)
    new.layers["observed"] = new.X.toarray() > 0
    with pytest.warns(UserWarning, match="^observed_mask: all"):
        model.impute(new, observed_mask="observed", selection=0)


@pytest.mark.parametrize("values", ["proteins", "genes"])
def test_other_missing_entries_are_none_of_that(values):
    """Large counts without zeros, and counts with zeros, of which a third is missing at random."""
    counts = make_adata().X.toarray()
    adata = ad.AnnData(counts + 50 if values == "proteins" else counts)
    adata.layers["observed"] = np.random.default_rng(0).random(adata.shape) < 0.7
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    train_tiny(adata, max_epochs=1).impute()


def test_a_mask_the_wrong_way_round(adata):
    adata.layers["observed"] = adata.X.toarray() == 0
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    with pytest.raises(ValueError, match="observed counts are 0.* not the other way round"):
        train_tiny(adata, max_epochs=1)


# --- arguments ---


def test_the_nearest_argument_is_named(adata):
    with pytest.raises(TypeError, match="'label_key' is not an argument.*Was 'labels_key' meant"):
        CountsDiffSC.setup_anndata(adata, label_key="cell_type")
    assert "_scvi_uuid" not in adata.uns


def test_a_column_conditions_the_model_once(adata):
    with pytest.raises(
        ValueError, match=r"adata.obs\['donor'\] is given twice, as batch_key and categorical_covariate_keys"
    ):
        CountsDiffSC.setup_anndata(adata, batch_key="donor", categorical_covariate_keys=["donor"])


def test_categories_without_a_cell(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["Eosinophils"])
    with pytest.warns(UserWarning, match=r"1 categories without a cell \(Eosinophils\).*remove_unused_categories"):
        CountsDiffSC.setup_anndata(adata, labels_key="cell_type")


def test_minibatches_have_cells(masked):
    with pytest.raises(ValueError, match="batch_size=0 is out of range"):
        CountsDiffSC(masked, **TINY).train(1, batch_size=0)


def test_guidance_needs_conditions_that_were_left_out(adata):
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    model = train_tiny(adata, max_epochs=1, p_uncond=0)
    for guidance_scale in (2.0, {"cell_type": 0.0}):
        with pytest.raises(ValueError, match="p_uncond=0. Guidance compares"):
            model.get_imputed_counts(guidance_scale=guidance_scale)
    model.get_imputed_counts(guidance_scale={"cell_type": 1.0})


def test_training_that_diverges_says_so(masked):
    model = CountsDiffSC(masked, **TINY)
    with pytest.warns(UserWarning, match="Weights are not finite after training.*smaller learning rate"):
        model.train(20, accelerator="cpu", plan_kwargs={"lr": 1e12}, enable_progress_bar=False)


# --- data that are not those of the training ---


def test_labels_of_new_data_are_read_at_every_call(adata):
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    model = train_tiny(adata, max_epochs=20)
    new, mask = make_adata(seed=1), np.random.default_rng(0).random(adata.shape) < 0.5
    labels = new.obs.pop("cell_type")
    unlabelled = model.get_imputed_counts(new, observed_mask=mask)
    new.obs["cell_type"] = labels
    labelled = model.get_imputed_counts(new, observed_mask=mask)
    assert not np.array_equal(unlabelled, labelled)
    np.testing.assert_array_equal(labelled, model.get_imputed_counts(make_adata(seed=1), observed_mask=mask))


def test_a_model_loaded_without_data_does_not_take_new_ones_for_those_of_the_training(adata, tmp_path):
    adata.X = np.where(np.random.default_rng(0).random(adata.shape) < 0.3, np.nan, adata.X.toarray())
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    train_tiny(adata, max_epochs=1).save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=False)
    new, mask = make_adata(seed=1), np.random.default_rng(0).random(adata.shape) < 0.5
    for _ in range(2):
        loaded.impute(new, observed_mask=mask, seed=0)  # without a warning that it hides what was learned
        with pytest.warns(UserWarning, match="their zeros are imputed"):
            loaded.impute(new)
        with pytest.raises(RuntimeError, match="loaded without data"):
            loaded.sample(2)
    loaded.train(1, accelerator="cpu", enable_progress_bar=False)
    assert loaded.sample(2).n_obs == 2


@pytest.mark.parametrize("method", ["impute", "get_elbo", "evaluate", "train"])
def test_a_model_without_data_says_what_it_needs(masked_model, tmp_path, method):
    masked_model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=False)
    with pytest.raises(TypeError, match="loaded without data. It needs some to work on. Pass them as adata, or load"):
        getattr(loaded, method)()


def test_a_model_is_loaded_with_data_that_have_no_labels(adata, tmp_path):
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    train_tiny(adata, max_epochs=1).save(tmp_path / "model")
    new = make_adata(seed=1)
    del new.obs["cell_type"]
    CountsDiffSC.load(tmp_path / "model", new).impute()
    assert (new.obs["cell_type"] == "unknown").all()


def test_what_is_long_is_cut_off(masked_model, masked):
    with pytest.raises(ValueError, match="does not select cells") as caught:
        masked_model.impute(masked, indices=list(range(5000)))
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match=r"of shape \(60, 1\) is not a number of molecules") as caught:
        masked_model.sample(30, library_size=masked.X.sum(axis=1))
    assert len(str(caught.value)) < 400


def test_a_mask_that_is_masked_itself(masked_model, masked, observed_mask):
    masked.layers["observed"] = np.ma.masked_array(observed_mask, mask=~observed_mask)
    for call in (
        lambda: masked_model.impute(masked, observed_mask=masked.layers["observed"]),
        lambda: CountsDiffSC.setup_anndata(masked, observed_mask_layer="observed"),
    ):
        with pytest.raises(TypeError, match="is a masked array"):
            call()


def test_values_behind_a_mask_must_be_counts_too_and_the_message_says_which(adata, observed_mask):
    adata.layers["observed"] = observed_mask
    adata.X = np.where(observed_mask, adata.X.toarray(), -1.0)
    with pytest.raises(ValueError, match="NaN or any count where the mask is False"):
        CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")


@pytest.mark.parametrize("argument", ["labels_key", "batch_key"])
def test_a_list_where_one_column_is_meant(adata, argument):
    with pytest.raises(TypeError, match=rf"{argument}=\['cell_type'\] is a list"):
        CountsDiffSC.setup_anndata(adata, **{argument: ["cell_type"]})


def test_guidance_of_a_model_without_conditions_says_that_it_does_nothing(adata):
    CountsDiffSC.setup_anndata(adata)
    with pytest.warns(UserWarning, match="guidance_scale=3 has no effect"):
        train_tiny(adata, 1).get_imputed_counts(guidance_scale=3)


def test_a_layer_of_a_modality_that_does_not_exist(mdata):
    CountsDiffSC.setup_mudata(mdata)
    mdata.mod["rna"].layers["seen"] = np.ones(mdata.mod["rna"].shape, dtype=bool)
    with pytest.raises(KeyError, match=r"not in mdata.mod\['prot'\].layers"):
        train_tiny(mdata, 1).impute(observed_mask="seen")


def test_counts_of_half_precision_are_added_up_exactly():
    counts = np.full((40, 3), 2000.0, dtype=np.float16)  # 40 of them are beyond float16
    counts[:, 1] = 3.0
    reference = _counts.estimate_reference(_counts.CountMatrix(ad.AnnData(counts), None, None, "X"))
    np.testing.assert_allclose(reference.mean_profile, [2000.0, 3.0, 2000.0])
    assert reference.n_molecules == 40 * 4003


def rescaled(adata):
    counts = adata.X.toarray()
    adata.X = np.round(1e4 * counts / counts.sum(1, keepdims=True))


def binarised(adata):
    adata.X = (adata.X.toarray() > 0).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rescaled, "All cells of adata.X have about the same total"),
        (binarised, "No count of adata.X is above 1"),
    ],
)
def test_whole_numbers_that_look_like_no_counts_draw_a_warning(adata, change, message):
    change(adata)
    with pytest.warns(UserWarning, match=message):
        train_tiny(adata, 1)


@pytest.mark.parametrize(("n_silent", "n_nan"), [(7, 0), (7, 2), (5, 1), (4, 0)])
def test_genes_that_a_batch_lacks_altogether_draw_a_warning(n_silent, n_nan):
    """As after an outer join. Entries that are marked as missing are no sign, and neither are a few genes."""
    adata = make_adata(200)
    counts, in_b0 = adata.X.toarray() + 3.0, (adata.obs["batch"] == "b0").to_numpy()
    counts[np.ix_(in_b0, np.arange(n_silent))] = 0.0
    counts[np.ix_(in_b0, np.arange(n_nan))] = np.nan
    adata.X = counts
    CountsDiffSC.setup_anndata(adata, batch_key="batch")
    found = n_silent - n_nan
    warns = pytest.warns(UserWarning, match=rf"no molecule of {found} genes .*in batch 'b0'.*observed_mask_layer")
    with warns if found >= 5 else nullcontext():
        train_tiny(adata, 1)


@pytest.mark.parametrize("label", ["nan", "", "Unknown", "N/A"])
def test_labels_that_look_unknown_draw_a_warning(adata, label):
    adata.obs["cell_type"] = np.where(np.arange(60) < 5, label, "B")
    with pytest.warns(UserWarning, match=f"has the label '{label}'.*spelled 'unknown'"):
        CountsDiffSC.setup_anndata(adata, labels_key="cell_type")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maxepochs": 1}, "'maxepochs' is not an argument. Was 'max_epochs' meant"),
        ({"lr": 1e-3}, r"an argument of the training plan.*plan_kwargs=\{'lr'"),
        ({"plan_kwargs": {"learning_rate": 1.0}}, "'learning_rate' is not an argument. It must be one of"),
    ],
)
def test_arguments_that_training_does_not_take(adata, arguments, message):
    with pytest.raises(TypeError, match=message):
        CountsDiffSC(adata, **TINY).train(**arguments)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_are_of_32_bits_at_least(adata, precision):
    with pytest.raises(ValueError, match=f"precision='{precision}' stores weights .*Pass 'bf16-mixed'"):
        CountsDiffSC(adata, **TINY).train(1, "cpu", precision=precision)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_tokens": 0}, ValueError, "n_tokens=0 is out of range"),
        ({"width": "a"}, TypeError, "width='a' is a str"),
        ({"n_layers": -1}, ValueError, "n_layers=-1 is out of range"),
        ({"input_dropout": 1.0}, ValueError, "input_dropout=1.0 is out of range"),
    ],
)
def test_sizes_of_networks(adata, arguments, error, message):
    with pytest.raises(error, match=message):
        CountsDiffSC(adata, **arguments)


def test_conditions_are_shown_to_some_cells_at_least(masked):
    with pytest.raises(ValueError, match=r"p_uncond=1 hides \['cell_type'\]"):
        CountsDiffSC(masked, p_uncond=1.0, **TINY)


@pytest.mark.parametrize("act", ["impute", "sample", "get_elbo"])
def test_weights_that_are_not_finite_are_no_model(masked_model, act):
    with torch.no_grad():
        next(masked_model.module.ema.parameters()).fill_(torch.nan)
    with pytest.raises(RuntimeError, match="weights are not finite.*smaller learning rate"):
        getattr(masked_model, act)(**({"n_obs": 2} if act == "sample" else {}))


def test_a_layer_with_a_dot_in_its_name(adata):
    adata.layers["my.counts"], adata.layers["imputed"] = adata.X.copy(), adata.X.copy()
    CountsDiffSC.setup_anndata(adata, layer="my.counts")
    with pytest.raises(ValueError, match=r"exists in adata and.*del adata.layers\['imputed'\]"):
        train_tiny(adata, 1).impute()


@pytest.mark.parametrize("devices", [2, "2", [0, 1]])
def test_several_devices_need_a_strategy(adata, devices):
    with pytest.raises(ValueError, match="was given without a strategy.*strategy='ddp'"):
        CountsDiffSC(adata, **TINY).train(1, "cpu", devices=devices)


def test_counts_per_ten_thousand_of_real_cells_draw_a_warning():
    """Genes with as many molecules as another in the same cell are rounded alike, so that totals differ by more than by chance."""
    adata = datasets.pbmc68k_counts()
    rescaled(adata)
    with pytest.warns(UserWarning, match="All cells of adata.X have about the same total, 10,00"):
        train_tiny(adata, 1)
