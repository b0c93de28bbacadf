"""Construction, options, saving and loading."""

import logging

import numpy as np
import pytest
import scvi
import torch
from helpers import QUIET, TINY, make_adata, train_tiny

from countsdiff_sc import CountsDiffSC
from countsdiff_sc.nn import GeneSetTransformer
from countsdiff_sc.process import CosineSchedule


def test_construction_without_setup_says_so(adata, caplog):
    with caplog.at_level(logging.WARNING, logger="countsdiff_sc"):
        model = CountsDiffSC(adata, **TINY)
    assert "set up with the defaults: counts in adata.X" in caplog.text
    caplog.clear()
    assert model.summary_stats.n_vars == 20
    CountsDiffSC(adata, **TINY)
    assert not caplog.records


@pytest.mark.parametrize("part", [lambda adata: adata.copy(), lambda adata: adata[:30]])
def test_a_copy_of_what_was_set_up_is_set_up_by_itself(adata, part):
    CountsDiffSC.setup_anndata(adata)
    with pytest.raises(
        ValueError, match=r"This AnnData is a copy, or a part, .* Call CountsDiffSC\.setup_anndata\(adata,"
    ):
        CountsDiffSC(part(adata), **TINY)


def test_three_lines(adata):
    model = CountsDiffSC(adata, **TINY)
    model.train(max_epochs=1, accelerator="cpu", **QUIET)
    model.impute(adata, layer="imputed")
    assert adata.layers["imputed"].shape == adata.shape


@pytest.mark.parametrize(
    "option",
    [
        {"denoiser": "full_attention"},
        {"schedule": "blackout"},
        {"schedule": "jump"},
        {"schedule": lambda t: 1 - t},
        {"loss_weighting": "paper"},
        {"loss_weighting": "likelihood"},
        {"time_distribution": 50},
        {"time_distribution": "importance", "schedule": "blackout", "loss_weighting": "likelihood"},
        {"time_distribution": 1000, "schedule": "blackout", "loss_weighting": "paper"},
    ],
)
def test_every_option_trains_and_imputes(adata, option):
    scvi.settings.seed = 0
    size = {"width": 8, "n_layers": 1, "n_heads": 2} if "denoiser" in option else TINY
    model = CountsDiffSC(adata, **option, **size)
    model.train(max_epochs=1, accelerator="cpu", **QUIET)
    assert (model.get_imputed_counts() >= 0).all()


def test_a_module_as_denoiser(adata):
    class MeanProfile(torch.nn.Module):
        context_width = 4

        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(20))

        def forward(self, x_t, survival_prob, base_rate, context):
            log_ratio = self.bias.expand_as(x_t)
            return log_ratio, torch.ones_like(x_t) + 0.0 * self.bias

    model = CountsDiffSC(adata, denoiser=MeanProfile())
    model.train(max_epochs=1, accelerator="cpu", **QUIET)
    assert np.isfinite(model.get_imputed_counts()).all()


def test_save_and_load(masked_model, masked, tmp_path):
    masked_model.save(tmp_path / "model")
    expected = masked_model.get_imputed_counts()
    loaded = CountsDiffSC.load(tmp_path / "model", adata=masked.copy())
    np.testing.assert_array_equal(loaded.get_imputed_counts(), expected)
    assert loaded.history.keys() == masked_model.history.keys()


@pytest.mark.parametrize(
    "options", [{"schedule": lambda t: 1 - t}, {"loss_weighting": lambda schedule, t: torch.ones_like(t)}], ids=list
)
def test_what_cannot_be_saved_leaves_the_model_that_is_there(masked_model, masked, tmp_path, options):
    masked_model.save(tmp_path / "model")
    expected = masked_model.get_imputed_counts(seed=0)
    model = train_tiny(masked, max_epochs=1, **options)
    for folder in ("model", "new"):
        with pytest.raises(TypeError, match=f"{next(iter(options))}=.*cannot be saved.*top level of a module"):
            model.save(tmp_path / folder, overwrite=True)
    assert not (tmp_path / "new").exists()
    loaded = CountsDiffSC.load(tmp_path / "model", adata=masked)
    np.testing.assert_array_equal(loaded.get_imputed_counts(seed=0), expected)


def test_load_without_data_then_impute(masked_model, masked, tmp_path):
    masked_model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=False)
    new = make_adata(n_obs=8, seed=3)
    new.layers["observed"] = np.random.default_rng(0).random(new.shape) < 0.5
    np.testing.assert_array_equal(loaded.get_imputed_counts(new), masked_model.get_imputed_counts(new.copy()))


def test_load_with_the_saved_data(masked_model, tmp_path):
    masked_model.save(tmp_path / "model", save_anndata=True)
    loaded = CountsDiffSC.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_imputed_counts(), masked_model.get_imputed_counts())


def test_schedule_of_the_module_is_the_one_asked_for(adata):
    assert isinstance(CountsDiffSC(adata, **TINY).module.schedule, CosineSchedule)


def test_var_names(adata):
    assert list(CountsDiffSC(adata, **TINY).var_names) == list(adata.var_names)


def test_all_kinds_of_conditions(adata):
    CountsDiffSC.setup_anndata(
        adata,
        batch_key="batch",
        labels_key="cell_type",
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["percent_mito"],
    )
    model = train_tiny(adata)
    assert model.module.categorical_keys[-1] == ("extra_categorical_covs", 0)
    guided = model.get_imputed_counts(guidance_scale=2.0, seed=0)
    assert np.isfinite(guided).all()
    assert (guided != model.get_imputed_counts(seed=0)).any()


def test_an_argument_that_there_is_not(masked):
    with pytest.raises(TypeError, match="'n_member' is not an argument.*Was 'n_members' meant"):
        CountsDiffSC(masked, n_member=2)


def test_arguments_for_a_denoiser_that_is_already_made(masked):
    with pytest.raises(TypeError, match=r"\['n_tokens'\] are not arguments"):
        CountsDiffSC(masked, denoiser=GeneSetTransformer(20), n_tokens=3)
    with pytest.raises(TypeError, match=r"\['n_members'\] are not arguments"):
        CountsDiffSC(masked, denoiser=GeneSetTransformer(20), n_members=2)


@pytest.mark.parametrize("n_members", [0, 1.5, "two"])
def test_an_impossible_number_of_networks(masked, n_members):
    with pytest.raises((ValueError, TypeError), match="n_members"):
        CountsDiffSC(masked, n_members=n_members, **TINY)


def test_one_network_suffices(masked):
    model = train_tiny(masked, n_members=1)
    assert model.module.net.n_members == 1
    assert (model.get_imputed_counts() >= 0).all()


@pytest.mark.parametrize("argument", ["p_uncond", "one_pass_fraction", "ema_decay"])
def test_probabilities_of_the_constructor(masked, argument):
    with pytest.raises(ValueError, match=f"{argument}=7 is out of range"):
        CountsDiffSC(masked, **{argument: 7})
