"""What imputation promises: observed entries kept, counts or means at the others, nothing else touched."""

import warnings

import numpy as np
import pytest
import torch
from anndata import AnnData
from exact import exact_model
from helpers import QUIET, make_adata, make_counts, train_tiny
from scipy import sparse

from countsdiff_sc import CountsDiffSC, _inference_mixin, _writing, process
from countsdiff_sc._request import rank_of_quantile
from countsdiff_sc._validation import named_layers


def to_dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else matrix


ESTIMATES = ["mean", "median", "sample"]


@pytest.mark.parametrize("conditioning", ["observed", "remask"])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_observed_entries_are_kept_and_missing_ones_are_counts(masked_model, masked, estimate, conditioning):
    observed = masked.layers["observed"]
    result = masked_model.get_imputed_counts(
        estimate=estimate, conditioning=conditioning, n_steps=3, n_samples=1, seed=0
    )
    values = to_dense(result)
    np.testing.assert_array_equal(values[observed], masked.X.toarray()[observed])
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    if estimate == "mean":
        assert result.dtype == np.float32
        assert (values[~observed] > 0).all()
    else:
        assert sparse.issparse(result)
        assert np.issubdtype(result.dtype, np.integer)


def test_only_the_named_layer_and_its_record_are_written(masked_model, masked):
    before = masked.copy()
    assert masked_model.impute(masked, "filled", estimate="sample", seed=3) is None
    assert set(named_layers(masked)) == {"observed", "filled"}
    np.testing.assert_array_equal(masked.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(masked.layers["observed"], before.layers["observed"])
    assert list(masked.obs) == list(before.obs)
    assert set(masked.uns["countsdiff_sc"]) == {"filled"}


def test_record_says_how_the_layer_was_made(masked_model, masked, tmp_path):
    masked_model.impute(estimate="sample", n_samples=2, attrition=0.2, n_steps=4, seed=3)
    record = masked.uns["countsdiff_sc"]["imputed_1"]
    assert record["seed"] == 3
    assert record["n_steps"] == 4
    assert record["attrition"] == 0.2
    assert record["observed_mask"] == "registered layer"
    assert record["versions"]["countsdiff_sc"]
    masked.write_h5ad(tmp_path / "out.h5ad")


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_same_seed_same_layer(masked_model, estimate):
    def values(seed):
        return to_dense(masked_model.get_imputed_counts(estimate=estimate, seed=seed))

    np.testing.assert_array_equal(values(5), values(5))
    if estimate == "sample":
        assert (values(5) != values(6)).any()


@pytest.mark.parametrize("options", [{}, {"estimate": "sample"}, {"estimate": "sample", "n_steps": 3}])
def test_the_number_of_threads_changes_no_bit(masked_model, options):
    n_threads, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(to_dense(masked_model.get_imputed_counts(batch_size=7, seed=0, **options)))
    torch.set_num_threads(n_threads)
    np.testing.assert_array_equal(*found)


def test_samples_differ_and_average_to_the_mean(masked_model, masked):
    missing = ~masked.layers["observed"]
    draws = masked_model.get_imputed_counts(estimate="sample", n_samples=400, seed=0)
    stacked = np.stack([draw.toarray()[missing] for draw in draws])
    mean = masked_model.get_imputed_counts()[missing]
    # 4 standard errors of the mean over all missing entries: false alarm below 1e-4
    error = 4 * stacked.std(axis=0) / np.sqrt(len(draws))
    assert abs((stacked.mean(axis=0) - mean).mean()) < error.mean() / np.sqrt(missing.sum()) + 1e-3
    assert stacked.std(axis=0).min() > 0


def test_quantiles_bracket_the_median(masked_model):
    low, middle, high = masked_model.get_imputed_counts(quantiles=[0.05, 0.5, 0.95])
    median = masked_model.get_imputed_counts(estimate="median")
    assert (low.toarray() <= middle.toarray()).all()
    assert (middle.toarray() <= high.toarray()).all()
    assert (middle != median).nnz == 0
    assert (low != high).nnz > 0


def test_mean_by_steps_is_the_average_of_draws(masked_model, masked):
    missing = ~masked.layers["observed"]
    one_pass = masked_model.get_imputed_counts()[missing]
    by_steps = masked_model.get_imputed_counts(n_steps=2, n_samples=20, seed=0)[missing]
    assert np.corrcoef(one_pass, by_steps)[0, 1] > 0.9


def test_nan_marks_missing_entries(adata, observed_mask):
    counts = adata.X.toarray()
    adata.layers["counts"] = np.where(observed_mask, counts, np.nan)
    CountsDiffSC.setup_anndata(adata, layer="counts")
    model = train_tiny(adata)
    model.impute()
    np.testing.assert_array_equal(adata.layers["imputed"][observed_mask], counts[observed_mask])
    assert np.isfinite(adata.layers["imputed"]).all()
    assert adata.uns["countsdiff_sc"]["imputed"]["observed_mask"] == "nan"


def test_nan_and_registered_mask_train_alike(adata, observed_mask):
    """Two ways to say that an entry is missing are one: what stands there never reaches the network."""
    with_nan, with_mask = adata.copy(), adata.copy()
    with_nan.X = np.where(observed_mask, adata.X.toarray(), np.nan)
    with_mask.X = np.where(observed_mask, adata.X.toarray(), 999.0)
    with_mask.layers["observed"] = observed_mask
    CountsDiffSC.setup_anndata(with_nan)
    CountsDiffSC.setup_anndata(with_mask, observed_mask_layer="observed")
    means = [train_tiny(data).get_imputed_counts() for data in (with_nan, with_mask)]
    missing = ~observed_mask
    np.testing.assert_allclose(means[0][missing], means[1][missing], rtol=1e-5)


@pytest.mark.parametrize("as_layer", [False, True], ids=["array", "layer"])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_observed_mask_argument_takes_the_place_of_the_registered_one(masked_model, masked, kind, as_layer):
    mask = kind(np.random.default_rng(2).random(masked.shape) < 0.5)
    masked.layers["other"] = mask
    with pytest.warns(UserWarning, match="not hidden in training"):
        result = masked_model.get_imputed_counts(observed_mask="other" if as_layer else mask)
    kept = to_dense(mask)
    np.testing.assert_array_equal(result[kept], masked.X.toarray()[kept])
    assert (result[~kept] > 0).all()


def test_nan_is_missing_whatever_the_mask_says(masked_model, masked):
    new = masked.copy()
    counts = new.X.toarray()
    counts[2, 3] = np.nan
    new.X = counts
    result = masked_model.get_imputed_counts(new, observed_mask=np.ones(new.shape, dtype=bool))
    assert result[2, 3] > 0


@pytest.mark.parametrize("conditioning", ["observed", "remask"])
def test_quantiles_by_drawing_are_not_one_draw(masked_model, conditioning):
    low, high = masked_model.get_imputed_counts(quantiles=[0.1, 0.9], n_steps=2, conditioning=conditioning, seed=0)
    assert (low != high).nnz > 0


def test_without_a_mask_zeros_are_imputed(adata):
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata)
    model.impute(seed=0)
    counts = adata.X.toarray()
    imputed = adata.layers["imputed"]
    np.testing.assert_array_equal(imputed[counts > 0], counts[counts > 0])
    assert (imputed[counts == 0] > 0).all()
    assert adata.uns["countsdiff_sc"]["imputed"]["observed_mask"] == "zeros"


def test_a_zero_is_not_predicted_from_its_own_fold(adata):
    """Changing the non-zeros of a gene's own fold changes no prediction in that fold."""
    from countsdiff_sc._imputation import gene_folds

    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata)
    fold = np.isin(np.arange(adata.n_vars), gene_folds(adata.n_vars, seed=0)[0])
    other = adata.copy()
    counts = other.X.toarray()
    counts[:, fold] *= 3
    other.X = counts
    before, after = (model.get_imputed_counts(data, seed=0) for data in (adata, other))
    zero = (counts == 0) & fold
    np.testing.assert_allclose(before[zero], after[zero], rtol=1e-5)


def test_indices_select_and_order_rows(masked_model, masked):
    rows = [7, 3, 5]
    everything = masked_model.get_imputed_counts()
    some = masked_model.get_imputed_counts(indices=rows)
    np.testing.assert_allclose(some, everything[rows], rtol=1e-5)
    masked_model.impute(indices=rows)
    imputed = masked.layers["imputed"]
    np.testing.assert_allclose(imputed[rows], everything[rows], rtol=1e-5)
    others = np.setdiff1d(np.arange(masked.n_obs), rows)
    np.testing.assert_array_equal(imputed[others], masked.X.toarray()[others])


def test_all_cells_in_another_order(masked_model, masked, observed_mask):
    """Matrices that are returned follow ``indices``; layers follow the cells."""
    rows = np.random.default_rng(0).permutation(masked.n_obs)
    everything = masked_model.get_imputed_counts()
    np.testing.assert_allclose(masked_model.get_imputed_counts(indices=rows), everything[rows], rtol=1e-5)
    masked_model.impute(indices=rows)
    np.testing.assert_allclose(masked.layers["imputed"], everything, rtol=1e-5)
    masked_model.impute(indices=rows, estimate="sample", layer="drawn")
    drawn, counts = masked.layers["drawn"].toarray(), masked.X.toarray()
    np.testing.assert_array_equal(drawn[observed_mask], counts[observed_mask])


def test_large_counts_of_cells_that_are_not_imputed_are_kept(masked_model, masked):
    new = masked.copy()
    new.X = new.X.toarray()
    new.X[9, 0], new.layers["observed"][9, 0] = 70_000.0, True
    masked_model.impute(new, indices=[0, 1], estimate="sample")
    assert new.layers["imputed"][9, 0] == 70_000
    assert new.layers["imputed"].dtype == np.int32


@pytest.mark.parametrize(
    ("births", "wrong"), [(lambda mean, *_: mean, "[0-9.]+"), (lambda mean, *_: mean.round() - 5.0, "-")]
)
def test_births_of_a_rule_of_ones_own_must_be_counts(masked_model, births, wrong):
    with pytest.raises(ValueError, match=f"births returned .* values that are not counts .first: {wrong}"):
        masked_model.get_imputed_counts(estimate="sample", births=births)
    with pytest.raises(ValueError, match="births returned"):
        masked_model.sample(5, births=births)


def test_numbers_of_numpy_are_recorded_as_numbers(masked_model, masked):
    for _ in range(2):  # the second call reads the record of the first
        masked_model.impute(estimate="sample", n_samples=np.int64(2), guidance_scale=np.float32(0.5), seed=np.int64(3))
    record = masked.uns["countsdiff_sc"]["imputed_0"]
    assert (record["n_samples"], record["guidance_scale"]) == (2, 0.5)
    assert (type(record["n_samples"]), type(record["guidance_scale"])) == (int, float)


def test_quantiles_of_draws_are_those_of_the_law_they_come_from(masked_model, observed_mask):
    """Of 2,000 draws by a rule that is not known to be the default one: the law has between them what lies between the levels."""
    levels = (0.2, 0.5, 0.8)
    rule = process.get_birth_rule("negative_binomial")
    closed = masked_model.get_imputed_counts(quantiles=levels)
    drawn = masked_model.get_imputed_counts(quantiles=levels, births=lambda *law: rule(*law), n_samples=2_000, seed=0)
    for exact, found in zip(closed, drawn, strict=True):
        exact, found = exact.toarray()[~observed_mask], found.toarray()[~observed_mask]
        # An empirical quantile of 2,000 draws is that of a level 0.01 (one standard error) away.
        np.testing.assert_allclose(found, exact, atol=1.0, rtol=0.15)
        assert np.mean(found == exact) > 0.8


@pytest.mark.parametrize("n_draws", [19, 39, 99, 100, 399])
def test_draws_bound_the_share_that_is_asked_for(n_draws):
    """A count is at most the k-th of n draws that it is exchangeable with, and differs from, with probability k / (n + 1)."""
    for percent in range(6, 50):
        low, high = (rank_of_quantile(level, n_draws) for level in (percent / 100, 1 - percent / 100))
        assert low + high == n_draws + 1  # symmetric
        share = (high - low) / (n_draws + 1)
        assert -1e-12 < share - (1 - percent / 50) < 2 / (n_draws + 1)
        if percent * (n_draws + 1) % 100 == 0:
            assert share == pytest.approx(1 - percent / 50)


def test_levels_that_draws_do_not_resolve(masked_model):
    with pytest.raises(ValueError, match="quantile 0.999 was asked for, of 39 draws.*n_samples of at least 999"):
        masked_model.get_imputed_counts(quantiles=(0.5, 0.999), n_steps=2)
    assert len(masked_model.get_imputed_counts(quantiles=(0.5, 0.999))) == 2  # in closed form


def test_boolean_indices(masked_model):
    selected = np.zeros(60, dtype=bool)
    selected[[3, 5]] = True
    assert masked_model.get_imputed_counts(indices=selected).shape == (2, 20)


def test_row_order_and_batch_size_do_not_matter_for_means(masked_model, masked):
    whole = masked_model.get_imputed_counts()
    by_sevens = masked_model.get_imputed_counts(batch_size=7)
    np.testing.assert_allclose(whole, by_sevens, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("arguments", "n_passes"), [({}, 1), ({"guidance_scale": 1.5}, 2), ({"selection": 2.0}, 1)])
def test_guidance_off_costs_one_network_pass(masked_model, arguments, n_passes):
    calls = []
    handle = masked_model.module.ema.module.register_forward_hook(lambda *_: calls.append(1))
    masked_model.get_imputed_counts(**{"selection": 0, **arguments})
    handle.remove()
    assert len(calls) == n_passes


@pytest.mark.parametrize("arguments", [{"n_samples": 5}, {"quantiles": (0.1, 0.5, 0.9)}])
def test_one_pass_gives_all_draws_and_quantiles(masked_model, arguments):
    calls = []
    handle = masked_model.module.ema.module.register_forward_hook(lambda *_: calls.append(1))
    masked_model.get_imputed_counts(estimate="sample", selection=0, **arguments)
    handle.remove()
    assert len(calls) == 1


def test_draws_without_a_mask_are_those_of_the_law_of_each_fold(adata):
    """One draw has the mean that is imputed, and keeps what is not zero."""
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata)
    zero = adata.X.toarray() == 0
    mean = model.get_imputed_counts(seed=0)
    draws = np.stack([draw.toarray() for draw in model.get_imputed_counts(estimate="sample", n_samples=300, seed=0)])
    np.testing.assert_array_equal(draws[:, ~zero], np.broadcast_to(adata.X.toarray()[~zero], draws[:, ~zero].shape))
    # 5 standard errors of the mean over all zeros: false alarm below 1e-6
    error = draws[:, zero].sum(1).std() / np.sqrt(len(draws))
    assert abs(draws[:, zero].sum(1).mean() - mean[zero].sum()) < 5 * error


def test_more_cells_are_imputed_together_on_other_devices(masked_model, monkeypatch):
    of_cpu = masked_model._block_size(None)
    monkeypatch.setattr(type(masked_model.module), "device", torch.device("cuda"))
    assert masked_model._block_size(None) > of_cpu


def test_fewer_cells_are_imputed_together_where_there_are_many_genes(masked_model, masked, monkeypatch):
    monkeypatch.setattr(_inference_mixin, "BLOCK_ENTRIES", 7 * 20)
    for least, expected in ((1, 7), (9, 9)):
        monkeypatch.setattr(_inference_mixin, "MIN_BLOCK_SIZE", least)
        masked_model.impute(seed=0)
        assert masked.uns["countsdiff_sc"]["imputed"]["batch_size"] == expected


def test_an_unknown_label_is_no_label(masked):
    """Guidance 0 ignores labels; cells labelled "unknown", and cells without labels, are imputed just so."""
    model = train_tiny(masked)
    model.train(30, accelerator="cpu", plan_kwargs={"lr": 3e-2}, **QUIET)  # until labels matter
    without = model.get_imputed_counts(guidance_scale=0.0)
    unknown, absent = masked.copy(), masked.copy()
    unknown.obs["cell_type"] = "unknown"
    del absent.obs["cell_type"]
    np.testing.assert_allclose(model.get_imputed_counts(unknown), without, rtol=1e-5)
    np.testing.assert_allclose(model.get_imputed_counts(absent), without, rtol=1e-5)
    assert not np.allclose(model.get_imputed_counts(), without, rtol=1e-5)


def test_new_data_with_the_same_genes(masked_model):
    new = make_adata(n_obs=9, seed=4)
    new.layers["observed"] = np.random.default_rng(0).random(new.shape) < 0.5
    masked_model.impute(new, estimate="sample")
    observed = new.layers["observed"]
    np.testing.assert_array_equal(new.layers["imputed"].toarray()[observed], new.X.toarray()[observed])


def test_a_model_that_always_saw_labels_says_that_they_are_missing(masked, recwarn):
    model, unlabelled = train_tiny(masked, max_epochs=1, p_uncond=0.0), masked.copy()
    model.get_imputed_counts(masked.copy())
    assert not [each for each in recwarn if "p_uncond" in str(each.message)]
    del unlabelled.obs["cell_type"]
    with pytest.warns(UserWarning, match="'unknown' for 60 of 60 cells, and the model was trained with p_uncond=0"):
        model.get_imputed_counts(unlabelled)


@pytest.mark.parametrize("arguments", [{}, {"estimate": "median"}, {"quantiles": (0.1, 0.9)}])
def test_draws_that_are_not_made_are_not_asked_for_in_silence(masked_model, arguments):
    with pytest.warns(UserWarning, match="n_samples=5 has no effect here.*estimate='sample'"):
        masked_model.get_imputed_counts(n_samples=5, **arguments)


def test_labels_are_never_needed(masked_model):
    new = make_adata(n_obs=9, seed=4)
    new.layers["observed"] = np.arange(20) > np.zeros((9, 1))
    del new.obs["cell_type"]
    masked_model.impute(new)
    assert new.layers["imputed"].shape == new.shape


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int16])
def test_counts_of_any_dtype(dtype):
    adata = make_adata()
    adata.X = make_counts().astype(dtype)
    model = train_tiny(adata, max_epochs=1)
    imputed = model.get_imputed_counts(
        observed_mask=np.ones(adata.shape, dtype=bool) ^ (np.arange(20) == 0), adata=adata.copy()
    )
    np.testing.assert_array_equal(imputed[:, 1:], adata.X[:, 1:])


def test_reimputing_overwrites_its_own_layer_only(masked_model, masked):
    masked_model.impute()
    masked_model.impute(estimate="sample")
    assert sparse.issparse(masked.layers["imputed"])
    masked.layers["mine"] = masked.X.copy()
    with pytest.raises(ValueError, match="was not written by impute"):
        masked_model.impute(layer="mine")


def test_a_cell_with_nothing_observed_is_generated_with_a_warning(masked_model, masked):
    mask = np.ones(masked.shape, dtype=bool)
    mask[4] = False
    with pytest.warns(UserWarning, match="1 of 60 cells have no observed entry"):
        masked_model.impute(masked.copy(), observed_mask=mask, estimate="sample")


def test_imputing_trained_on_entries_warns(adata):
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata)
    mask = np.random.default_rng(2).random(adata.shape) < 0.5
    with pytest.warns(UserWarning, match="not hidden in training"):
        model.impute(observed_mask=mask)


def test_a_mask_that_hides_nothing_warns(masked_model, masked):
    with pytest.warns(UserWarning, match="Nothing is missing"):
        masked_model.impute(masked.copy(), observed_mask=np.ones(masked.shape, dtype=bool))


def test_zeros_of_new_data_are_not_imputed_in_silence_where_missing_entries_were_nan(adata):
    counts = adata.X.toarray()
    adata.X = np.where(np.random.default_rng(0).random(counts.shape) < 0.3, np.nan, counts)
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata, max_epochs=1)
    with pytest.warns(UserWarning, match="their zeros are imputed"):
        model.impute(make_adata(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.impute(make_adata(seed=1), observed_mask=np.random.default_rng(1).random(counts.shape) < 0.5)
        model.impute()


def test_the_record_says_how_many_entries_were_imputed(masked_model, masked, observed_mask):
    masked_model.impute()
    assert masked.uns["countsdiff_sc"]["imputed"]["n_imputed"] == (~observed_mask).sum()


def test_fewer_draws_leave_none_of_an_earlier_run(masked_model, masked):
    masked.layers["imputed_7"] = masked.X.copy()  # the user's own
    masked_model.impute(layer="imputed_5", estimate="sample")  # asked for by this name
    masked_model.impute(estimate="sample", n_samples=3, seed=0)
    masked_model.impute(estimate="sample", n_samples=2, seed=1)
    layers = sorted(name for name in named_layers(masked) if name.startswith("imputed"))
    assert layers == ["imputed_0", "imputed_1", "imputed_5", "imputed_7"]
    assert sorted(masked.uns["countsdiff_sc"]) == ["imputed_0", "imputed_1", "imputed_5"]


def test_all_draws_are_written_or_none(masked_model, masked, monkeypatch):
    masked_model.impute(estimate="sample", n_samples=3, seed=0)
    before = {name: masked.layers[name].copy() for name in masked.layers}
    merge, n_merged = _writing._insert_rows, []

    def fails_at_the_second(*arguments):
        n_merged.append(1)
        if len(n_merged) == 2:
            raise MemoryError
        return merge(*arguments)

    monkeypatch.setattr(_writing, "_insert_rows", fails_at_the_second)
    with pytest.raises(MemoryError):
        masked_model.impute(estimate="sample", n_samples=2, indices=[3, 5], seed=1)
    assert list(masked.layers) == list(before)
    assert masked.uns["countsdiff_sc"]["imputed_0"]["seed"] == 0
    for name, values in before.items():
        np.testing.assert_array_equal(to_dense(masked.layers[name]), to_dense(values))


def test_a_draw_that_no_count_can_be_is_refused():
    """Means are within 2^24, and draws of a law so wide are not; as integers they would be negative."""
    model, gap = exact_model([1.5e7] * 50, 0.01), np.full((5, 50), np.nan, dtype=np.float32)
    gap[:, 0] = 1
    with pytest.raises(ValueError, match=r"draws are not finite, or above 2\^24"):
        model.get_imputed_counts(AnnData(gap), estimate="sample", selection=0.0, seed=0)
    few = exact_model([3.0] * 50, 1.0)
    for drawn in few.get_imputed_counts(AnnData(gap), estimate="sample", n_samples=2, selection=0.0, seed=0):
        assert drawn.dtype == np.int32


def test_an_interrupted_training_does_not_change_how_imputation_works(masked_model):
    before = masked_model.get_imputed_counts(seed=0)
    masked_model.module.train()  # as an exception inside train() leaves it
    np.testing.assert_array_equal(masked_model.get_imputed_counts(seed=0), before)


@pytest.mark.parametrize("estimate", ["mean", "sample"])
def test_cells_imputed_one_after_another_are_all_imputed(masked_model, masked, estimate):
    options = {"estimate": estimate, "selection": 0, "seed": 0}
    masked_model.impute(indices=np.arange(30), **options)
    first = to_dense(masked.layers["imputed"])[:30].copy()
    masked_model.impute(indices=np.arange(30, 60), **options)
    both, dtype = to_dense(masked.layers["imputed"]), masked.layers["imputed"].dtype
    np.testing.assert_array_equal(both[:30], first)
    np.testing.assert_array_equal(
        both[30:], to_dense(masked_model.get_imputed_counts(indices=np.arange(30, 60), **options))
    )
    with pytest.warns(UserWarning, match=r"now holds (counts|means)\. What was imputed in 30 other cells is gone"):
        masked_model.impute(
            indices=np.arange(30), **{**options, "estimate": "sample" if estimate == "mean" else "mean"}
        )
    assert masked.layers["imputed"].dtype != dtype  # of the other kind, so the others have their counts
    np.testing.assert_array_equal(to_dense(masked.layers["imputed"])[30:], to_dense(masked.X)[30:])


def test_integers_beside_missing_counts_are_single_precision(adata):
    adata.X = np.where(np.random.default_rng(0).random(adata.shape) < 0.3, np.nan, adata.X.toarray())
    CountsDiffSC.setup_anndata(adata)
    train_tiny(adata, max_epochs=1).impute(estimate="sample", indices=[0, 1, 2])
    assert adata.layers["imputed"].dtype == np.float32
    assert np.isnan(adata.layers["imputed"].toarray()[3:]).any()


def test_draws_stay_when_something_else_is_imputed(masked_model, masked):
    masked_model.impute(estimate="sample", n_samples=3, seed=0)
    masked_model.impute()
    assert sorted(named_layers(masked)) == ["imputed", "imputed_0", "imputed_1", "imputed_2", "observed"]


def test_observed_counts_are_exact_in_an_average_of_many_runs():
    """A sum of 39 counts of a million is above 2^24, beyond which not every whole number is a float32."""
    adata = make_adata()
    observed = np.random.default_rng(0).random(adata.shape) < 0.7
    adata.X = sparse.csr_matrix(adata.X.multiply(observed) * np.float32(100_003.0))
    adata.layers["observed"] = observed
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed")
    mean = train_tiny(adata).get_imputed_counts(n_steps=2, n_samples=39, seed=0)
    np.testing.assert_array_equal(mean[observed], adata.X.toarray()[observed])


def test_a_record_is_about_all_cells_of_the_layer(masked_model, masked):
    masked_model.impute(seed=3, selection=1.0)
    masked_model.impute(seed=4, selection=0.0, indices=[1, 2])
    record = masked.uns["countsdiff_sc"]["imputed"]
    assert (record["seed"], record["n_cells"], record["others"]["seed"], record["others"]["n_cells"]) == (4, 2, 3, 60)
    masked_model.impute(seed=5, indices=[3])
    record = masked.uns["countsdiff_sc"]["imputed"]
    assert record["others"]["seed"] == 4
    assert "others" not in record["others"]
    masked_model.impute(seed=6)
    assert "others" not in masked.uns["countsdiff_sc"]["imputed"]


@pytest.mark.parametrize("zeros", [False, True], ids=["mask", "zeros"])
@pytest.mark.parametrize("estimate", ["mean", "sample"])
def test_cells_are_not_imputed_into_a_layer_that_was_changed(masked_model, masked, adata, zeros, estimate):
    """As by scanpy, which normalises and takes logarithms in place."""
    if zeros:
        masked = make_adata()
        CountsDiffSC.setup_anndata(masked)
        masked_model = train_tiny(masked, 1)
    masked_model.impute(estimate=estimate)
    masked.layers["imputed"] = masked.layers["imputed"] * 0.5
    with pytest.raises(
        ValueError, match=r"layers\['imputed'\] was changed since it was imputed: cell 'cell1', gene.*another layer"
    ):
        masked_model.impute(estimate=estimate, indices=[0])
    masked_model.impute(estimate=estimate)  # all of them
    masked_model.impute(estimate=estimate, indices=[0])


def test_cells_of_the_other_kind_are_not_lost_without_a_word(masked_model, masked):
    masked_model.impute()
    with pytest.warns(
        UserWarning, match="held means, and now holds counts. What was imputed in 59 other cells is gone"
    ):
        masked_model.impute(estimate="sample", indices=[0])
    np.testing.assert_array_equal(masked.layers["imputed"][1:].toarray(), masked.X.toarray()[1:])


def test_attrition_by_gene_is_recorded(masked_model, masked, tmp_path):
    by_gene = np.linspace(0.0, 1.0, 20, dtype=np.float32)
    masked_model.impute(estimate="sample", n_steps=2, attrition=by_gene)
    masked.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(masked.uns["countsdiff_sc"]["imputed"]["attrition"], by_gene)
    masked_model.impute(estimate="sample", n_steps=2, attrition=np.tile(by_gene, (60, 1)))
    assert masked.uns["countsdiff_sc"]["imputed"]["attrition"].startswith("array of shape (60, 20), SHA-256 ")
