"""scVI is given the posterior of what is visible, and leaves no trace."""

import logging

import numpy as np
import pytest
import scvi
import torch
from helpers import make_counts

from countsdiff_sc import evaluation

COUNTS = make_counts(n_obs=257)  # a last minibatch of one cell, were they of 128
OBSERVED = evaluation.mcar(COUNTS, 0.4, seed=0)
EVERYTHING = np.ones(COUNTS.shape, dtype=bool)
SMALL = {"n_latent": 2, "n_hidden": 16}
TRAINED = {"max_epochs": 60, "n_latent": 2, "n_hidden": 64}


@pytest.fixture(scope="module")
def imputer():
    return evaluation.ScviImputer(**TRAINED).fit(COUNTS, OBSERVED)


def test_it_learns_at_the_right_scale_and_draws_agree_with_means(imputer):
    hidden = ~OBSERVED
    mean, draws = imputer.impute(COUNTS, OBSERVED), imputer.draw(COUNTS, OBSERVED, n_samples=20)
    simple = evaluation.gene_mean_x_depth(COUNTS, OBSERVED)
    deviance = [evaluation.poisson_deviance(COUNTS[hidden], of[hidden]) for of in (mean, simple)]
    assert deviance[0] < 0.9 * deviance[1]
    # Though 0.4 of what it was trained on are zeros in place of counts.
    assert mean[hidden].mean() == pytest.approx(COUNTS[hidden].mean(), rel=0.1)
    assert draws[:, hidden].mean() == pytest.approx(mean[hidden].mean(), rel=0.1)
    assert draws[:, hidden].var() > mean[hidden].var()


def test_the_library_size_does_not_depend_on_how_much_is_visible():
    imputer = evaluation.ScviImputer(**TRAINED).fit(COUNTS, EVERYTHING)
    for fraction in (0.2, 0.8):
        observed = evaluation.mcar(COUNTS, fraction, seed=1)
        mean = imputer.impute(COUNTS, observed)
        assert mean[~observed].mean() == pytest.approx(COUNTS[~observed].mean(), rel=0.15)


def test_genes_hidden_more_often_in_training_are_not_taken_for_rare_ones():
    observed = EVERYTHING.copy()
    observed[:, :10] = evaluation.mcar(COUNTS[:, :10], 0.8, seed=0)
    mean = evaluation.ScviImputer(**TRAINED).fit(COUNTS, observed).impute(COUNTS, observed)
    assert mean[~observed].mean() == pytest.approx(COUNTS[~observed].mean(), rel=0.2)


def test_observed_counts_are_kept_and_draws_are_whole(imputer):
    draws = imputer.draw(COUNTS, OBSERVED, n_samples=2)
    assert draws.shape == (2, *COUNTS.shape)
    assert (draws == np.rint(draws)).all()
    for imputed in (*draws, imputer.impute(COUNTS, OBSERVED)):
        np.testing.assert_array_equal(imputed[OBSERVED], COUNTS[OBSERVED])
    assert np.isfinite(imputer.impute(COUNTS, ~EVERYTHING)).all()


@pytest.mark.parametrize("gene_likelihood", ["nb", "zinb", "poisson"])
def test_hidden_counts_are_never_read(gene_likelihood):
    both, observed = [], OBSERVED[:40]
    for counts in (COUNTS[:40], np.where(observed, COUNTS[:40], np.nan)):
        imputer = evaluation.ScviImputer(max_epochs=1, gene_likelihood=gene_likelihood, **SMALL).fit(counts, observed)
        both.append((imputer.impute(counts, observed), imputer.draw(counts, observed)))
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()


def test_seeds_decide_quietly_and_random_states_are_left_alone(imputer, caplog, capsys):
    scvi.settings.seed = 7
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    caplog.clear()
    capsys.readouterr()
    with caplog.at_level(logging.INFO):
        again = evaluation.ScviImputer(**TRAINED).fit(COUNTS, OBSERVED)
        np.testing.assert_array_equal(again.impute(COUNTS, OBSERVED), imputer.impute(COUNTS, OBSERVED))
        draws = [imputer.draw(COUNTS, OBSERVED, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    other = evaluation.ScviImputer(max_epochs=1, seed=1, **SMALL).fit(COUNTS, OBSERVED)
    assert (other.impute(COUNTS, OBSERVED) != again.impute(COUNTS, OBSERVED)).any()
    assert scvi.settings.seed == 7
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1))
    assert np.random.rand() == np.random.RandomState(1).rand()  # noqa: NPY002
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_cells_and_genes_without_visible_molecules():
    counts, observed = COUNTS[:9].copy(), OBSERVED[:9].copy()
    counts[:, 2], observed[:, 3], observed[1], counts[2] = 0, False, False, 0
    imputer = evaluation.ScviImputer(max_epochs=1, **SMALL).fit(counts, observed)
    assert np.isfinite(imputer.impute(counts, observed)).all()


def test_arguments_out_of_range_and_wrong_data_are_refused(imputer):
    with pytest.raises(ValueError, match=r"gene_likelihood='normal' is not known\. .* Pass one"):
        evaluation.ScviImputer(gene_likelihood="normal")
    with pytest.raises(ValueError, match="max_epochs=0 is out of range"):
        evaluation.ScviImputer(max_epochs=0)
    with pytest.raises(ValueError, match="n_samples=0 is out of range"):
        imputer.draw(COUNTS, OBSERVED, n_samples=0)
    with pytest.raises(RuntimeError, match="This ScviImputer was not fitted"):
        evaluation.ScviImputer().impute(COUNTS, OBSERVED)
    with pytest.raises(ValueError, match="There are 1 cells .* needs at least 2 cells"):
        evaluation.ScviImputer().fit(COUNTS[:1], OBSERVED[:1])
    with pytest.raises(ValueError, match=r"counts has 19 genes"):
        imputer.impute(COUNTS[:, 1:], OBSERVED[:, 1:])
