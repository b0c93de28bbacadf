"""New cells follow the law of an exact denoiser, carry the conditions they were made with, and leave no trace."""

from itertools import product

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from exact import exact_model
from helpers import make_adata, train_tiny
from laws import assert_law, generator, nb
from scipy import sparse

from countsdiff_sc import CountsDiffSC
from countsdiff_sc._generation import generate, generation_grid, with_library_size
from countsdiff_sc.process import GammaPoissonOracle, get_schedule, time_grid

MEAN, DISPERSION, VARIANCE = 3.7, 1.11, 16.03
POISSON = float(np.exp(8))  # the largest inverse dispersion that a denoiser predicts
SCHEDULE = get_schedule("cosine")


@pytest.fixture(scope="module")
def labelled_data():
    adata = make_adata()
    labels = np.array(["B", "T", "unknown"])[np.repeat([0, 1, 1, 2], 15)]
    adata.obs["cell_type"] = pd.Categorical(labels)
    adata.obs["donor"] = pd.Categorical(np.where(labels == "B", "d0", "d1"))
    return adata


@pytest.fixture(scope="module")
def model(labelled_data):
    columns = {"categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["percent_mito"]}
    CountsDiffSC.setup_anndata(labelled_data, labels_key="cell_type", batch_key="batch", **columns)
    return train_tiny(labelled_data)


# --- the law ---


def test_marginals_are_those_of_the_exact_denoiser():
    cells = exact_model([MEAN] * 5, DISPERSION).sample(20_000, n_steps=10, seed=0).X.toarray()
    assert_law(cells, nb(MEAN, DISPERSION))
    assert cells.var() == pytest.approx(VARIANCE, rel=0.02)
    assert (cells == 0).mean() == pytest.approx(0.196, abs=0.005)


@pytest.mark.parametrize(
    ("schedule", "attrition", "n_steps"), [("blackout", None, 1), ("jump", "max", 2), ("jump", 0.3, 7)]
)
def test_the_law_holds_for_every_schedule_attrition_and_number_of_steps(schedule, attrition, n_steps):
    model = exact_model([MEAN] * 4, DISPERSION, schedule=schedule)
    assert_law(model.sample(5000, n_steps=n_steps, attrition=attrition, seed=1).X.toarray(), nb(MEAN, DISPERSION))


def test_stochastic_rounding_has_the_right_variance_at_1000_steps():
    oracle = GammaPoissonOracle(torch.tensor(MEAN), torch.tensor(DISPERSION), SCHEDULE)
    grid = time_grid(1000)
    *_, x = generate(oracle, (10_000, 8), SCHEDULE, grid, births="stochastic", generator=generator(0))
    assert x.var().item() == pytest.approx(VARIANCE, rel=0.02)


def test_early_molecules_decide_on_the_depth():
    """Poisson genes of a Gamma depth: all but the first few molecules depend on it, so the grid must resolve those.

    What is uncertain about the depth within a step is lost: the spread is 8% low at 100 steps (mean of 11 runs; 1.8% is the
    standard error of one), and 6% at 400.
    """
    mean, concentration = np.full(20, 25.0), 2.0
    model = exact_model(mean, POISSON, depth_concentration=concentration)
    law = nb(mean.sum(), concentration)
    totals = {n_steps: model.sample(4000, n_steps=n_steps, seed=0).X.sum(1) for n_steps in (1, 100)}
    assert totals[100].mean() == pytest.approx(law.mean(), rel=0.05)
    assert totals[100].std() == pytest.approx(0.92 * law.std(), rel=0.07)
    assert totals[1].std() < 0.1 * law.std()  # one step knows of no depth


@pytest.mark.parametrize("library_size", [200, np.arange(100, 1100)])
def test_library_sizes_are_met(library_size):
    model = exact_model(np.full(20, 25.0), POISSON, depth_concentration=2.0)
    totals = np.asarray(model.sample(1000, library_size=library_size, seed=0).X.sum(1)).ravel()
    error = totals / library_size - 1
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.03


def test_no_molecule_gives_an_empty_cell():
    model = exact_model([MEAN] * 4, DISPERSION)
    assert model.sample(3, library_size=0).X.nnz == 0


def test_with_library_size_scales_to_what_is_lacking():
    def denoise(x_t, t):
        return torch.tensor([[1.0, 3.0], [1.0, 3.0], [0.0, 0.0]]), torch.ones(3, 2)

    x_t = torch.tensor([[2.0, 0.0], [9.0, 2.0], [1.0, 0.0]])
    births, _ = with_library_size(denoise, torch.tensor([10.0, 10.0, 10.0]))(x_t, torch.tensor(0.5))
    torch.testing.assert_close(births, torch.tensor([[2.0, 6.0], [0.0, 0.0], [0.0, 0.0]]))


# --- the grid ---


@pytest.mark.parametrize(("name", "n_steps"), product(["cosine", "blackout", "jump"], [1, 2, 30]))
def test_grid_is_even_in_logit_p(name, n_steps):
    schedule = get_schedule(name)
    grid = generation_grid(schedule, n_steps, 2000.0)
    assert grid[[0, -1]].tolist() == [1.0, 0.0]
    assert len(grid) == n_steps + 1
    assert (grid.diff() < 0).all()
    logits = torch.logit(schedule.survival_prob(grid[1:-1]))
    if n_steps > 2:
        torch.testing.assert_close(logits.diff(), logits.diff()[:1].expand(n_steps - 2), rtol=1e-3, atol=0)
        assert 1 / 2000 < torch.sigmoid(logits[0]) < 2 / 2000


# --- what comes back ---


def test_counts_genes_and_record(model, tmp_path):
    cells = model.sample(12, n_steps=3, attrition=0.2, seed=4)
    assert isinstance(cells, ad.AnnData)
    assert cells.shape == (12, 20)
    assert sparse.isspmatrix_csr(cells.X)
    assert cells.X.dtype == np.int32
    assert (cells.X.data > 0).all()
    assert list(cells.var_names) == list(model.var_names)
    assert cells.obs_names.is_unique
    record = cells.uns["countsdiff_sc"]["X"]
    assert {key: record[key] for key in ("n_steps", "attrition", "births", "library_size", "seed", "batch_size")} == {
        "n_steps": 3,
        "attrition": 0.2,
        "births": "negative_binomial",
        "library_size": "free",
        "seed": 4,
        "batch_size": 1024,
    }
    assert record["versions"]["countsdiff_sc"]
    cells.write_h5ad(tmp_path / "cells.h5ad")


def test_conditions_not_given_are_those_of_training_cells(model, labelled_data):
    obs = model.sample(4000, n_steps=1, seed=0).obs
    assert list(obs) == ["cell_type", "batch", "donor", "percent_mito"]
    frequency = obs["cell_type"].value_counts(normalize=True)
    assert frequency["T"] == pytest.approx(0.5, abs=0.04)
    assert frequency["unknown"] == pytest.approx(0.25, abs=0.04)
    assert (obs["donor"] == np.where(obs["cell_type"] == "B", "d0", "d1")).all()  # as they go together there
    assert set(obs["percent_mito"]) <= set(labelled_data.obs["percent_mito"])


def test_conditions_given_are_kept_and_the_others_go_with_them(model):
    obs = model.sample(30, labels="B", n_steps=1).obs
    assert set(obs["cell_type"]) == {"B"}
    assert set(obs["donor"]) == {"d0"}
    labels = ["T", "unknown", "B"] * 10
    obs = model.sample(30, labels=labels, batch="b1", n_steps=1).obs
    assert list(obs["cell_type"]) == labels
    assert set(obs["batch"]) == {"b1"}
    assert list(obs["cell_type"].cat.categories) == ["B", "T", "unknown"]


def test_labels_and_guidance_decide_on_the_cells():
    adata = make_adata(n_obs=400)
    rate = np.where(adata.obs[["cell_type"]] == "B", np.repeat([4.0, 1.0], 10), np.repeat([1.0, 4.0], 10))
    adata.X = sparse.csr_matrix(np.random.default_rng(0).poisson(rate).astype(np.float32))
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    model = train_tiny(adata, max_epochs=60, n_members=1)

    def first_half(labels, **kwargs):
        cells = model.sample(200, labels=labels, n_steps=10, seed=0, **kwargs).X.toarray()
        return cells[:, :10].sum(1) / cells.sum(1)

    assert first_half("B").mean() > 0.65
    assert first_half("T").mean() < 0.35
    mixed = first_half(["B", "T"] * 100)
    assert mixed[::2].mean() > 0.65
    assert mixed[1::2].mean() < 0.35
    unguided = [first_half(labels, guidance_scale=0).mean() for labels in ("B", "T")]
    assert unguided[0] == pytest.approx(unguided[1], abs=0.15)
    assert first_half("B", guidance_scale=2).mean() > first_half("B").mean()


@pytest.mark.parametrize(
    "births", ["poisson", "stochastic", "nearest", lambda mean, dispersion, generator: mean.ceil()]
)
def test_births(model, births):
    cells = model.sample(8, births=births, n_steps=3, seed=0)
    assert (cells.X.data > 0).all()
    assert isinstance(cells.uns["countsdiff_sc"]["X"]["births"], str)


def test_without_labels_obs_is_empty():
    cells = exact_model([MEAN] * 4, DISPERSION).sample(3)
    assert cells.obs.shape == (3, 0)


def test_generated_cells_can_be_given_to_the_model(model):
    cells = model.sample(20, n_steps=3, seed=0)
    cells.X = cells.X.astype(np.float32)
    assert len(model.get_elbo(cells, n_times=1)) == 20


# --- chance ---


def test_seeds_and_blocks_decide_and_nothing_else_is_touched(model, labelled_data):
    before, state, numpy_state = labelled_data.copy(), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    def draw(**kwargs):
        cells = model.sample(10, n_steps=3, **{"seed": 1, **kwargs})
        return cells.X.toarray(), list(cells.obs["cell_type"])

    first, labels = draw()
    np.testing.assert_array_equal(first, draw()[0])
    assert labels == draw()[1]
    assert not np.array_equal(first, draw(seed=2)[0])
    assert draw(batch_size=4)[0].shape == first.shape
    np.testing.assert_array_equal(draw(batch_size=4)[0], draw(batch_size=4)[0])
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    pd.testing.assert_frame_equal(labelled_data.obs, before.obs)
    assert set(labelled_data.uns) == set(before.uns)
    assert not model.module.training


# --- MuData, and models without data ---


def test_mudata_in_mudata_out(mdata, tmp_path):
    CountsDiffSC.setup_mudata(mdata, labels_key="cell_type", modalities=["prot", "rna"])
    model = train_tiny(mdata, max_epochs=1)
    cells = model.sample(7, n_steps=2, labels="T", seed=0)
    assert isinstance(cells, mudata.MuData)
    assert {name: part.shape for name, part in cells.mod.items()} == {"prot": (7, 5), "rna": (7, 12)}
    for name, part in cells.mod.items():
        assert list(part.var_names) == list(mdata.mod[name].var_names)
        assert part.uns["countsdiff_sc"]["X"]["n_steps"] == 2
    assert list(cells.obs["cell_type"]) == ["T"] * 7
    cells.write_h5mu(tmp_path / "cells.h5mu")
    with pytest.raises(ValueError, match="several modalities, .* number of molecules of one modality. Leave it out"):
        model.sample(7, library_size=100)


def test_a_model_loaded_without_data(adata, tmp_path):
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    train_tiny(adata, max_epochs=1).save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=False)
    assert list(loaded.sample(2, labels="T", n_steps=1).obs["cell_type"]) == ["T", "T"]
    with pytest.raises(RuntimeError, match="loaded without data. .* Pass labels and batch"):
        loaded.sample(2)


# --- errors ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_obs": 0}, ValueError, "n_obs=0 is out of range"),
        ({"n_obs": 2.0}, TypeError, "n_obs=2.0 is a float"),
        ({"n_steps": 0}, ValueError, "n_steps=0 is out of range"),
        ({"guidance_scale": -1}, ValueError, "guidance_scale=-1 is out of range"),
        ({"attrition": 1.5}, ValueError, "attrition=1.5 is not an attrition schedule"),
        ({"births": "nb"}, ValueError, "births='nb' is not known"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is out of range"),
        ({"seed": -1}, ValueError, "seed=-1 is out of range"),
        ({"labels": "NK"}, KeyError, "labels='NK' is not in the 'cell_type' of the training data. .* Correct the name"),
        ({"labels": ["B", "NK", "T"]}, KeyError, "labels='NK' is not in"),
        ({"labels": ["B", "T"]}, ValueError, r"labels has shape \(2,\). It must be one name, or one for each of the 3"),
        ({"batch": "b7"}, KeyError, "batch='b7' is not in the 'batch' of the training data"),
        ({"library_size": -5}, ValueError, "library_size=-5 is not a number of molecules"),
        ({"library_size": [1, 2]}, ValueError, "one for each of the 3 cells. Pass for example"),
        ({"library_size": "many"}, ValueError, "library_size='many' is not a number"),
        ({"library_size": np.nan}, ValueError, "library_size=nan is not a number"),
    ],
)
def test_errors(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.sample(**{"n_obs": 3, **arguments})


def test_conditions_of_a_model_without_them(adata):
    with pytest.raises(RuntimeError, match="not trained. Only a trained model can generate cells. Call"):
        CountsDiffSC(adata).sample(3)
    model = exact_model([MEAN] * 4, DISPERSION)
    with pytest.raises(ValueError, match="labels='B' was given to a model that knows no labels. .* with labels_key"):
        model.sample(3, labels="B")
    with pytest.raises(ValueError, match="knows no batch. .* with batch_key"):
        model.sample(3, batch="b0")


def test_covariates_of_several_types():
    adata = make_adata()
    adata.obs["treated"] = adata.obs["percent_mito"] > 0.5
    adata.obs["dose"] = (adata.obs["percent_mito"] * 9).astype(int).astype(str)
    columns = ["percent_mito", "treated", "dose"]
    CountsDiffSC.setup_anndata(adata, continuous_covariate_keys=columns)
    assert list(train_tiny(adata, 1).sample(5, seed=0).obs.columns) == columns
