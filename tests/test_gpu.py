"""The model on a GPU: the results it has on a CPU, and no step that waits for the device. Skipped where there is no GPU.

11 statistical tests at a false-alarm rate of 1e-4: 0.11% in all, once.
"""

import warnings

import numpy as np
import pytest
import scvi
import torch
from helpers import QUIET, TINY
from laws import assert_law, nb
from scipy import sparse, stats

from countsdiff_sc import CountsDiffSC
from countsdiff_sc._cuda_graph import RecordedGradients
from countsdiff_sc._training_plan import MAX_GRADIENT, scale_to_norm
from countsdiff_sc.process import get_birth_rule, thin

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

N_DRAWS = 20_000
#: Means take one pass. Draws go through tensor operations where a CPU has compiled loops.
ESTIMATES = [
    {},
    {"estimate": "mean", "n_steps": 3, "n_samples": 2},
    {"estimate": "mean", "conditioning": "remask", "n_steps": 4},
    {"estimate": "sample", "n_samples": 2},
    {"estimate": "sample", "n_steps": 4, "attrition": 0.3},
    {"estimate": "sample", "conditioning": "remask", "n_steps": 4, "n_resample": 2, "known_path": "coherent"},
    {"estimate": "sample", "births": "poisson", "guidance_scale": 2.0},
    {"quantiles": (0.1, 0.9)},
]


@pytest.fixture
def generator():
    return torch.Generator("cuda").manual_seed(1)


@pytest.fixture
def gpu_model(masked):
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    model.train(2, accelerator="gpu", devices=1, **QUIET)
    return model


def n_waits(function):
    """How often a call waits for the device."""
    function()  # what is done once
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(each.message) for each in caught)


def dense(values):
    return values.toarray() if sparse.issparse(values) else np.asarray(values)


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("count", [1, 5, 40])
@pytest.mark.parametrize("prob", [0.03, 0.5])
def test_thinning_is_binomial(generator, count, prob):
    counts = torch.full((N_DRAWS,), float(count), device="cuda")
    drawn = thin(counts, torch.tensor(prob, device="cuda"), generator=generator)
    assert_law(drawn.cpu(), stats.binom(count, prob))


@pytest.mark.parametrize(("mean", "dispersion"), [(3.7, 1.11), (0.05, 0.3), (0.4, 50.0), (40.0, 7.0)])
def test_births_are_negative_binomial(generator, mean, dispersion):
    tensors = (torch.full((N_DRAWS,), value, device="cuda") for value in (mean, dispersion))
    assert_law(get_birth_rule("negative_binomial")(*tensors, generator).cpu(), nb(mean, dispersion))


def test_births_are_poisson(generator):
    tensors = (torch.full((N_DRAWS,), value, device="cuda") for value in (3.7, 1.0))
    assert_law(get_birth_rule("poisson")(*tensors, generator).cpu(), stats.poisson(3.7))


# ---------------------------------------------------------------------- results


def test_one_set_of_weights_gives_one_result_on_both(gpu_model, masked, tmp_path):
    gpu_model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", masked, accelerator="cpu")
    assert (gpu_model.device.type, loaded.device.type) == ("cuda", "cpu")
    for options in ({}, {"guidance_scale": 2.0}):
        means = [model.get_imputed_counts(masked, **options) for model in (gpu_model, loaded)]
        np.testing.assert_allclose(*means, rtol=1e-3, atol=1e-5)
    elbo = [model.get_elbo(masked, n_times=64, seed=0) for model in (gpu_model, loaded)]
    errors = np.hypot(*(each["standard_error"] for each in elbo))
    assert (abs(elbo[0]["elbo"] - elbo[1]["elbo"]) < 5.0 * errors + 1e-3).all()


@pytest.mark.parametrize("options", ESTIMATES, ids=str)
def test_observed_counts_are_kept_and_the_seed_decides(gpu_model, masked, observed_mask, options):
    first, again, other = (gpu_model.get_imputed_counts(masked, seed=seed, **options) for seed in (0, 0, 1))
    several = [each if isinstance(each, (list, tuple)) else [each] for each in (first, again, other)]
    counts = masked.X.toarray()
    for values, repeated in zip(*several[:2], strict=True):
        values = dense(values)
        np.testing.assert_array_equal(
            values[..., observed_mask], np.broadcast_to(counts, values.shape)[..., observed_mask]
        )
        np.testing.assert_array_equal(values, dense(repeated))
        if "quantiles" in options or options.get("estimate") == "sample":
            np.testing.assert_array_equal(values, np.floor(values))
    if options.get("estimate") == "sample":
        assert any((dense(a) != dense(b)).any() for a, b in zip(several[0], several[2], strict=True))


def test_zeros_are_imputed_and_cells_generated(adata):
    CountsDiffSC.setup_anndata(adata, labels_key="cell_type")
    model = CountsDiffSC(adata, **TINY)
    model.train(2, accelerator="gpu", devices=1, **QUIET)
    model.impute(adata, layer="imputed", estimate="sample", seed=0)
    counts = adata.X.toarray()
    np.testing.assert_array_equal(dense(adata.layers["imputed"])[counts > 0], counts[counts > 0])
    cells = model.sample(10, labels="B", n_steps=5, library_size=100, seed=0)
    assert abs(cells.X.sum(1) - 100).max() < 60
    assert (cells.X != model.sample(10, labels="B", n_steps=5, library_size=100, seed=0).X).nnz == 0


# ---------------------------------------------------------------------- recording


def trained_on_gpu(data, **plan_kwargs):
    scvi.settings.seed = 0
    model = CountsDiffSC(data, **TINY)
    model.train(4, batch_size=10, accelerator="gpu", devices=1, plan_kwargs=plan_kwargs, **QUIET)
    return model


def test_recorded_steps_train_as_others(masked, monkeypatch):
    sizes, loss = [], RecordedGradients.loss
    monkeypatch.setattr(
        RecordedGradients, "loss", lambda self, batch: sizes.append(len(batch["X"])) or loss(self, batch)
    )
    recorded = trained_on_gpu(masked)
    assert sorted(sizes) == [24] * 4 + [30] * 4  # of 54 training cells
    other = trained_on_gpu(masked, cuda_graph=False)
    assert len(sizes) == 8
    losses = (model.history["train_loss"].to_numpy(dtype=float) for model in (recorded, other))
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for name, weights in other.module.state_dict().items():
        torch.testing.assert_close(recorded.module.state_dict()[name], weights, rtol=1e-3, atol=1e-5)


def test_a_recorded_step_draws_anew_and_follows_the_seed(gpu_model, masked):
    module = gpu_model.module.train()
    (batch,) = gpu_model._make_data_loader(masked, batch_size=len(masked))
    batch = {key: value.cuda() for key, value in batch.items()}
    recorded = RecordedGradients(module, batch)
    losses = []
    for seed in (0, 1, 0):
        torch.cuda.manual_seed(seed)
        losses.append([recorded.loss(batch).item() for _ in range(2)])
    assert losses[0] == losses[2]
    assert len({*losses[0], *losses[1]}) == 4
    torch.cuda.manual_seed(0)
    assert module(batch).loss.item() == pytest.approx(losses[0][0], rel=1e-5)


# ---------------------------------------------------------------------- waiting


def test_a_training_step_does_not_wait(gpu_model, masked):
    module = gpu_model.module.train()
    optimizer = torch.optim.AdamW(module.net.parameters(), lr=1e-3, fused=True)
    (batch,) = gpu_model._make_data_loader(masked, batch_size=len(masked))
    batch = {key: value.cuda() for key, value in batch.items()}

    def step():
        optimizer.zero_grad()
        module(batch).loss.backward()
        scale_to_norm(optimizer, MAX_GRADIENT)
        optimizer.step()
        module.ema.update_parameters(module.net)

    assert n_waits(step) == 0


@pytest.mark.parametrize("conditioning", ["observed", "remask"])
def test_transitions_do_not_wait(gpu_model, masked, conditioning):
    options = {"estimate": "sample", "conditioning": conditioning, "seed": 0}
    few, many = (
        n_waits(lambda n=n_steps: gpu_model.get_imputed_counts(masked, n_steps=n, **options)) for n_steps in (2, 9)
    )
    assert few == many


def test_generation_does_not_wait(gpu_model):
    few, many = (n_waits(lambda n=n_steps: gpu_model.sample(20, n_steps=n, seed=0)) for n_steps in (2, 9))
    assert few == many
