"""Every sampling option reaches the sampler from the model class, by the same name and with the same meaning."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from exact import exact_model
from helpers import QUIET, TINY, make_adata, train_tiny
from laws import assert_law, nb
from scipy import sparse, stats

from countsdiff_sc import CountsDiffSC, _imputation
from countsdiff_sc.process import product_guidance

MEAN, DISPERSION = 3.7, 1.11
CONDITIONS = {
    "labels_key": "cell_type",
    "batch_key": "batch",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["percent_mito"],
}
NAMES = ["batch", "cell_type", "donor", "percent_mito"]


@pytest.fixture(scope="module")
def data():
    adata = make_adata()
    adata.layers["observed"] = np.random.default_rng(1).random(adata.shape) < 0.7
    CountsDiffSC.setup_anndata(adata, observed_mask_layer="observed", **CONDITIONS)
    return adata


@pytest.fixture(scope="module")
def model(data):
    model = train_tiny(data, max_epochs=1)
    model.train(30, accelerator="cpu", plan_kwargs={"lr": 3e-2}, **QUIET)  # until conditions matter
    return model


@pytest.fixture(scope="module")
def hidden(data):
    return ~data.layers["observed"]


def exact_cells(n_obs=4000, n_vars=4):
    """An exact model, and cells of which every other entry is missing."""
    model = exact_model([MEAN] * n_vars, DISPERSION)
    cells = make_adata(n_obs, n_vars)
    cells.var_names = [str(i) for i in range(n_vars)]
    counts = np.random.default_rng(0).poisson(MEAN, cells.shape).astype(np.float32)
    counts[:, ::2] = np.nan
    cells.X = counts
    return model, cells


def n_passes(model, call):
    """Network passes that a call takes."""
    calls = []
    hook = model.module.ema.module.register_forward_hook(lambda *_: calls.append(1))
    call()
    hook.remove()
    return len(calls)


# --- births ---


@pytest.mark.parametrize(
    ("births", "law"),
    [
        ("negative_binomial", nb(MEAN, DISPERSION)),
        ("poisson", stats.poisson(MEAN)),
        ("stochastic", stats.rv_discrete(values=([3, 4], [0.3, 0.7]))),
        ("nearest", stats.rv_discrete(values=([4], [1.0]))),
        (lambda mean, dispersion, generator: mean.floor(), stats.rv_discrete(values=([3], [1.0]))),
    ],
)
def test_one_step_draws_by_the_rule(births, law):
    model, cells = exact_cells()
    options = {"estimate": "sample", "births": births, "seed": 0}
    draw = model.get_imputed_counts(cells, **options).toarray()
    assert_law(draw[:, ::2], law)
    n_blocks = n_passes(model, lambda: model.get_imputed_counts(cells, n_samples=3, selection=0, **options))
    assert n_blocks == 4
    # Its quantiles are those of draws, and the mean that of the network whatever the rule.
    low, high = model.get_imputed_counts(cells, quantiles=(0.05, 0.95), births=births, seed=0)
    if births != "negative_binomial":
        assert abs(np.median(low.toarray()[:, ::2]) - law.ppf(0.05)) <= 1
        assert abs(np.median(high.toarray()[:, ::2]) - law.ppf(0.95)) <= 1
    np.testing.assert_allclose(model.get_imputed_counts(cells, births=births)[:, ::2], MEAN, rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["observed", "remask"])
def test_births_of_several_steps(conditioning):
    model, cells = exact_cells()
    draws = {
        births: model.get_imputed_counts(
            cells, estimate="sample", births=births, n_steps=10, conditioning=conditioning, seed=0
        ).toarray()[:, ::2]
        for births in ("negative_binomial", "stochastic")
    }
    assert_law(draws["negative_binomial"], nb(MEAN, DISPERSION))
    assert draws["stochastic"].var() == pytest.approx(
        11.15, rel=0.1
    )  # by enumeration, see tests/process/test_samplers.py


# --- attrition ---


@pytest.mark.parametrize("conditioning", ["observed", "remask"])
@pytest.mark.parametrize("by", ["gene", "entry", "callable"])
def test_attrition_by_gene_and_by_entry_keeps_the_law(conditioning, by):
    model, cells = exact_cells()
    by_entry = np.random.default_rng(0).random(cells.shape)
    attrition = {"gene": [0.0, 0.4, 1.0, 0.7], "entry": by_entry, "callable": lambda p_s, p_t: torch.rand(4) * p_s}[by]
    options = {"estimate": "sample", "n_steps": 5, "conditioning": conditioning, "attrition": attrition, "seed": 0}
    assert_law(model.get_imputed_counts(cells, **options).toarray()[:, ::2], nb(MEAN, DISPERSION))
    if conditioning == "observed":
        cells = model.sample(4000, n_steps=5, attrition=attrition, seed=0)
        assert_law(cells.X.toarray(), nb(MEAN, DISPERSION))


def test_attrition_by_entry_follows_the_cells(model, data, monkeypatch):
    """The rows of an array are those of the data whatever cells are asked for, in whatever blocks."""
    seen, sample = [], _imputation.sample_conditioned

    def recording(denoise, x, *arguments, attrition, **options):
        seen.append((attrition, x))
        return sample(denoise, x, *arguments, attrition=attrition, **options)

    monkeypatch.setattr(_imputation, "sample_conditioned", recording)
    attrition = np.repeat(np.arange(data.n_obs)[:, None] / 100, data.n_vars, axis=1)
    options = {"n_steps": 2, "attrition": attrition, "batch_size": 3}
    model.get_imputed_counts(estimate="sample", indices=[7, 3, 50, 20], **options)
    cells = (100 * torch.cat([attrition for attrition, _ in seen])[:, 0]).round().long()
    assert sorted(cells.tolist()) == [3, 7, 20, 50]  # blocks may come in any order
    visible = data.X.toarray() * data.layers["observed"]
    np.testing.assert_array_equal(torch.cat([x for _, x in seen]), visible[cells])


# --- guidance ---


def test_conditions_go_by_the_columns_of_obs(model):
    assert list(model.module.condition_names) == NAMES


def passes_of(model, scale, method="impute"):
    calls = {
        "impute": lambda: model.get_imputed_counts(guidance_scale=scale, selection=0, seed=0),
        "sample": lambda: model.sample(5, guidance_scale=scale, n_steps=2, seed=0),
    }
    return n_passes(model, calls[method]) // (1 if method == "impute" else 2)


@pytest.mark.parametrize("method", ["impute", "sample"])
def test_only_scales_other_than_one_cost_a_pass(model, method):
    assert passes_of(model, 1.0, method) == 1
    assert passes_of(model, {}, method) == 1
    assert passes_of(model, dict.fromkeys(NAMES, 1.0), method) == 1
    assert passes_of(model, {"cell_type": 2.0, "donor": 1}, method) == 2
    assert passes_of(model, {"cell_type": 2.0, "percent_mito": 0.0}, method) == 3
    assert passes_of(model, 2.0, method) == 2


def test_scales_multiply_what_each_condition_adds(model, data, hidden):
    """The formula, from predictions with conditions hidden by hand."""
    scales = {"cell_type": 2.5, "donor": 0.3, "percent_mito": 0.0}
    with torch.inference_mode():
        module = model.module.eval()
        tensors = next(iter(model._make_data_loader(adata=data, batch_size=data.n_obs)))
        x, observed = module.counts_and_known(tensors)
        conditions, one = module.conditions(tensors), torch.ones(())

        def rate(*dropped):
            drop = torch.tensor([[name in dropped for name in NAMES]])
            return module.bind(observed, conditions.dropped(drop))(x, one)[0]

        guided = product_guidance(rate(), [(rate(name), scale) for name, scale in scales.items()])
    result = model.get_imputed_counts(guidance_scale=scales)
    np.testing.assert_allclose(result[hidden], guided.numpy()[hidden], rtol=1e-4)
    assert not np.allclose(result[hidden], model.get_imputed_counts()[hidden], rtol=1e-2)


def test_scale_zero_takes_one_condition_out_and_leaves_the_others(model, data, hidden):
    without = model.get_imputed_counts(guidance_scale={"cell_type": 0.0})
    unlabelled = data.copy()
    unlabelled.obs["cell_type"] = pd.Categorical(["unknown"] * data.n_obs)
    np.testing.assert_allclose(without[hidden], model.get_imputed_counts(unlabelled)[hidden], rtol=1e-4)
    # An unknown condition says nothing, so no scale changes anything.
    exaggerated = model.get_imputed_counts(unlabelled, guidance_scale={"cell_type": 5.0})
    np.testing.assert_allclose(exaggerated[hidden], without[hidden], rtol=1e-4)


def test_extreme_guidance_leaves_what_was_observed():
    """Where zeros are imputed the counts beside them are predicted too, possibly as infinite."""
    adata = make_adata()
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    model = train_tiny(adata)
    model.train(30, accelerator="cpu", plan_kwargs={"lr": 3e-2}, **QUIET)  # until labels matter
    counts = model.adata.X.toarray() if sparse.issparse(model.adata.X) else np.asarray(model.adata.X)
    mean = model.get_imputed_counts(guidance_scale=10.0)
    np.testing.assert_array_equal(mean[counts > 0], counts[counts > 0])
    for options in ({}, {"n_steps": 2}, {"estimate": "median"}):
        with pytest.raises(ValueError, match="not finite.*above 2\\^24.*Lower guidance_scale"):
            model.get_imputed_counts(guidance_scale=1e6, **options)


# --- one network for each cell ---


@pytest.mark.parametrize("n_cells", [1, 2, 4, 5, 60])
def test_cells_are_dealt_out_to_the_networks_at_random(data, n_cells):
    """5 chi-square tests at a false-alarm rate of 1e-4."""
    module = CountsDiffSC(data, n_members=3, **TINY).module
    generator = torch.Generator().manual_seed(0)
    size, networks = -(-n_cells // 3), []
    for _ in range(600):
        cells, places = module._dealt(n_cells, generator)
        assert len(cells) == 3 * size
        assert torch.equal(cells[places], torch.arange(n_cells))
        assert torch.bincount(places // size, minlength=3).max() <= size
        networks.append(int(places[n_cells // 2]) // size)
    assert stats.chisquare(np.bincount(networks, minlength=3)).pvalue > 1e-4


@pytest.mark.parametrize("n_cells", [1, 4, 60])
def test_in_a_run_each_cell_follows_one_network(data, n_cells):
    """Chosen anew in each run; a call for the mixture is the average of all."""
    model = train_tiny(data, n_members=3)
    module = model.module.eval()
    conditions = module.conditions(next(iter(model._make_data_loader(adata=data, batch_size=data.n_obs))))[:n_cells]
    x_t, one = torch.zeros(n_cells, data.n_vars), torch.ones(())
    observed = torch.zeros_like(x_t, dtype=torch.bool)
    with torch.inference_mode():
        mixture, _ = module.bind(observed, conditions)(x_t, one)
        # Which network is whose shows in the law, and any other cell's network would predict something else.
        runs = [module.bind(observed, conditions, generator=torch.Generator().manual_seed(seed)) for seed in range(40)]
        means = torch.stack([denoise(x_t, one)[0] for denoise in runs])
        torch.testing.assert_close(runs[0](x_t, one)[0], means[0])
    for cell in range(0, n_cells, 7):
        laws = torch.unique(means[:, cell].round(decimals=5), dim=0)
        assert len(laws) == 3  # 40 runs miss one of three networks with probability 3e-7
        torch.testing.assert_close(laws.mean(0), mixture[cell], rtol=1e-3, atol=1e-5)


# --- resampling and known paths ---


@pytest.mark.parametrize(("known_path", "n_resample"), product(["fresh", "coherent"], [1, 3]))
def test_remasking_options_reach_the_sampler(known_path, n_resample):
    model, cells = exact_cells()
    options = {"conditioning": "remask", "n_steps": 4, "known_path": known_path, "n_resample": n_resample}
    options |= {"resample_window": 2} if n_resample > 1 else {}
    draw = model.get_imputed_counts(cells, estimate="sample", seed=0, **options).toarray()
    np.testing.assert_array_equal(draw[:, 1::2], cells.X[:, 1::2])
    assert_law(draw[:, ::2], nb(MEAN, DISPERSION))
    few = cells[:10].copy()
    assert n_passes(model, lambda: model.get_imputed_counts(few, estimate="sample", **options)) == 1 + 3 * n_resample
    mean = model.get_imputed_counts(few, **options)
    assert (mean[:, ::2] > 0).all()


def test_the_record_has_every_option(model, data):
    new = data.copy()
    model.impute(
        new,
        conditioning="remask",
        n_steps=3,
        n_resample=2,
        resample_window=2,
        known_path="coherent",
        births="poisson",
        guidance_scale={"donor": 0.5},
        attrition=np.full(data.n_vars, 0.25),
        seed=0,
    )
    record = new.uns["countsdiff_sc"]["imputed"]
    assert {key: record[key] for key in ("n_resample", "resample_window", "known_path", "births")} == {
        "n_resample": 2,
        "resample_window": 2,
        "known_path": "coherent",
        "births": "poisson",
    }
    assert record["guidance_scale"] == "{'donor': 0.5}"
    np.testing.assert_array_equal(record["attrition"], np.full(data.n_vars, np.float32(0.25)))


# --- errors ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"n_resample": 2},
            ValueError,
            "n_resample=2 was given with conditioning='observed'. It says .* Pass that, or",
        ),
        ({"resample_window": 2}, ValueError, "resample_window=2 was given with conditioning='observed'"),
        ({"known_path": "coherent"}, ValueError, "known_path='coherent' was given with conditioning='observed'"),
        (
            {"conditioning": "remask", "n_resample": 2, "n_steps": 1},
            ValueError,
            "n_resample=2 was given with n_steps=1. The first .* Pass n_steps of at least 2",
        ),
        (
            {"conditioning": "remask", "resample_window": 3},
            ValueError,
            "resample_window=3 was given with n_resample=1. A window .* Pass for example n_resample=2",
        ),
        ({"conditioning": "remask", "n_resample": 0}, ValueError, "n_resample=0 is out of range"),
        ({"conditioning": "remask", "resample_window": 1.5}, TypeError, "resample_window=1.5 is a float"),
        ({"conditioning": "remask", "known_path": "new"}, ValueError, "known_path='new' is not known"),
    ],
)
def test_wrong_resampling(model, arguments, error, message):
    for method in (model.impute, model.get_imputed_counts):
        with pytest.raises(error, match=message):
            method(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"births": "nb"}, ValueError, "births='nb' is not known"),
        ({"attrition": 1.5}, ValueError, "attrition=1.5 is not an attrition schedule"),
        ({"attrition": "most"}, ValueError, "attrition='most' is not an attrition schedule"),
        ({"attrition": ["a", "b"]}, ValueError, "is not an attrition schedule"),
        ({"attrition": np.full(20, -0.5)}, ValueError, "is not an attrition schedule"),
        (
            {"attrition": np.full(7, 0.5)},
            ValueError,
            r"attrition has shape \(7,\). An array must .* Pass such an array",
        ),
        ({"attrition": np.full((3, 20), 0.5)}, ValueError, r"attrition has shape \(3, 20\)"),
        (
            {"guidance_scale": {"donors": 2.0}},
            KeyError,
            "a key of guidance_scale='donors' is not in the conditions .*'donor'",
        ),
        ({"guidance_scale": {"donor": -1.0}}, ValueError, r"guidance_scale\['donor'\]=-1.0 is out of range"),
        ({"guidance_scale": {"donor": "2"}}, TypeError, r"guidance_scale\['donor'\]='2' is a str"),
        ({"guidance_scale": "2"}, TypeError, "guidance_scale='2' is a str"),
    ],
)
def test_wrong_options_are_refused_alike_everywhere(model, data, arguments, error, message):
    before = set(data.layers)
    calls = (model.impute, model.get_imputed_counts, lambda **kw: model.sample(60, n_steps=2, **kw))
    for call in calls:
        with pytest.raises(error, match=message):
            call(**arguments)
    assert set(data.layers) == before


def test_a_model_without_conditions_has_none_to_guide():
    model = exact_model([MEAN] * 4, DISPERSION)
    with pytest.raises(KeyError, match="is not in the conditions of the model. .* there are none"):
        model.sample(3, guidance_scale={"cell_type": 2.0})
