"""Masks, metrics and baselines on which a comparison rests."""

import gc
import weakref

import anndata as ad
import numpy as np
import pytest
import scvi
from helpers import QUIET, TINY, make_adata, train_tiny
from scipy import sparse
from sklearn.metrics import mean_poisson_deviance

from countsdiff_sc import CountsDiffSC, evaluation

BASELINES = [
    evaluation.zeros,
    evaluation.gene_mean_x_depth,
    evaluation.label_mean_x_depth,
    evaluation.nearest_neighbours,
    evaluation.low_rank,
]


def test_mcar_hides_the_stated_fraction():
    mask = evaluation.mcar(np.zeros((400, 500)), 0.3, seed=0)
    assert mask.dtype == bool
    # 5 standard errors: false alarm below 1e-6
    assert abs((~mask).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / mask.size)
    np.testing.assert_array_equal(mask, evaluation.mcar(np.zeros((400, 500)), 0.3, seed=0))
    assert (mask != evaluation.mcar(np.zeros((400, 500)), 0.3, seed=1)).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_mcar_at_the_ends(fraction):
    assert (~evaluation.mcar(np.zeros((20, 20)), fraction, seed=0)).mean() == fraction


def test_poisson_deviance_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, mean = rng.poisson(1.0, 500), rng.gamma(2.0, 0.5, 500)
    assert evaluation.poisson_deviance(truth, mean) == pytest.approx(mean_poisson_deviance(truth, mean))


def test_poisson_deviance_of_the_truth_is_zero_and_of_zeros_finite():
    truth = np.array([0.0, 3.0])
    assert evaluation.poisson_deviance(truth, truth) == pytest.approx(0.0, abs=1e-5)
    assert np.isfinite(evaluation.poisson_deviance(truth, np.zeros(2)))


def test_rmse_log1p():
    assert evaluation.rmse_log1p(np.array([0.0, np.e - 1]), np.array([0.0, 0.0])) == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("baseline", BASELINES[1:])
def test_baselines_take_sparse_counts_and_masks(baseline):
    counts = np.random.default_rng(0).poisson(1.0, (40, 12)).astype(np.float32)
    observed, labels = evaluation.mcar(counts, 0.4, seed=0), np.repeat(["a", "b"], 20)
    dense = baseline(counts, observed, labels)
    np.testing.assert_array_equal(baseline(sparse.csr_matrix(counts), sparse.csr_matrix(observed), labels), dense)


@pytest.mark.parametrize("baseline", BASELINES[1:])
def test_baselines_refuse_masks_of_another_shape_and_counts_below_zero(baseline):
    counts, observed, labels = np.ones((4, 3)), np.ones((4, 3), dtype=bool), np.repeat(["a", "b"], 2)
    with pytest.raises(ValueError, match=r"counts has shape \(4, 3\) and observed_mask \(2, 3\)"):
        baseline(counts, observed[:2], labels)
    counts[1, 2] = -1.0
    with pytest.raises(ValueError, match=r"counts\[1, 2\]=-1.0 is marked as observed\. .* not negative\. Set"):
        baseline(counts, observed, labels)


def test_labels_are_one_for_each_cell():
    with pytest.raises(ValueError, match=r"labels has shape \(3,\)\. There must be one for each of 4 cells\. Pass"):
        evaluation.label_mean_x_depth(np.ones((4, 3)), np.ones((4, 3), dtype=bool), np.repeat("a", 3))


def test_gene_mean_x_depth_recovers_rank_one_rates_from_what_is_visible():
    rates = np.outer(np.arange(1, 31), np.arange(1, 11)).astype(float)
    observed = evaluation.mcar(rates, 0.4, seed=0)
    np.testing.assert_allclose(evaluation.gene_mean_x_depth(rates, observed), rates, rtol=0.02)


def test_label_mean_x_depth_recovers_rank_one_rates_within_labels():
    labels = np.repeat(["a", "b"], 200)
    depth = np.tile(np.linspace(0.5, 2, 200), 2)[:, None]
    profile = np.stack([np.arange(1, 11), np.arange(10, 0, -1)])[(labels == "b").astype(int)]
    rates = depth * profile
    observed = evaluation.mcar(rates, 0.3, seed=0)
    np.testing.assert_allclose(evaluation.label_mean_x_depth(rates, observed, labels), rates, rtol=0.05)


@pytest.mark.parametrize("baseline", BASELINES)
def test_baselines_do_not_look_at_hidden_entries(baseline):
    adata = make_adata()
    counts, labels = adata.X.toarray(), adata.obs["cell_type"].to_numpy()
    observed = evaluation.mcar(counts, 0.5, seed=0)
    with_other_values = np.where(observed, counts, 777.0)
    expected = baseline(counts, observed, labels)
    np.testing.assert_allclose(baseline(with_other_values, observed, labels), expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("baseline", [evaluation.gene_mean_x_depth, evaluation.label_mean_x_depth])
def test_baselines_survive_empty_cells_and_genes(baseline):
    observed = np.ones((6, 4), dtype=bool)
    observed[2], observed[:, 1] = False, False
    counts = np.ones((6, 4))
    assert np.isfinite(baseline(counts, observed, np.array(list("aabbcc")))).all()


def test_hold_out_fits_without_the_hidden_entries_and_scores_on_them():
    adata = make_adata()
    before = adata.X.copy()
    seen = []

    def fit(data):
        seen.append(data.X.toarray())
        CountsDiffSC.setup_anndata(data, labels_key="cell_type")
        model = CountsDiffSC(data, **TINY)
        model.train(max_epochs=1, accelerator="cpu", **QUIET)
        return model

    holdout = evaluation.hold_out(adata, fit, labels_key="cell_type", fraction=0.2, seed=3)
    hidden = ~evaluation.mcar(adata.X, 0.2, seed=3)
    assert np.isnan(seen[0][hidden]).all()
    np.testing.assert_array_equal(seen[0][~hidden], before.toarray()[~hidden])
    np.testing.assert_array_equal(holdout.truth, before.toarray()[hidden])
    assert (adata.X != before).nnz == 0
    assert list(holdout.table.index) == ["zeros", "gene mean x depth", "label mean x depth", "CountsDiffSC"]
    assert holdout.table.loc["CountsDiffSC", "rmse_log1p"] == evaluation.rmse_log1p(holdout.truth, holdout.predicted)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_hold_out_of_nothing_or_everything_is_refused(fraction):
    with pytest.raises(ValueError, match="Some must be hidden to be scored, and some left"):
        evaluation.hold_out(make_adata(), None, fraction=fraction)


def test_a_string_is_no_list_of_baselines():
    with pytest.raises(TypeError, match=r"Pass \['zeros'\]"):
        evaluation.hold_out(make_adata(), None, baselines="zeros")


def test_hold_out_refuses_backed_data(tmp_path):
    make_adata().write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="adata is backed"):
        evaluation.hold_out(ad.read_h5ad(tmp_path / "a.h5ad", backed="r"), None)


@pytest.mark.parametrize("baseline", [evaluation.nearest_neighbours, evaluation.low_rank])
def test_baselines_that_learn_beat_the_gene_mean_on_structured_cells(baseline):
    rng = np.random.default_rng(0)
    programs = rng.gamma(0.3, 1.0, (4, 60))
    rate = rng.lognormal(0, 0.4, (300, 1)) * programs[rng.integers(0, 4, 300)] * 8
    counts = rng.poisson(rate).astype(float)
    observed = evaluation.mcar(counts, 0.3, seed=0)
    imputed = baseline(counts, observed)
    assert imputed.shape == counts.shape
    error = evaluation.poisson_deviance(counts[~observed], imputed[~observed])
    assert error < 0.5 * evaluation.poisson_deviance(
        counts[~observed], evaluation.gene_mean_x_depth(counts, observed)[~observed]
    )


@pytest.mark.parametrize("rank", [2, 8, 32])
def test_low_rank_does_not_shrink_cells_of_which_little_is_visible(rank):
    """The prior is a scaled mean profile: cells with few visible molecules have as many as are expected of them."""
    rng = np.random.default_rng(0)
    rate = rng.lognormal(0, 0.4, (300, 1)) * rng.gamma(0.3, 1.0, (4, 200))[rng.integers(0, 4, 300)]
    counts = rng.poisson(rate).astype(float)
    observed = evaluation.mcar(counts, 0.9, seed=0)
    imputed = evaluation.low_rank(counts, observed, rank=rank)
    assert (imputed * observed).sum() == pytest.approx((counts * observed).sum(), rel=0.05)
    assert imputed[~observed].sum() == pytest.approx(counts[~observed].sum(), rel=0.1)


def test_hold_out_refuses_a_model_that_reads_where_nothing_was_hidden():
    adata = make_adata()
    adata.layers["counts"] = adata.X.copy()

    def fit(data):
        CountsDiffSC.setup_anndata(data, layer="counts")
        return train_tiny(data, max_epochs=1)

    with pytest.raises(ValueError, match="layer='counts', and hold_out was given layer=None.*the model has seen them"):
        evaluation.hold_out(adata, fit)
    assert len(evaluation.hold_out(adata, fit, layer="counts").truth)


def test_evaluation_keeps_no_copies_of_the_data():
    before, of_scvi = set(CountsDiffSC._setup_adata_manager_store), len(scvi.model.SCVI._setup_adata_manager_store)
    adata = make_adata()
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    model = CountsDiffSC(adata, **TINY)
    model.evaluate(seed=[0, 1], n_samples=0, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    evaluation.null_check(model, fraction=0.3, n_genes=4, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    with pytest.raises(ValueError, match="lr=-1.0 is out of range"):
        model.evaluate(max_epochs=1, plan_kwargs={"lr": -1.0})  # fails after the copy was registered
    assert len(set(CountsDiffSC._setup_adata_manager_store) - before) == 1
    counts = adata.X.toarray()
    scfid = evaluation.ScFID(counts, max_epochs=1)
    assert scfid.distance(counts[:30], counts[30:]) == scfid.distance(counts[:30], counts[30:])
    evaluation.ScviImputer(max_epochs=1).fit(counts, np.ones(counts.shape, dtype=bool))
    assert len(scvi.model.SCVI._setup_adata_manager_store) == of_scvi


def test_a_holdout_keeps_its_data_no_longer_than_its_model():
    found = evaluation.hold_out(make_adata(), lambda data: train_tiny(data, 1))
    alive = weakref.ref(found.model.adata)
    del found
    gc.collect()
    assert alive() is None
