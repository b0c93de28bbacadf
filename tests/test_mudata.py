"""Several modalities in one model."""

import numpy as np
import pytest
from helpers import train_tiny

from countsdiff_sc import CountsDiffSC


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
