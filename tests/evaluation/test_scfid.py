"""The Fréchet distance has its closed form, and one encoder, trained apart, judges every method."""

import logging

import numpy as np
import pytest
import scvi
import torch
from helpers import make_counts
from scipy import sparse
from scipy.linalg import sqrtm

from countsdiff_sc import evaluation
from countsdiff_sc.evaluation import frechet_distance

COUNTS = make_counts(n_obs=200)


def points_with(mean, covariance, n=40):
    """Points that have exactly this mean and covariance."""
    points = np.random.default_rng(0).normal(size=(n, len(mean)))
    points -= points.mean(0)
    whitened = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T, ddof=1))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


def test_closed_form_of_known_gaussians():
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    expected = 25.0 + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(points_with([0, 0], a), points_with([3, 4], b, n=50)) == pytest.approx(expected)
    # Of independent coordinates: the squared differences of the means and of the standard deviations.
    a, b = np.diag([4.0, 1.0]), np.diag([1.0, 9.0])
    assert frechet_distance(points_with([0, 0], a), points_with([1, 0], b)) == pytest.approx(1 + 1 + 4)


def test_symmetric_zero_on_the_same_points_and_real_if_covariances_are_singular():
    x, y = np.random.default_rng(1).normal(size=(2, 6, 10))  # fewer points than dimensions
    assert frechet_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-12)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    assert frechet_distance(x, y) > 0
    assert frechet_distance(np.zeros((5, 3)), np.full((4, 3), 2.0)) == pytest.approx(12.0)


@pytest.mark.parametrize(("x", "y"), [((5, 3), (5, 2)), ((1, 3), (5, 3)), ((5,), (5,))])
def test_points_that_cannot_be_compared_are_refused(x, y):
    with pytest.raises(ValueError, match="The points have shapes .* need at least 2 rows .* Encode both"):
        frechet_distance(np.ones(x), np.ones(y))


@pytest.fixture(scope="module")
def scfid():
    return evaluation.ScFID(COUNTS[:130], n_latent=3, max_epochs=3)  # a last minibatch of two cells


def test_scfid_is_zero_for_the_same_cells_and_grows_with_the_error(scfid):
    truth = COUNTS[130:]
    values = [scfid.distance(truth, np.rint(truth * scale)) for scale in (1, 2, 8)]
    assert values[0] == pytest.approx(0.0, abs=1e-9)
    assert values[0] < values[1] < values[2]
    assert scfid.encode(truth).shape == (70, 3)
    assert scfid.distance(sparse.csr_matrix(truth), sparse.csr_array(truth[::-1])) == pytest.approx(0.0, abs=1e-5)
    assert scfid.distance(truth, truth[:50] + 0.5) > 0  # means, and fewer cells


def test_training_is_seeded_quiet_and_leaves_seed_and_random_states_alone(scfid, caplog, capsys):
    scvi.settings.seed = 7
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = evaluation.ScFID(COUNTS[:130], n_latent=3, max_epochs=3)
        np.testing.assert_array_equal(again.encode(COUNTS), scfid.encode(COUNTS))
    assert scvi.settings.seed == 7
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1))
    assert np.random.rand() == np.random.RandomState(1).rand()  # noqa: NPY002
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_a_last_minibatch_of_one_cell_is_trained_on():
    assert np.isfinite(evaluation.ScFID(COUNTS[:129], n_latent=2, max_epochs=1).encode(COUNTS)).all()


def test_counts_of_other_genes_or_too_few_cells_are_refused(scfid):
    with pytest.raises(ValueError, match=r"counts has shape \(200, 19\)\. .* the 20 training genes\. Pass"):
        scfid.distance(COUNTS, COUNTS[:, 1:])
    with pytest.raises(ValueError, match="counts has shape .* at least 2 cells"):
        scfid.distance(COUNTS[:1], COUNTS)
    with pytest.raises(ValueError, match=r"train_counts has shape \(20,\)"):
        evaluation.ScFID(COUNTS[0])
