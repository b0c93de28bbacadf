import matplotlib as mpl
import numpy as np
import pytest

from countsdiff_sc import CountsDiffSC, pl
from countsdiff_sc.evaluation import Holdout

mpl.use("Agg")


@pytest.mark.parametrize("largest", [0, 1, 3, 5000])
def test_imputed_against_true_draws_one_box_per_group(largest):
    rng = np.random.default_rng(0)
    truth = np.minimum(rng.poisson(largest / 2, 500), largest)
    ax = pl.imputed_against_true(truth, truth + rng.random(500))
    assert ax.get_xlabel().startswith("hidden count")
    assert len(ax.get_xticks()) >= 1


@pytest.mark.parametrize("n", [0, 3])
def test_few_hidden_entries_make_an_empty_picture(n):
    ax = pl.imputed_against_true(np.arange(n), np.arange(n) + 0.5)
    assert len(ax.get_xticks()) == 0


def test_truth_and_prediction_are_of_one_shape():
    with pytest.raises(ValueError, match=r"mean has shape \(3,\) and truth \(4,\)"):
        pl.imputed_against_true(np.arange(4), np.arange(3))


def test_report_has_the_training_curve_and_the_hidden_entries(masked_model):
    truth = np.arange(20.0)
    figure = pl.report(Holdout(masked_model, truth, truth, None))
    assert [ax.get_title() for ax in figure.axes] == ["Training", "Hidden entries"]
    assert len(figure.axes[0].lines) == 2


def test_a_curve_needs_training(masked):
    with pytest.raises(RuntimeError, match="not trained"):
        pl.training_curve(CountsDiffSC(masked))
