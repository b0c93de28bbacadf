"""Training: what is learned, from which states, for how long, and which weights are kept."""

from types import SimpleNamespace

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from helpers import QUIET, TINY, make_adata, train_tiny
from laws import ALPHA
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scipy.stats import arcsine, binom, chisquare, kstest, uniform
from scvi.model.base import UnsupervisedTrainingMixin

from countsdiff_sc import CountsDiffSC, _cuda_graph, _training_states, process
from countsdiff_sc._module import LOSS_BY_CELL
from countsdiff_sc._moving_average import MovingAverage
from countsdiff_sc._training_defaults import default_max_epochs
from countsdiff_sc._training_plan import CountsDiffTrainingPlan, scale_to_norm
from countsdiff_sc._training_states import hidden_conditions
from countsdiff_sc.nn import Conditions
from countsdiff_sc.process._selection import MAX_STRENGTH, height


def test_training_learns_the_cell_types():
    """Without labels, the two cell types of the simulation must be found: the loss falls well below its start."""
    adata = make_adata(n_obs=400)
    scvi.settings.seed = 0
    model = CountsDiffSC(adata, **TINY)
    model.train(max_epochs=40, accelerator="cpu", plan_kwargs={"lr": 1e-2}, **QUIET)
    loss = model.history["validation_loss"]["validation_loss"].astype(float)
    assert len(model.history["train_loss"]) == 40
    assert len(loss) == 40 // model.module.net.n_members
    assert loss.min() < loss.iloc[0] - 0.05


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_cells(masked):
    seen = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            seen.append((trainer.current_epoch, float(outputs["loss"]), len(next(iter(batch.values())))))

    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY, n_members=1)
    model.train(3, accelerator="cpu", train_size=1.0, batch_size=40, callbacks=[Record()], **QUIET)  # 40 cells and 20
    epochs, losses, sizes = map(np.array, zip(*seen, strict=True))
    assert len(set(sizes)) == 2
    expected = [np.average(losses[epochs == epoch], weights=sizes[epochs == epoch]) for epoch in range(3)]
    np.testing.assert_allclose(model.history["train_loss"]["train_loss"].astype(float), expected, rtol=1e-5)


@pytest.mark.parametrize("inverse_dispersion", [0.2, 5.0])
def test_training_learns_the_dispersion(inverse_dispersion):
    """That of all genes, and that of one gene that differs, from where it starts, 2.7, and in the steps of a default run."""
    rng, n_obs, n_vars = np.random.default_rng(0), 600, 40
    r = np.full(n_vars, inverse_dispersion)
    r[0] = 1.0
    counts = rng.poisson(rng.gamma(r, 3.0 / r, (n_obs, n_vars)))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    scvi.settings.seed = 0
    CountsDiffSC.setup_anndata(adata)
    model = CountsDiffSC(adata)
    model.train(accelerator="cpu", **QUIET)
    observed = torch.as_tensor(rng.random(counts.shape) < 0.5)
    nothing_known = Conditions(torch.empty(n_obs, 0).long(), torch.empty(n_obs, 0), torch.zeros(n_obs, 1))
    with torch.no_grad():
        denoise = model.module.bind(observed, nothing_known)
        mean, found = denoise(torch.as_tensor(counts, dtype=torch.float32) * observed, torch.tensor(1.0))
    variance = torch.where(observed, torch.nan, mean + mean.square() / found).nanmean(0).numpy()
    # A variance of 600 such counts has a standard error of 20% where r is 0.2, and the fit is no better.
    np.testing.assert_allclose(np.median(variance[1:]), 3.0 + 9.0 / inverse_dispersion, rtol=0.2)
    np.testing.assert_allclose(variance[0], 12.0, rtol=0.4)


def test_the_dispersion_of_all_genes_learns_fastest(masked):
    model = CountsDiffSC(masked, **TINY)
    rates = {}
    plan = CountsDiffTrainingPlan(model.module, lr=0.01)
    plan.trainer = SimpleNamespace(precision="32-true", estimated_stepping_batches=100)
    optimizer = plan.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        rates |= {id(parameter): group["max_lr"] for parameter in group["params"]}
    by_name = {name: rates[id(parameter)] for name, parameter in model.module.net.named_parameters()}
    head = "backbone.read_log_dispersion"
    assert by_name.pop(f"{head}.common_bias") == pytest.approx(0.3)
    assert by_name.pop(f"{head}.bias") == pytest.approx(0.1)
    assert by_name.pop("dispersion_slope") == pytest.approx(0.1)
    assert set(by_name.values()) == {0.01}


def test_validation_noise_is_fixed(masked):
    """With the weights frozen, the validation loss is the same at every epoch."""
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    model.train(max_epochs=3, accelerator="cpu", plan_kwargs={"lr": 0.0, "weight_decay": 0.0}, **QUIET)
    loss = model.history["validation_loss"]["validation_loss"].astype(float)
    np.testing.assert_allclose(loss, loss.iloc[0], rtol=1e-5)


def test_a_cell_counts_as_any_other_however_many_of_its_entries_are_targets(masked):
    """Its loss is the mean over its own targets, and that of a minibatch the mean over cells."""
    model = CountsDiffSC(masked, loss_weighting="paper", **TINY)
    module, (batch,) = model.module.eval(), model._make_data_loader(masked, batch_size=masked.n_obs)
    states = _training_states.training_states(
        module.counts(batch),
        schedule=module.schedule,
        time_distribution=module.time_distribution,
        one_pass_fraction=module.one_pass_fraction,
        mean_profile=module.net.mean_profile,
        membership=module.net.membership,
        generation_times=None,
        generator=torch.Generator().manual_seed(0),
    )
    n_targets = (states.n_deaths == states.n_deaths).sum(1)
    assert n_targets.float().std() > 0.2 * n_targets.float().mean()
    with torch.no_grad():
        output = module(batch, generator=torch.Generator().manual_seed(0))
        cells = states.x_t, states.survival_prob, states.t.squeeze(1), module.conditions(batch).under(states.selection)
        expected_births, dispersion = module.denoiser(*cells)
    weight = torch.where(states.one_pass, 1.0, -module.schedule.survival_prob_rate(states.t))
    nats = weight * process.bregman_loss(states.n_deaths, expected_births)
    nats += process.negative_binomial_nll(states.n_deaths, expected_births, dispersion)
    by_cell = torch.nan_to_num(nats.nanmean(1))
    torch.testing.assert_close(output.extra_metrics[LOSS_BY_CELL], by_cell, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.loss, by_cell.mean(), rtol=1e-5, atol=0.0)


@pytest.mark.filterwarnings("ignore:Training will be faster when sparse")
def test_storage_by_columns_changes_nothing(adata):
    losses = []
    for storage in (sparse.csr_matrix, sparse.csc_matrix, np.asfortranarray):
        counts = adata.X.toarray() if storage is np.asfortranarray else adata.X
        data = AnnData(storage(counts), obs=adata.obs, var=adata.var)
        CountsDiffSC.setup_anndata(data)
        losses.append(float(train_tiny(data).history["train_loss"].iloc[-1, 0]))
    assert losses[1:] == losses[:1] * 2


def test_same_seed_same_model(masked):
    first, second = (train_tiny(masked).get_imputed_counts() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_early_stopping_watches_the_validation_loss(masked):
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    options = {"early_stopping": True, "early_stopping_patience": 2, "plan_kwargs": {"lr": 0.0}}
    model.train(max_epochs=30, accelerator="cpu", **options, **QUIET)
    assert len(model.history["validation_loss"]) == 3


def trimmed(differences):
    n_odd = len(differences) // 10
    return np.sort(differences)[n_odd : len(differences) - n_odd]


@pytest.mark.parametrize("n_odd", [0, 1])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_last_moving_average_that_is_not_clearly_worse_is_kept(masked, n_odd, sign):
    """Training that goes wrong for all cells late leaves earlier weights; one odd cell decides nothing, either way."""
    seen = []

    class Record(Callback):
        def on_train_epoch_end(self, trainer, plan):
            if trainer.current_epoch >= 8 and not n_odd:
                for parameter in plan.module.ema.parameters():
                    parameter.add_(3.0)

        def on_validation_epoch_end(self, trainer, plan):
            if trainer.current_epoch >= 8 and n_odd:
                losses = plan._loss_by_cell[0]
                losses -= sign  # all gain, or lose,
                losses[:n_odd] += sign * 2.0 * len(losses)  # and one loses, or gains, more than the others together
            weights = {k: v.clone() for k, v in plan.module.ema.state_dict().items()}
            seen.append((torch.cat(plan._loss_by_cell).double().numpy(), weights))

    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    model.train(12, accelerator="cpu", train_size=0.7, callbacks=[Record()], **QUIET)
    lowest, expected = seen[0]
    for losses, weights in seen:
        difference = trimmed(losses - lowest)
        if difference.mean() < 0.0:
            lowest = losses
        if difference.mean() <= difference.std() / np.sqrt(len(difference)):
            expected = weights
    last, kept = seen[-1][1], model.module.ema.state_dict()
    assert all(torch.equal(expected[key], kept[key]) for key in kept)
    assert all(torch.equal(last[key], kept[key]) for key in kept) == (n_odd > 0 and sign > 0.0)


def test_a_validation_loss_that_is_nan_is_neither_kept_nor_compared_with(masked):
    losses = []

    class SpoilTheFirst(Callback):
        def on_validation_start(self, trainer, plan):
            self.sound = {k: v.clone() for k, v in plan.module.ema.state_dict().items()}
            if not losses:
                for parameter in plan.module.ema.parameters():
                    parameter.fill_(torch.nan)

        def on_validation_epoch_end(self, trainer, plan):
            losses.append(float(trainer.callback_metrics["validation_loss"]))
            plan.module.ema.load_state_dict(self.sound)

        def on_train_end(self, trainer, plan):
            self.lowest = plan._lowest

    scvi.settings.seed = 0
    model, spoil = CountsDiffSC(masked, **TINY), SpoilTheFirst()
    model.train(6, accelerator="cpu", callbacks=[spoil], **QUIET)
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1:]).all()
    assert torch.isfinite(spoil.lowest).all()


def test_moving_average_lives_in_the_module_and_follows_the_weights(masked):
    model = train_tiny(masked, ema_decay=0.0, max_epochs=1)
    weights, average = model.module.net.state_dict(), model.module.ema.module.state_dict()
    assert all(torch.equal(weights[key], average[key]) for key in weights)
    assert not any(p.requires_grad for p in model.module.ema.parameters())
    assert model.module.denoiser is model.module.ema.module


def test_moving_average_decays_as_documented():
    net = torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(net, decay=0.9)
    expected = 0.0
    weights = [3.0, 5.0, -2.0, 7.0, 1.0, 4.0, 8.0, 2.0, 6.0, 9.0] * 5
    for step, weight in enumerate(weights, start=1):
        torch.nn.init.constant_(net.weight, weight)
        average.update_parameters(net)
        n_steps = 1 if step <= MovingAverage.AT_FIRST else MovingAverage.EVERY
        if step % n_steps == 0:
            n = step - n_steps
            decay = min(0.9, (1 + n) / (10 + n)) ** n_steps if n else 0.0
            expected = decay * expected + (1 - decay) * weight
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert int(average.n_averaged) == len(weights) // MovingAverage.EVERY * MovingAverage.EVERY


@pytest.mark.parametrize("max_norm", [1e-3, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_clipped_as_by_torch(max_norm, dtype):
    torch.manual_seed(0)
    nets = [torch.nn.Linear(5, 3, dtype=dtype) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    ours, theirs = (torch.optim.AdamW(net.parameters(), lr=0.1, fused=True) for net in nets)
    x = torch.randn(7, 5, dtype=dtype)
    for _ in range(3):
        for net, optimizer in zip(nets, (ours, theirs), strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
        scale_to_norm(ours, max_norm)
        torch.nn.utils.clip_grad_norm_(nets[1].parameters(), max_norm)
        ours.step(), theirs.step()
    for one, other in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)  # the scale is in single precision


def test_gradient_accumulation_averages_once_per_optimiser_step(masked):
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    model.train(max_epochs=1, accelerator="cpu", batch_size=3, accumulate_grad_batches=2, **QUIET)
    assert int(model.module.ema.n_averaged) == 3  # 54 training cells, 6 minibatches of 3 cells for each of 3 networks


class ComputedGradients:
    """In the place of :class:`RecordedGradients`, which needs a GPU: computes at every call what that repeats."""

    def __init__(self, module, batch):
        self.module, self.size, self.n_calls = module, len(batch["X"]), 0
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def takes(self, batch):
        return len(batch["X"]) == self.size

    def loss(self, batch):
        self.n_calls += 1
        loss = self.module(batch).loss
        self.gradients = torch.autograd.grad(loss, self.parameters)
        return loss.detach()

    def give_gradients(self):
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient


@pytest.mark.parametrize(("n_sizes", "n_calls"), [(2, {30: 2, 24: 2}), (1, {30: 2})])
def test_gradients_that_come_with_the_loss_train_alike(masked, monkeypatch, n_sizes, n_calls):
    def trained():
        scvi.settings.seed = 0
        model = CountsDiffSC(masked, **TINY)
        model.train(2, batch_size=10, accelerator="cpu", **QUIET)  # 54 cells
        return model

    usual, recorded = trained(), []
    monkeypatch.setattr(_cuda_graph, "N_SIZES", n_sizes)
    monkeypatch.setattr(
        _cuda_graph, "RecordedGradients", lambda *args: recorded.append(ComputedGradients(*args)) or recorded[-1]
    )
    monkeypatch.setattr(CountsDiffTrainingPlan, "_records", lambda self: True)
    model = trained()
    assert {each.size: each.n_calls for each in recorded} == n_calls
    assert model.history["train_loss"].equals(usual.history["train_loss"])
    for name, weights in usual.module.state_dict().items():
        assert torch.equal(weights, model.module.state_dict()[name]), name


def test_nothing_is_recorded_without_a_gpu_or_of_parts_of_the_users_own(masked):
    plan = SimpleNamespace(
        device=torch.device("cuda"),
        cuda_graph=True,
        module=CountsDiffSC(masked, **TINY).module,
        trainer=SimpleNamespace(precision="32-true", world_size=1, accumulate_grad_batches=1),
    )
    records = CountsDiffTrainingPlan._records
    assert records(plan)
    for changed in (
        {"device": torch.device("cpu")},
        {"cuda_graph": False},
        {"module": CountsDiffSC(masked, schedule=process.CosineSchedule(), **TINY).module},
        *(
            {"trainer": SimpleNamespace(**(vars(plan.trainer) | other))}
            for other in ({"precision": "bf16-mixed"}, {"world_size": 2}, {"accumulate_grad_batches": 2})
        ),
    ):
        assert not records(SimpleNamespace(**(vars(plan) | changed))), changed


def test_reference_profile_of_complete_data_is_the_mean(adata):
    model = train_tiny(adata, max_epochs=1)
    profile = model.module.net.mean_profile.numpy()
    np.testing.assert_allclose(profile, np.maximum(adata.X.toarray().mean(axis=0), 0.5 / 60), rtol=1e-5)
    depth = adata.X.toarray().sum(axis=1)
    assert float(model.module.net.depth_concentration[0]) == pytest.approx(depth.mean() ** 2 / depth.var(), rel=1e-4)


def test_reference_profile_ignores_missing_entries():
    """Rank-one counts with entries hidden give the profile of the complete ones."""
    adata = make_adata()
    depth, profile = np.arange(1, 61)[:, None], np.arange(1, 21)
    counts = (depth * profile).astype(np.float32)
    hidden = np.random.default_rng(0).random(counts.shape) < 0.4
    adata.X = np.where(hidden, np.nan, counts)
    model = train_tiny(adata, max_epochs=1)
    found = model.module.net.mean_profile.numpy()
    np.testing.assert_allclose(found / found.sum(), profile / profile.sum(), rtol=0.02)


@pytest.mark.parametrize("time_distribution", [10, "importance"])
def test_training_times_are_those_asked_for_and_saved(adata, tmp_path, time_distribution, monkeypatch):
    options = {"schedule": "blackout", "time_distribution": time_distribution, "one_pass_fraction": 0.0}
    model, times = CountsDiffSC(adata, **options, **TINY), []
    read = model.module.net.read
    with monkeypatch.context() as patch:
        patch.setattr(model.module.net, "read", lambda *cells, **how: times.append(cells[2]) or read(*cells, **how))
        model.train(max_epochs=5, accelerator="cpu", **QUIET)
    t = torch.cat(times)
    if time_distribution == 10:
        assert torch.isin(t, torch.arange(1, 11) / 10).all()
    else:
        assert kstest(model.module.schedule.survival_prob(t), arcsine.cdf).pvalue > ALPHA
    model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata)
    assert type(loaded.module.time_distribution) is type(model.module.time_distribution)


def test_train_twice_continues(masked):
    model = train_tiny(masked, max_epochs=2)
    model.train(max_epochs=3, accelerator="cpu", **QUIET)
    assert len(model.history["train_loss"]) == 5


def test_what_is_trained_on_again_is_checked_again(masked):
    model = train_tiny(masked, max_epochs=1)
    masked.X = 0.37 * masked.X
    with pytest.raises(ValueError, match="values that are not counts"):
        model.train(1, accelerator="cpu", **QUIET)


def test_a_training_that_failed_leaves_a_model_that_can_be_trained(masked):
    class Fails(Callback):
        def on_train_epoch_end(self, trainer, plan):
            msg = "an error of the user's"
            raise RuntimeError(msg)

    model = CountsDiffSC(masked, **TINY)
    with pytest.raises(RuntimeError, match="an error of the user's"):
        model.train(1, accelerator="cpu", precision="64-true", callbacks=[Fails()], **QUIET)
    model.train(1, accelerator="cpu", **QUIET)
    assert np.isfinite(model.get_imputed_counts()).all()


def test_a_query_is_no_training_data_because_training_was_asked_for(masked_model, masked, tmp_path):
    masked_model.save(tmp_path / "model")
    loaded = CountsDiffSC.load(tmp_path / "model", adata=False)
    loaded.get_imputed_counts(masked.copy())
    with pytest.raises(ValueError, match="max_epochs=-1"):
        loaded.train(-1)
    with pytest.raises(RuntimeError, match="loaded without data"):
        loaded.sample(3)


def test_a_handful_of_cells_trains_without_validation():
    adata = make_adata(n_obs=6)
    model = train_tiny(adata, max_epochs=2)
    assert "validation_loss" not in model.history
    assert np.isfinite(model.get_imputed_counts()).all()


def test_a_gene_and_a_cell_without_molecules(adata):
    counts = adata.X.toarray()
    counts[:, 4], counts[9] = 0, 0
    adata.X = sparse.csr_matrix(counts)
    model = train_tiny(adata)
    imputed = model.get_imputed_counts(seed=0)
    assert np.isfinite(imputed).all()
    assert imputed[:, 4].max() < 0.5


def test_callers_callbacks_are_not_changed(masked):
    scvi.settings.seed = 0
    callbacks = [Callback()]
    model = CountsDiffSC(masked, **TINY)
    model.train(max_epochs=1, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False)
    assert len(callbacks) == 1


def test_masks_of_training_are_unselective_or_take_low_or_high_counts():
    """Half is observed on average in cells that lose counts blindly; of the others, what the strength of selection says."""
    x_0 = torch.arange(20.0).expand(20_000, 20)
    mean_profile = torch.full((20,), 2.0)
    prob, selection = _training_states.observation_prob(
        x_0, mean_profile, torch.ones(20, 1), torch.Generator().manual_seed(0)
    )
    blind = np.ones(20_000, dtype=bool)
    blind[_training_states.SELECTIVE] = False
    assert (selection[blind] == 0).all()
    assert (prob[blind] == prob[blind, :1]).all()
    assert kstest(prob[blind, 0].numpy(), "uniform").pvalue > ALPHA
    strength = selection[~blind].double()
    assert kstest(strength.flatten().numpy() / MAX_STRENGTH, uniform(-1, 2).cdf).pvalue > ALPHA
    log_odds = torch.logit(prob[~blind].double(), eps=1e-9)
    inside = (log_odds.abs() < 8).all(1)  # single precision has few digits left near 0 and 1
    assert inside.sum() > 0.9 * len(inside)
    expected = strength * height(torch.arange(20.0), mean_profile).double().diff()
    torch.testing.assert_close(log_odds.diff(dim=1)[inside], expected[inside], rtol=1e-2, atol=1e-2)
    # The root of a uniform number has the mean 2/3.
    middle = torch.sigmoid(log_odds - strength * height(torch.arange(20.0), mean_profile))[:, 0]
    assert abs(middle.mean() - 2 / 3) < 5 * (1 / 18) ** 0.5 / len(middle) ** 0.5


@pytest.mark.parametrize("sizes", [{"train_size": 1.0}, {"train_size": 0.5, "validation_size": 0.0}])
def test_training_needs_no_validation(masked, sizes):
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    model.train(1, accelerator="cpu", early_stopping=True, **sizes, **QUIET)
    assert "validation_loss" not in model.history


@pytest.mark.parametrize("n_steps", [1, 8, 9, 10])
def test_any_number_of_steps_has_a_learning_rate(masked, n_steps):
    model = CountsDiffSC(masked, **TINY)
    model.train(n_steps, accelerator="cpu", batch_size=60, train_size=1.0, **QUIET)  # one step an epoch
    assert int(model.module.ema.n_averaged) == n_steps


@pytest.mark.parametrize(("one_pass_fraction", "n_rounds"), [(0.5, 1), (0.49, 2)])
def test_a_model_of_all_times_trains_twice_as_long_by_default(masked, monkeypatch, one_pass_fraction, n_rounds):
    monkeypatch.setattr("countsdiff_sc._model.default_max_epochs", lambda *arguments: 1)
    model = CountsDiffSC(masked, one_pass_fraction=one_pass_fraction, **TINY)
    model.train(accelerator="cpu", **QUIET)
    assert len(model.history["train_loss"]) == n_rounds * model.module.net.n_members


@pytest.mark.parametrize(("one_pass_fraction", "goes_with_the_rate"), [(0.8, True), (0.3, False)])
def test_the_dispersion_of_a_model_for_generation_does_not_go_with_the_rate(
    masked, one_pass_fraction, goes_with_the_rate
):
    model = CountsDiffSC(masked, one_pass_fraction=one_pass_fraction, **TINY)
    model.train(2, accelerator="cpu", **QUIET)
    for net in (model.module.net, model.module.ema.module):
        assert (net.dispersion_slope != 0.0).all() == goes_with_the_rate


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(masked, precision):
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, **TINY)
    model.train(1, accelerator="cpu", precision=precision, **QUIET)
    assert np.isfinite(model.get_imputed_counts()).all()


@pytest.mark.parametrize("max_epochs", [0, -1, 2.5])
def test_epochs_are_a_positive_integer(masked, max_epochs):
    model = CountsDiffSC(masked, **TINY)
    with pytest.raises((TypeError, ValueError), match="max_epochs"):
        model.train(max_epochs, **QUIET)
    assert not model.is_trained


def test_some_cells_of_training_start_from_nothing(masked):
    """Those whose time would be 1 get one that generation visits, an eighth of them still 1, and see nothing in full."""
    module = CountsDiffSC(masked, **TINY).module
    module.set_reference(torch.full((20,), 50.0), torch.ones(1), torch.empty(0), torch.empty(0))
    t, observed_prob = torch.ones(400, 1), torch.ones(400, 20)
    one_pass = torch.arange(400).unsqueeze(1) < 200
    _training_states.start_from_nothing(t, observed_prob, one_pass, module.generation_times, None)
    changed = np.zeros(400, dtype=bool)
    changed[:200][_training_states.FROM_NOTHING] = True
    np.testing.assert_array_equal((observed_prob == 0).all(1), changed)
    assert not (t < 1).flatten()[~changed].any()
    assert torch.isin(t[changed], module.generation_times).all()
    assert (module.generation_times == 1).float().mean() == 1 / 8
    survival = module.schedule.survival_prob(module.generation_times[module.generation_times < 1])
    assert survival.min() > 1e-3 * 0.99  # one molecule of the thousand that a cell has
    assert survival.max() < 0.95


@pytest.mark.parametrize(
    ("has_gpu", "given", "expected"), [(True, {}, True), (True, {"pin_memory": False}, False), (False, {}, None)]
)
def test_minibatches_are_pinned_where_there_is_a_gpu(masked, monkeypatch, has_gpu, given, expected):
    passed = {}
    monkeypatch.setattr(UnsupervisedTrainingMixin, "train", lambda self, **kwargs: passed.update(kwargs))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    CountsDiffSC(masked, **TINY).train(1, datasplitter_kwargs=given)
    assert passed["datasplitter_kwargs"].get("pin_memory") is expected


def test_averaged_weights_come_with_the_buffers(masked):
    """Such as the running means of a user's own layers."""

    class Normalised(torch.nn.Module):
        context_width = 4

        def __init__(self):
            super().__init__()
            self.norm, self.read = torch.nn.BatchNorm1d(20), torch.nn.Linear(24, 40)

        def forward(self, x_t, survival_prob, base_rate, context):
            return self.read(torch.cat([self.norm(x_t), context], dim=1)).chunk(2, dim=1)

    scvi.settings.seed = 0
    model = CountsDiffSC(masked, denoiser=Normalised())
    model.train(2, accelerator="cpu", **QUIET)
    trained, averaged = model.module.net.backbone.norm, model.module.ema.module.backbone.norm
    assert averaged.running_mean.abs().max() > 0.1
    assert int(averaged.num_batches_tracked) > 0
    torch.testing.assert_close(
        averaged.running_mean, trained.running_mean, atol=0.2, rtol=0.1
    )  # after as many steps, or a few less


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_network_learns_a_dispersion_from_small_minibatches(masked, batch_size):
    scvi.settings.seed = 0
    model = CountsDiffSC(masked, n_members=3, **TINY)
    model.train(2, accelerator="cpu", batch_size=batch_size, **QUIET)
    assert (model.module.net.backbone.read_log_dispersion.common_bias != 1.0).all()


def test_the_less_is_observed_the_more_often_cells_are_shown():
    assert default_max_epochs(1e6, 1000) == 90
    assert default_max_epochs(1e6, 1000, 2.0 ** (-4 / 3)) == 180
    assert default_max_epochs(1e3, 1000) == default_max_epochs(1e3, 1000, 0.1) == 40


@pytest.mark.parametrize("n_conditions", [1, 3])
def test_conditions_are_hidden_as_often_as_asked_for_and_half_of_the_time_together(n_conditions):
    """Two tests at a false-alarm rate of 1e-4."""
    p_uncond, n_cells = 0.3, 20_000
    hidden = hidden_conditions(
        p_uncond, n_cells, n_conditions, generator=torch.Generator().manual_seed(0), device=torch.device("cpu")
    )
    together = p_uncond / 2 if n_conditions > 1 else 0.0
    apart = (p_uncond - together) / (1 - together)
    expected = (1 - together) * binom(n_conditions, apart).pmf(np.arange(n_conditions + 1))
    expected[-1] += together
    assert expected @ np.arange(n_conditions + 1) == pytest.approx(p_uncond * n_conditions)
    observed = np.bincount(hidden.sum(1), minlength=n_conditions + 1)
    assert chisquare(observed, n_cells * expected).pvalue > ALPHA
