"""Several modalities in one model."""

import numpy as np
import pytest
from anndata import AnnData
from helpers import TINY, make_mudata, train_tiny

from countsdiff_sc import CountsDiffSC, evaluation
from countsdiff_sc._counts import CountMatrix, estimate_reference


def test_layers_are_written_per_modality(mdata):
    mask = np.ones((60, 5), dtype=bool)
    mask[:30] = False  # proteins not measured in half of the cells
    mdata.mod["prot"].layers["observed"] = mask
    CountsDiffSC.setup_mudata(mdata, labels_key="cell_type", observed_mask_layer={"prot": "observed"})
    model = train_tiny(mdata)
    assert model.n_genes == 17
    model.impute(estimate="sample", seed=0)
    protein = mdata.mod["prot"]
    imputed = protein.layers["imputed"].toarray()
    np.testing.assert_array_equal(imputed[30:], protein.X.toarray()[30:])
    assert (imputed[:30] > 0).any()
    np.testing.assert_array_equal(mdata.mod["rna"].layers["imputed"].toarray(), mdata.mod["rna"].X.toarray())
    assert protein.uns["countsdiff_sc"]["imputed"]["observed_mask"] == "registered layer"


def test_each_modality_has_its_own_depth(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = train_tiny(mdata, max_epochs=1)
    assert model.module.net.depth_concentration.shape == (2,)


def test_modalities_can_be_chosen(mdata):
    CountsDiffSC.setup_mudata(mdata, modalities=["prot"])
    model = train_tiny(mdata, max_epochs=1)
    assert list(model.var_names) == list(mdata.mod["prot"].var_names)


def test_a_modality_left_out_of_a_mapping_keeps_its_registered_mask(mdata):
    mdata["prot"].layers["seen"] = np.random.default_rng(1).random(mdata["prot"].shape) < 0.5
    CountsDiffSC.setup_mudata(mdata, observed_mask_layer={"prot": "seen"})
    model = train_tiny(mdata, max_epochs=1)
    mask = np.random.default_rng(0).random(mdata["rna"].shape) < 0.5
    with pytest.warns(UserWarning, match="not hidden in training"):
        model.impute(observed_mask={"rna": mask})
    assert mdata["prot"].uns["countsdiff_sc"]["imputed"]["n_imputed"] == (~mdata["prot"].layers["seen"]).sum()


def test_imputed_entries_are_counted_by_modality(mdata):
    mdata["prot"].X = mdata["prot"].X.toarray() if hasattr(mdata["prot"].X, "toarray") else mdata["prot"].X
    mdata["prot"].X[:9, 0] = np.nan
    mdata["rna"].layers["seen"] = np.random.default_rng(0).random(mdata["rna"].shape) < 0.5
    CountsDiffSC.setup_mudata(mdata, observed_mask_layer={"rna": "seen"})
    train_tiny(mdata, max_epochs=1).impute()
    found = [mdata[name].uns["countsdiff_sc"]["imputed"]["n_imputed"] for name in ("rna", "prot")]
    assert found == [(~mdata["rna"].layers["seen"]).sum(), 9]


def test_mask_argument_by_modality(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = train_tiny(mdata, max_epochs=1)
    mask = np.random.default_rng(0).random((60, 12)) < 0.5
    with pytest.warns(UserWarning, match="not hidden in training"):
        result = model.get_imputed_counts(observed_mask={"rna": mask})
    np.testing.assert_array_equal(result[:, :12][mask], mdata.mod["rna"].X.toarray()[mask])
    np.testing.assert_array_equal(result[:, 12:], mdata.mod["prot"].X.toarray())


def test_construction_without_setup(mdata):
    model = train_tiny(mdata, max_epochs=1)
    assert model.n_genes == 17


def test_save_and_load(mdata, tmp_path):
    CountsDiffSC.setup_mudata(mdata, labels_key="cell_type")
    model = train_tiny(mdata)
    model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=mdata)
    np.testing.assert_array_equal(loaded.get_imputed_counts(seed=0), model.get_imputed_counts(seed=0))


def test_cells_in_another_order_are_refused(mdata):
    """They would be paired by position: one cell's RNA with another's protein."""
    shuffled = make_mudata({"rna": mdata.mod["rna"], "prot": mdata.mod["prot"][::-1].copy()})
    with pytest.raises(ValueError, match="paired by position"):
        CountsDiffSC.setup_mudata(shuffled)


@pytest.mark.parametrize("argument", ["layer", "observed_mask_layer"])
def test_unknown_modalities_in_a_mapping(mdata, argument):
    with pytest.raises(KeyError, match="'protein' is not in the modelled modalities"):
        CountsDiffSC.setup_mudata(mdata, **{argument: {"protein": "x"}})


def test_unknown_modality_of_a_mask(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = train_tiny(mdata, max_epochs=1)
    with pytest.raises(KeyError, match="'protein' is not in the modelled modalities"):
        model.impute(observed_mask={"protein": np.ones((60, 5), dtype=bool)})


@pytest.mark.parametrize("modalities", ["rna", [], ["rna", "rna"]])
def test_modalities_are_a_list_of_distinct_names(mdata, modalities):
    with pytest.raises(ValueError, match="does not name modalities"):
        CountsDiffSC.setup_mudata(mdata, modalities=modalities)


def test_a_modality_added_later_changes_nothing(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = train_tiny(mdata, max_epochs=1)
    mdata.mod["atac"] = mdata.mod["rna"].copy()
    model.impute()
    assert "imputed" not in mdata.mod["atac"].layers
    assert "imputed" in mdata.mod["prot"].layers


def test_a_lacking_modality_is_named(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = train_tiny(mdata, max_epochs=1)
    rna = make_mudata({"rna": mdata.mod["rna"].copy()})
    with pytest.raises(KeyError, match="prot"):
        model.impute(rna)
    with pytest.raises(TypeError, match="takes a MuData"):
        model.impute(mdata.mod["rna"].copy())


def test_depth_is_estimated_from_the_cells_that_were_measured(mdata):
    protein = mdata.mod["prot"]
    everywhere = estimate_reference(CountMatrix(protein[:30].copy(), None, None, "X"))
    protein.layers["seen"] = np.arange(60)[:, None] < np.full((1, 5), 30)
    half = estimate_reference(CountMatrix(protein, None, "seen", "X"))
    np.testing.assert_allclose(half.mean_profile, everywhere.mean_profile, rtol=1e-5)
    assert half.depth_concentration == pytest.approx(everywhere.depth_concentration)


def test_depths_of_batches_whose_panels_hardly_overlap():
    """One batch has a tenth of the other's depth, and 10 of 100 genes in common with it."""
    rng = np.random.default_rng(0)
    profile, depth = rng.lognormal(1.0, 0.5, 100), np.repeat([0.2, 1.8], 200)[:, None]
    counts = rng.poisson(depth * profile).astype(np.float32)
    counts[:200, 55:], counts[200:, :45] = np.nan, np.nan
    found = estimate_reference(CountMatrix(AnnData(counts), None, None, "X"))
    np.testing.assert_allclose(found.mean_profile.sum(), profile.sum(), rtol=0.05)
    ratio = (found.mean_profile / profile)[:45].mean() / (found.mean_profile / profile)[55:].mean()
    assert ratio == pytest.approx(1.0, abs=0.1)  # 0.3 after three rounds
    assert found.depth_concentration == pytest.approx(1.0 / 0.64, rel=0.1)


def test_a_gene_that_is_hardly_measured():
    """Half a molecule at most of a gene without any, and the rate of one with a molecule in a shallow cell."""
    counts = np.full((50, 20), 4.0, dtype=np.float32)
    counts[0] = 0.4 * counts[0] // 0.4 / 4.0  # a quarter as deep
    counts[1:, :2], counts[0, :2] = np.nan, [1.0, 0.0]
    profile = estimate_reference(CountMatrix(AnnData(counts), None, None, "X")).mean_profile
    assert profile[0] == pytest.approx(profile[5], rel=0.05)
    assert profile[1] == pytest.approx(0.5, rel=0.05)


def test_each_modality_has_its_own_selection(mdata):
    """Estimated or stated, used and recorded modality by modality; one that a mapping leaves out is estimated."""
    CountsDiffSC.setup_mudata(mdata, modalities=["rna", "prot"])
    model = train_tiny(mdata)
    mask = {"rna": evaluation.mcar(mdata["rna"].X, 0.3, seed=0), "prot": evaluation.mcar(mdata["prot"].X, 0.3, seed=1)}
    with pytest.warns(UserWarning, match="observed_mask hides"):
        model.impute(mdata, observed_mask=mask, selection={"rna": 4})
    found = {name: mdata[name].uns["countsdiff_sc"]["imputed"]["selection"] for name in mdata.mod}
    assert found == {"rna": 4.0, "prot": 0.0}
    with pytest.warns(UserWarning, match="observed_mask hides"):
        model.impute(mdata, "at_random", observed_mask=mask, selection=0)
    assert not np.array_equal(mdata["rna"].layers["imputed"], mdata["rna"].layers["at_random"])


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        ({"atac": 1.0}, KeyError, "a key of selection='atac' is not in the modelled modalities"),
        ({"rna": 9}, ValueError, r"selection\['rna'\]=9 is out of range"),
    ],
)
def test_wrong_selections_of_modalities(mdata, selection, error, message):
    CountsDiffSC.setup_mudata(mdata, modalities=["rna", "prot"])
    model = train_tiny(mdata)
    with pytest.raises(error, match=message):
        model.impute(mdata, selection=selection)


def test_messages_name_the_table_of_the_mudata(mdata):
    other = mdata.copy()
    CountsDiffSC.setup_mudata(mdata, batch_key="cell_type")
    model = train_tiny(mdata, max_epochs=1)
    other.obs["cell_type"] = "new"
    with pytest.raises(ValueError, match=r"mdata.obs\['cell_type'\] holds 1 categories"):
        model.impute(other)
    del other.obs["cell_type"]
    with pytest.raises(KeyError, match="is not in mdata.obs"):
        model.impute(other)


def test_evaluation_is_of_an_anndata(mdata):
    CountsDiffSC.setup_mudata(mdata)
    model = CountsDiffSC(mdata, **TINY)
    for data in (None, mdata["rna"].copy()):
        with pytest.raises(TypeError, match="one of a MuData. evaluate trains models of an AnnData only"):
            model.evaluate(data)
    with pytest.raises(TypeError, match="hold_out was given a MuData"):
        evaluation.hold_out(mdata, None)
