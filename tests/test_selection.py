"""Counts that are missing because of what they are: told from the mask, and allowed for."""

import anndata as ad
import numpy as np
import pytest
from helpers import make_adata, train_tiny
from scipy import sparse

from countsdiff_sc import CountsDiffSC, _imputation_mixin, evaluation


@pytest.fixture(scope="module")
def selective():
    """A model that has learned what cell types express, and other cells of the same law."""
    adata = make_adata(n_obs=1000, n_vars=100, seed=1)
    train, test = adata[:700].copy(), adata[700:].copy()
    CountsDiffSC.setup_anndata(train)
    return train_tiny(train, max_epochs=50, n_members=1), test


def imputed_under(selective, mechanism, **kwargs):
    """Means at hidden entries, the truth there, and the strength that was recorded."""
    model, test = selective
    observed = mechanism(test.X, 0.3, seed=0)
    copy = test.copy()
    model.impute(copy, observed_mask=observed, **kwargs)
    selection = copy.uns["countsdiff_sc"]["imputed"]["selection"]
    return copy.layers["imputed"][~observed], test.X.toarray()[~observed], selection


@pytest.mark.parametrize(("mechanism", "direction"), [(evaluation.mnar_low, 1.0), (evaluation.mnar_high, -1.0)])
def test_what_is_missing_for_what_it_is_is_imputed_better_for_it(selective, mechanism, direction):
    mean, truth, selection = imputed_under(selective, mechanism)
    at_random, *_ = imputed_under(selective, mechanism, selection=0)
    assert direction * selection > 1.0
    assert evaluation.poisson_deviance(truth, mean) < 0.95 * evaluation.poisson_deviance(truth, at_random)
    assert direction * (at_random.mean() - truth.mean()) > 2.0 * direction * (mean.mean() - truth.mean())


@pytest.mark.parametrize("mechanism", [evaluation.mcar, evaluation.mar, evaluation.panel])
def test_at_random_nothing_is_allowed_for(selective, mechanism):
    mean, _, selection = imputed_under(selective, mechanism)
    assert selection == 0.0
    np.testing.assert_array_equal(mean, imputed_under(selective, mechanism, selection=0)[0])


def test_a_selection_that_is_given_is_taken(selective):
    means = [imputed_under(selective, evaluation.mcar, selection=strength)[0].mean() for strength in (-6, 0, 6)]
    assert means == sorted(means, reverse=True)
    assert imputed_under(selective, evaluation.mcar, selection=-6)[2] == -6


def test_the_estimate_does_not_depend_on_what_is_drawn(selective):
    first, second, in_small_blocks = (
        imputed_under(selective, evaluation.mnar_low, estimate="sample", seed=seed, batch_size=size)[2]
        for seed, size in ((0, 100), (1, 100), (1, 7))
    )
    assert first == second
    assert in_small_blocks == pytest.approx(first, rel=1e-5)  # products of other sizes are rounded otherwise


@pytest.mark.parametrize("n_steps", [1, 4])
def test_draws_are_taken_under_the_selection_as_well(selective, n_steps):
    drawn, truth, _ = imputed_under(selective, evaluation.mnar_low, estimate="sample", n_steps=n_steps)
    blind, *_ = imputed_under(selective, evaluation.mnar_low, estimate="sample", n_steps=n_steps, selection=0)
    assert abs(drawn.mean() - truth.mean()) < 0.7 * abs(blind.mean() - truth.mean())


@pytest.mark.parametrize("arguments", [{}, {"conditioning": "remask", "n_steps": 2}])
def test_where_no_network_sees_a_mask_there_is_no_selection(adata, arguments):
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata)
    other = make_adata(seed=3)
    mask = evaluation.mnar_low(other.X, 0.3, seed=0) if arguments else None
    for given in ({}, {"selection": 0}):
        model.impute(other, observed_mask=mask, **arguments, **given)
        assert other.uns["countsdiff_sc"]["imputed"]["selection"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"selection": 9}, ValueError, "selection=9 is out of range"),
        ({"selection": "low"}, TypeError, "selection='low' is a str"),
        (
            {"selection": 1.0, "conditioning": "remask"},
            ValueError,
            "selection=1.0 was given with conditioning='remask'. A network that .* Leave one",
        ),
        ({"selection": 1.0}, ValueError, "selection=1.0 was given, but no count is missing: .* Pass observed_mask"),
    ],
)
def test_wrong_selections(adata, arguments, error, message):
    CountsDiffSC.setup_anndata(adata)
    model = train_tiny(adata)
    with pytest.raises(error, match=message):
        model.impute(adata, **arguments)
    assert "imputed" not in adata.layers


def test_some_of_the_cells_tell_and_the_masks_are_their_own(selective, monkeypatch, tmp_path):
    """However few of them are looked at, in memory as on disk, and with a mask that is dense or sparse."""
    monkeypatch.setattr(_imputation_mixin, "SELECTION_ENTRIES", 6000)
    model, test = selective
    copy = test.copy()
    order = np.argsort(np.asarray(copy.X.sum(1)).ravel())  # neighbours have masks alike
    copy = copy[order].copy()
    observed = evaluation.mnar_low(copy.X, 0.3, seed=0)
    copy.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    found = [
        model.get_imputed_counts(data, observed_mask=mask)
        for data, mask in ((copy, observed), (backed, observed), (copy, sparse.csr_matrix(observed)))
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    imputed = copy.copy()
    model.impute(imputed, observed_mask=observed)
    selection = imputed.uns["countsdiff_sc"]["imputed"]["selection"]
    assert selection > 1.0
    np.testing.assert_array_equal(found[0], imputed.layers["imputed"])


@pytest.mark.parametrize(("strength", "message"), [(8.0, "low counts .* too high"), (-8.0, "high counts .* too low")])
def test_a_selection_at_its_limit_is_said(selective, monkeypatch, strength, message):
    monkeypatch.setattr(_imputation_mixin, "estimated_selection", lambda *_: (strength,))
    with pytest.warns(UserWarning, match=message):
        imputed_under(selective, evaluation.mcar)
    imputed_under(selective, evaluation.mcar, selection=strength)  # no warning, which would be an error


def test_nothing_missing_is_no_selection(selective):
    model, test = selective
    copy = test.copy()
    with pytest.warns(UserWarning, match="Nothing is missing"):
        model.impute(copy, observed_mask=np.ones(copy.shape, dtype=bool))
    assert copy.uns["countsdiff_sc"]["imputed"]["selection"] == 0.0
