"""Traps of scvi-tools and its friends that a model can fall into, one test each."""

import gc
import subprocess
import sys
import weakref

import anndata as ad
import numpy as np
import pytest
import torch
from anndata.io import sparse_dataset, write_elem
from helpers import QUIET, TINY, make_adata, train_tiny
from scipy import sparse

from countsdiff_sc import CountsDiffSC


def test_backed_data_come_back_in_the_order_asked_for(masked_model, masked, tmp_path):
    """scvi-tools sorts the indices of backed data without telling."""
    masked.write_h5ad(tmp_path / "data.h5ad")
    backed = ad.read_h5ad(tmp_path / "data.h5ad", backed="r")
    rows = [7, 3, 5]
    np.testing.assert_allclose(
        masked_model.get_imputed_counts(backed, indices=rows),
        masked_model.get_imputed_counts(masked, indices=rows),
        rtol=1e-6,
    )


def test_backed_and_in_memory_draws_are_the_same(masked_model, masked, tmp_path):
    masked.write_h5ad(tmp_path / "data.h5ad")
    backed = ad.read_h5ad(tmp_path / "data.h5ad", backed="r")
    draws = [masked_model.get_imputed_counts(data, estimate="sample", seed=2) for data in (backed, masked)]
    assert (draws[0] != draws[1]).nnz == 0


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_counts_in_a_zarr_store_are_read_where_they_are(masked_model, masked, tmp_path):
    """An AnnData over a zarr store is not "backed", so scvi-tools does not sort its indices."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "data.zarr", mode="w")
    write_elem(group, "X", masked.X)
    stored = ad.AnnData(sparse_dataset(group["X"]), obs=masked.obs, var=masked.var)
    stored.layers["observed"] = masked.layers["observed"]
    draws = [masked_model.get_imputed_counts(data, estimate="sample", seed=2) for data in (stored, masked)]
    assert (draws[0] != draws[1]).nnz == 0
    rows = [7, 3, 5]
    np.testing.assert_allclose(
        masked_model.get_imputed_counts(stored, indices=rows), masked_model.get_imputed_counts(indices=rows), rtol=1e-6
    )


def test_backed_data_train(tmp_path):
    make_adata().write_h5ad(tmp_path / "data.h5ad")
    model = train_tiny(ad.read_h5ad(tmp_path / "data.h5ad", backed="r"), max_epochs=1)
    assert model.is_trained


def test_thinning_is_never_given_what_it_would_truncate():
    """torch.binomial turns 2.5 into at most 2 and -2 into 0 without a word, so such counts must not get there."""
    assert torch.binomial(torch.tensor([-2.0]), torch.tensor([0.5])) == 0
    adata = make_adata()
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="not counts"):
        CountsDiffSC(adata, **TINY)


def test_loading_with_saved_data_leaves_the_live_data_usable(masked_model, masked, tmp_path):
    """Loading a model with its AnnData re-registers the same identifier; setup restores the live one."""
    masked_model.save(tmp_path / "model", save_anndata=True)
    CountsDiffSC.load(tmp_path / "model")
    CountsDiffSC.setup_anndata(masked, observed_mask_layer="observed", labels_key="cell_type")
    assert train_tiny(masked, max_epochs=1).is_trained


def test_a_copy_of_the_training_data_is_imputed(masked_model, masked):
    copy = masked.copy()
    masked_model.impute(copy)
    np.testing.assert_array_equal(copy.layers["imputed"], masked_model.get_imputed_counts())
    assert "imputed" not in masked.layers


def test_imputing_a_copy_leaves_the_setup_of_the_training_data(masked_model, masked):
    identifier, copy = masked.uns["_scvi_uuid"], masked.copy()
    masked_model.impute(copy)
    masked_model.impute()
    assert masked.uns["_scvi_uuid"] == identifier != copy.uns["_scvi_uuid"]
    assert CountsDiffSC(masked, **TINY).registry["setup_args"]["labels_key"] == "cell_type"


def test_a_copy_is_set_up_by_itself(masked):
    copy = masked.copy()
    CountsDiffSC.setup_anndata(copy)
    assert CountsDiffSC(masked, **TINY).registry["setup_args"]["labels_key"] == "cell_type"
    assert CountsDiffSC(copy, **TINY).registry["setup_args"]["labels_key"] is None


def test_a_model_says_that_its_data_were_set_up_with_another_mask(adata, observed_mask):
    model = train_tiny(adata, 1)
    adata.layers["observed"] = observed_mask
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    with pytest.warns(UserWarning, match="observed_mask_layer='observed', and the model with observed_mask_layer=None"):
        model.impute()


def test_saved_weights_are_the_moving_average(masked_model, masked, tmp_path):
    """Lightning's own averaging saves the raw weights; ours lives in the module."""
    masked_model.save(tmp_path / "model")
    state = torch.load(tmp_path / "model" / "model.pt", weights_only=False)["model_state_dict"]
    averaged = masked_model.module.ema.state_dict()
    assert all(torch.equal(state[f"ema.{key}"], value) for key, value in averaged.items())


def test_deregistering_frees_the_data():
    adata = make_adata()
    model = train_tiny(adata, max_epochs=1)
    new = make_adata(n_obs=9, seed=1)
    model.impute(new)
    model.deregister_manager()
    alive = weakref.ref(new)
    del new
    gc.collect()
    assert alive() is None


def test_import_changes_no_global_setting():
    code = (
        "import scvi, torch, warnings, logging; before = (scvi.settings.seed, torch.get_float32_matmul_precision(), "
        "torch.get_num_threads(), logging.getLogger().level); import countsdiff_sc; after = (scvi.settings.seed, "
        "torch.get_float32_matmul_precision(), torch.get_num_threads(), logging.getLogger().level); print(before == after)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip().endswith("True")


def test_training_leaves_cudnn_autotuning_off(masked):
    """scvi-tools' trainer switches it on after the seed had switched it off."""
    torch.backends.cudnn.benchmark = False
    train_tiny(masked, max_epochs=1)
    assert not torch.backends.cudnn.benchmark


def test_a_view_is_imputed_and_its_parent_left_alone(masked_model, masked):
    view = masked[:10]
    masked_model.impute(view)
    assert view.layers["imputed"].shape == (10, 20)
    assert "imputed" not in masked.layers


def test_view_anndata_setup_works(masked_model, capsys):
    """rich 15 does not import what scvi-tools 1.4 takes from it."""
    masked_model.view_anndata_setup()
    assert "cell_type" in capsys.readouterr().out


def test_repr_does_not_raise(masked_model, capsys):
    repr(masked_model)
    assert "CountsDiffSC" in capsys.readouterr().out


def test_loading_permuted_genes_is_refused(masked_model, masked, tmp_path):
    """scvi-tools only warns."""
    masked_model.save(tmp_path / "model")
    permuted = masked[:, ::-1].copy()
    with pytest.raises(ValueError, match="in another order"), pytest.warns(UserWarning, match="var_names"):
        CountsDiffSC.load(tmp_path / "model", adata=permuted)


@pytest.mark.filterwarnings("ignore:Training will be faster when sparse")
def test_csc_and_dense_counts_give_the_same_result(masked_model, masked):
    expected = masked_model.get_imputed_counts()
    for kind in (sparse.csc_matrix, lambda matrix: matrix.toarray()):
        other = masked.copy()
        other.X = kind(masked.X)
        np.testing.assert_allclose(masked_model.get_imputed_counts(other), expected, rtol=1e-5)


def test_plan_and_trainer_configs_are_forwarded(masked):
    """They take precedence over defaults, and what is given directly over them."""
    model, trainer = CountsDiffSC(masked, **TINY), {"gradient_clip_val": 5.0, "check_val_every_n_epoch": 1}
    plan = {"lr": 1e-4, "weight_decay": 0.0}
    model.train(1, "cpu", plan_config=plan, trainer_config=trainer, **QUIET)
    assert (model.trainer.lightning_module.lr, model.trainer.lightning_module.weight_decay) == (1e-4, 0.0)
    assert (model.trainer.gradient_clip_val, model.trainer.check_val_every_n_epoch) == (5.0, 1)
    model.train(1, "cpu", plan_config=plan, plan_kwargs={"lr": 1e-5}, gradient_clip_val=1.0, **QUIET)
    assert (model.trainer.lightning_module.lr, model.trainer.lightning_module.weight_decay) == (1e-5, 0.0)
    assert model.trainer.gradient_clip_val == 1.0


def test_external_indexing(masked):
    model = CountsDiffSC(masked, **TINY)
    split = [np.arange(40), np.arange(40, 60), np.array([], dtype=int)]
    model.train(max_epochs=1, accelerator="cpu", datasplitter_kwargs={"external_indexing": split}, **QUIET)
    assert list(model.validation_indices) == list(range(40, 60))


def test_hub_metadata_finds_the_model(masked_model, tmp_path):
    pytest.importorskip("huggingface_hub")
    from scvi.hub import HubMetadata

    masked_model.save(tmp_path / "model", save_anndata=True)
    metadata = HubMetadata.from_dir(
        str(tmp_path / "model"), anndata_version="0.12", model_parent_module="countsdiff_sc"
    )
    assert metadata.model_cls_name == "CountsDiffSC"
    import countsdiff_sc

    assert getattr(countsdiff_sc, metadata.model_cls_name) is CountsDiffSC
