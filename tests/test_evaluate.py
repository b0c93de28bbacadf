"""How well a model like this one would do."""

import numpy as np
import pytest
from helpers import QUIET, TINY, train_tiny

from countsdiff_sc import CountsDiffSC, evaluation
from countsdiff_sc.nn import GeneSetTransformer


def test_evaluate_trains_a_model_like_this_one_and_leaves_the_data_alone(masked_model, masked):
    before = masked.copy()
    table = masked_model.evaluate(
        mechanism="mnar_low", fraction=0.3, n_samples=2, seed=[1, 5], max_epochs=1, accelerator="cpu", **QUIET
    )
    methods = [
        "zeros",
        "gene mean x depth",
        "label mean x depth",
        "nearest neighbours",
        "low rank",
        "CountsDiffSC",
        "CountsDiffSC, no labels",
    ]
    assert list(table["method"]) == 2 * methods
    assert list(table["seed"]) == [1] * 7 + [5] * 7
    assert set(table["mechanism"]) == {"mnar_low"}
    assert set(table["fraction"]) == {0.3}
    assert np.isfinite(table[["poisson_deviance", "rmse_log1p", "rmse", "mae", "bias", "r2"]].to_numpy()).all()
    ours = table["method"].str.startswith("CountsDiffSC")
    drawn = table.loc[:, "zero_fraction_error":]
    assert np.isfinite(drawn[ours].to_numpy()).all()
    assert drawn[~ours].isna().all(axis=None)
    assert (masked.X != before.X).nnz == 0
    assert list(masked.layers) == list(before.layers)


def test_evaluate_without_labels_or_draws_has_one_row_of_the_model(adata):
    model = train_tiny(adata, max_epochs=1)
    table = model.evaluate(baselines=["zeros"], n_samples=0, max_epochs=1, accelerator="cpu", **QUIET)
    assert list(table["method"]) == ["zeros", "CountsDiffSC"]
    assert "energy_distance" not in table


def test_evaluate_refuses_what_it_does_not_know(masked_model, mdata):
    with pytest.raises(ValueError, match="mechanism='mnar'"):
        masked_model.evaluate(mechanism="mnar")
    with pytest.raises(ValueError, match="baselines='magic'"):
        masked_model.evaluate(baselines=["magic"])
    with pytest.raises(ValueError, match="seed is empty"):
        masked_model.evaluate(seed=[])
    with pytest.raises(ValueError, match="n_samples"):
        masked_model.evaluate(n_samples=-1)
    with pytest.raises(TypeError, match="takes an AnnData"):
        masked_model.evaluate(mdata)


def test_evaluation_needs_the_labels(masked_model, masked):
    other = masked.copy()
    del other.obs["cell_type"]
    for judge in (masked_model.evaluate, lambda data: evaluation.null_check(masked_model, data)):
        with pytest.raises(KeyError, match="has no column 'cell_type'.* must be there. Add the column"):
            judge(other)


def test_constructor_arguments_survive_evaluation(adata):
    model = train_tiny(adata, schedule="blackout", ema_decay=0.5, max_epochs=1)
    arguments = model._constructor_arguments()
    assert arguments["schedule"] == "blackout"
    assert arguments["n_tokens"] == TINY["n_tokens"]
    assert arguments["ema_decay"] == 0.5


def test_evaluate_leaves_the_original_registered(masked):
    model = train_tiny(masked)
    model.evaluate(baselines=[], max_epochs=1, accelerator="cpu", **QUIET)
    CountsDiffSC(masked, **TINY)


def test_evaluate_refuses_a_denoiser_that_has_seen_the_data(masked):
    model = CountsDiffSC(masked, denoiser=GeneSetTransformer(20, n_tokens=2, width=8, n_layers=1))
    with pytest.raises(TypeError, match="needs a new denoiser"):
        model.evaluate()
