"""With the exact denoiser the bound is the log-probability, cell by cell; with any other it is less."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from exact import exact_model
from helpers import make_adata, train_tiny
from laws import nb
from scipy import sparse, stats

from countsdiff_sc import CountsDiffSC

MEAN, DISPERSION = [0.3, 3.7, 40.0], 1.11
PROFILE, CONCENTRATION = np.array([5.0, 20.0, 0.5, 60.0]), 3.0
POISSON = float(np.exp(8))  # the largest inverse dispersion that a denoiser predicts


def log_prob_of_depth(counts):
    """Poisson genes of a Gamma depth: a negative binomial number of molecules, spread by a multinomial law."""
    total = counts.sum(-1)
    of_total = nb(PROFILE.sum(), CONCENTRATION).logpmf(total)
    return of_total + stats.multinomial.logpmf(counts, total, PROFILE / PROFILE.sum())


def cells(counts):
    return AnnData(counts.astype(np.float32), var=pd.DataFrame(index=[str(i) for i in range(counts.shape[1])]))


@pytest.mark.parametrize("schedule", ["cosine", "blackout", "jump"])
def test_exact_denoiser_gives_the_log_probability_of_each_cell(schedule):
    model = exact_model(MEAN, DISPERSION, schedule=schedule)
    law = [nb(mean, DISPERSION) for mean in MEAN]
    counts = np.stack([each.rvs(500, random_state=i) for i, each in enumerate(law)], axis=1)
    table = model.get_elbo(cells(counts), n_times=2, seed=0)
    log_prob = sum(each.logpmf(counts[:, i]) for i, each in enumerate(law))
    np.testing.assert_allclose(table["elbo"], log_prob, atol=1e-3)  # nothing is left to estimate


def test_depth_that_is_inferred_is_part_of_the_law():
    """Poisson genes of a Gamma depth: the bound is the log-probability of each cell, though no gene is independent."""
    model = exact_model(PROFILE, POISSON, depth_concentration=CONCENTRATION)
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(CONCENTRATION, 1 / CONCENTRATION, (1000, 1)) * PROFILE)
    table, log_prob = model.get_elbo(cells(counts), seed=0), log_prob_of_depth(counts)
    error = np.sqrt((table["standard_error"] ** 2).sum()) / len(table)
    assert error < 0.02
    assert (table["elbo"] - log_prob).mean() == pytest.approx(0.0, abs=4 * error)
    z = (table["elbo"] - log_prob) / table["standard_error"]
    assert np.median(np.abs(z)) == pytest.approx(0.67, abs=0.1)  # as of a standard normal


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_denoiser_gives_less_than_the_log_probability(factor):
    counts = np.stack([nb(mean, DISPERSION).rvs(500, random_state=i) for i, mean in enumerate(MEAN)], axis=1)
    right, wrong = (
        exact_model(np.array(MEAN) * by, DISPERSION).get_elbo(cells(counts), seed=0)["elbo"].mean()
        for by in (1, factor)
    )
    assert wrong < right - 0.3


def test_one_interval_is_unbiased_and_more_are_more_exact():
    model, counts = exact_model(PROFILE, POISSON, depth_concentration=CONCENTRATION), np.array([5, 35, 0, 70])
    same = cells(np.tile(counts, (2000, 1)))
    tables = [model.get_elbo(same, n_times=n_times, seed=0) for n_times in (1, 16)]
    for table in tables:
        assert table["elbo"].mean() == pytest.approx(log_prob_of_depth(counts), abs=4 * table["elbo"].std() / 2000**0.5)
        assert np.sqrt((table["standard_error"] ** 2).mean()) == pytest.approx(table["elbo"].std(), rel=0.2)
    assert tables[1]["elbo"].std() < tables[0]["elbo"].std() / 3


def test_missing_entries_are_left_out():
    model = exact_model(MEAN, DISPERSION)
    counts = np.tile([1.0, 3.0, np.nan], (9, 1))
    log_prob = nb(MEAN[0], DISPERSION).logpmf(1) + nb(MEAN[1], DISPERSION).logpmf(3)
    np.testing.assert_allclose(model.get_elbo(cells(counts), n_times=2)["elbo"], log_prob, atol=1e-3)


def test_a_row_per_cell_in_the_order_of_indices(masked_model, masked):
    table = masked_model.get_elbo(seed=0)
    assert list(table.columns) == ["elbo", "standard_error"]
    assert list(table.index) == list(masked.obs_names)
    assert np.isfinite(table).all(axis=None)
    assert (table["elbo"] < 0).all()
    some = masked_model.get_elbo(indices=[7, 3, 5], seed=0)
    assert list(some.index) == ["cell7", "cell3", "cell5"]
    again = masked_model.get_elbo(indices=[3, 5, 7], seed=0)
    pd.testing.assert_frame_equal(some.loc[again.index], again)
    assert len(masked_model.get_elbo(batch_size=16, n_times=2)) == 60


def test_seeds_decide_and_nothing_else_is_touched(masked_model, masked):
    before = masked.copy()
    first, same, other = (masked_model.get_elbo(n_times=2, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, same)
    assert not np.array_equal(first["elbo"], other["elbo"])
    assert list(masked.layers) == list(before.layers)
    assert "countsdiff_sc" not in masked.uns


def test_new_data_and_mudata(masked_model, mdata):
    new = make_adata(n_obs=9, seed=5)
    new.layers["observed"] = sparse.csr_matrix(np.ones(new.shape, dtype=bool))
    assert len(masked_model.get_elbo(new, n_times=2)) == 9
    CountsDiffSC.setup_mudata(mdata)
    assert len(train_tiny(mdata, max_epochs=1).get_elbo(n_times=2)) == 60


def test_errors(masked_model, masked):
    with pytest.raises(RuntimeError, match="not trained. Only a trained model can bound a likelihood. Call"):
        CountsDiffSC(masked).get_elbo()
    with pytest.raises(ValueError, match="n_times=0 is out of range"):
        masked_model.get_elbo(n_times=0)
    with pytest.raises(TypeError, match="n_times=1.5 is a float"):
        masked_model.get_elbo(n_times=1.5)
    with pytest.raises(ValueError, match="does not select cells"):
        masked_model.get_elbo(indices=[99])
    with pytest.raises(ValueError, match="batch_size=0 is out of range"):
        masked_model.get_elbo(batch_size=0)
    with pytest.raises(TypeError, match="seed=0.5 is a float"):
        masked_model.get_elbo(seed=0.5)
