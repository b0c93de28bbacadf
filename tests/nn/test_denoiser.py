"""What every denoiser must satisfy, whatever its backbone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import nbinom

from countsdiff_sc.nn import Conditions, CountDenoiser, FullAttention, GeneSetTransformer
from countsdiff_sc.nn._molecules_lost import dispersion_loss, mean_loss, mixture_moments, molecules_lost

B, G = 6, 10
SIZE = {"width": 8, "n_layers": 1, "n_heads": 2, "dropout": 0.0}
BACKBONES = {
    "gene_set_transformer": lambda n_members=1: GeneSetTransformer(G, n_members=n_members, n_tokens=3, **SIZE),
    "full_attention": lambda n_members=1: FullAttention(G, n_members=n_members, **SIZE),
}


def perturbed(module, *, std=0.3):
    """Away from the initial weights, several of which are zero on purpose."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(params=[(name, n_members) for name in BACKBONES for n_members in (1, 3)], ids=str)
def denoiser(request):
    torch.manual_seed(0)
    name, n_members = request.param
    module = CountDenoiser(BACKBONES[name](n_members), (6, 4), n_categories=(3,), n_continuous=1)
    module.mean_profile.copy_(torch.rand(G, generator=torch.Generator().manual_seed(2)) * 4 + 0.1)
    module.depth_concentration.fill_(4.0)
    return perturbed(module).eval()


@pytest.fixture
def cells():
    generator = torch.Generator().manual_seed(3)
    x_t = torch.poisson(torch.full((B, G), 2.0), generator=generator)
    survival_prob = torch.rand(B, G, generator=generator)
    survival_prob[:, :3] = 1.0
    t = torch.rand(B, generator=generator)
    labels, covariate = torch.tensor([[0], [1], [2], [-1], [0], [1]]), torch.randn(B, 1, generator=generator)
    selection = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [-8.0, 8.0], [1.0, 1.0], [0.0, 0.0]])
    conditions = Conditions(labels, covariate, selection)
    return x_t, survival_prob, t, conditions


def test_mean_and_dispersion_are_finite_and_positive_where_something_may_be_lost(denoiser, cells):
    expected_births, dispersion = denoiser(*cells)
    assert expected_births.shape == dispersion.shape == (B, G)
    assert torch.isfinite(expected_births).all()
    assert torch.isfinite(dispersion).all()
    assert (expected_births[:, 3:] > 0).all()
    assert (dispersion > 0).all()


def test_an_observed_entry_has_lost_nothing(denoiser, cells):
    expected_births, _ = denoiser(*cells)
    assert (expected_births[:, :3] == 0).all()


@pytest.mark.parametrize("extreme", [0.0, 1e6])
def test_extreme_cells_stay_finite(denoiser, cells, extreme):
    _, survival_prob, t, conditions = cells
    expected_births, dispersion = denoiser(torch.full((B, G), extreme), survival_prob, t, conditions)
    assert torch.isfinite(expected_births).all()
    assert torch.isfinite(dispersion).all()


def test_a_cell_does_not_depend_on_its_neighbours_in_the_minibatch(denoiser, cells):
    x_t, survival_prob, t, conditions = cells
    together, _ = denoiser(*cells)
    for cell in range(B):
        rows = slice(cell, cell + 1)
        alone, _ = denoiser(x_t[rows], survival_prob[rows], t[rows], conditions[rows])
        torch.testing.assert_close(alone, together[rows])


def test_the_output_depends_on_everything_the_network_is_told(denoiser, cells):
    x_t, survival_prob, t, conditions = cells
    reference, _ = denoiser(*cells)
    changed = {
        "counts": (x_t + 1, survival_prob, t, conditions),
        "survival": (x_t, survival_prob * 0.5, t, conditions),
        "time": (x_t, survival_prob, 1 - t, conditions),
        "label": (x_t, survival_prob, t, replace(conditions, categories=(conditions.categories + 1) % 3)),
        "covariate": (x_t, survival_prob, t, replace(conditions, continuous=conditions.continuous + 1)),
        "selection": (x_t, survival_prob, t, conditions.under(conditions.selection + 2.0)),
    }
    for name, arguments in changed.items():
        missing = reference[:, 3:]
        assert not torch.allclose(denoiser(*arguments)[0][:, 3:], missing, rtol=1e-4), name


def test_conditions_that_are_hidden_leave_the_selection(cells):
    """Or guidance would contrast two mechanisms by which counts are missing."""
    conditions = cells[3]
    assert (conditions.unknown().categories == -1).all()
    dropped = conditions.dropped(torch.ones(B, 2, dtype=torch.bool))
    for hidden in (conditions.unknown(), dropped):
        torch.testing.assert_close(hidden.selection, conditions.selection)


def test_a_missing_covariate_is_the_average_one(denoiser, cells):
    x_t, survival_prob, t, conditions = cells
    denoiser.continuous_location.fill_(0.7)
    missing, average = (replace(conditions, continuous=torch.full((B, 1), value)) for value in (torch.nan, 0.7))
    torch.testing.assert_close(denoiser(x_t, survival_prob, t, missing), denoiser(x_t, survival_prob, t, average))


def test_the_gradient_reaches_every_weight(denoiser, cells):
    expected_births, dispersion = denoiser.train()(*cells, apart=True)
    (expected_births.sum() + dispersion.log().sum()).backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and not
def test_the_dispersion_does_not_bend_the_mean(cells, name, dtype):
    """The gradient of the dispersion stops at the dispersion head, and that of the mean never enters it."""
    torch.manual_seed(0)
    denoiser = perturbed(CountDenoiser(BACKBONES[name](), (G,), (3,), 1)).to(dtype)
    cells = [cell.to(dtype) if isinstance(cell, torch.Tensor) else cell for cell in cells]
    cells[3] = replace(cells[3], selection=cells[3].selection[:, :1])  # of one modality
    readout, n_deaths = denoiser.read(*cells, apart=True), torch.ones_like(cells[0])
    weight = torch.ones(len(n_deaths), 1, dtype=dtype)
    head = {n for n, _ in denoiser.named_parameters() if "read_log_dispersion" in n or n == "dispersion_slope"}
    dispersion_loss(readout, n_deaths, weight).backward(retain_graph=True)
    assert {n for n, p in denoiser.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0} == head
    denoiser.zero_grad()
    mean_loss(readout, n_deaths, weight).backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for n, p in denoiser.named_parameters() if n in head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and not
def test_the_dispersion_goes_with_a_power_of_the_rate(denoiser, cells, dtype):
    """Where nothing is visible it is that of the law itself: with a slope its logarithm changes by that times the log rate."""
    denoiser.to(dtype)
    nothing = torch.zeros_like(cells[0], dtype=dtype)
    cells = [nothing, nothing, cells[2].to(dtype), replace(cells[3], continuous=cells[3].continuous.to(dtype))]
    slope = torch.linspace(-0.3, 0.4, denoiser.n_members, dtype=dtype).view(-1, 1, 1)
    of_slopes = []
    for factor in (0.0, 1.0):
        with torch.no_grad():
            denoiser.dispersion_slope.copy_(factor * slope)
            of_slopes.append(denoiser(*cells, apart=True))
    (mean, without), (again, power) = of_slopes
    torch.testing.assert_close(again, mean)
    of_cells = slope.flatten().repeat_interleave(B // denoiser.n_members).unsqueeze(1)
    torch.testing.assert_close((power / without).log(), of_cells * mean.log(), rtol=1e-4, atol=1e-5)


def test_an_untrained_denoiser_predicts_the_depth_scaled_profile(cells):
    """So that training starts from the rank-one baseline: doubling a cell's visible counts doubles the prediction."""
    torch.manual_seed(0)
    denoiser = CountDenoiser(GeneSetTransformer(G, dropout=0.0), (G,)).eval()
    profile = torch.arange(1.0, G + 1.0)
    denoiser.mean_profile.copy_(profile)
    denoiser.depth_concentration.fill_(1e-6)  # no prior: depth is read off the counts alone
    observed = (torch.arange(G) % 2 == 0).expand(2, G)
    x_t = torch.where(observed, torch.tensor([[1.0], [2.0]]) * profile, 0.0)
    with torch.no_grad():
        nothing_known = Conditions(torch.empty(2, 0).long(), torch.empty(2, 0), torch.zeros(2, 1))
        expected_births, _ = denoiser(x_t, observed.float(), torch.ones(2), nothing_known)
    exact = torch.tensor([[1.0], [2.0]]) * profile
    np.testing.assert_allclose(expected_births[~observed], exact[~observed], rtol=0.15)


def test_depth_is_a_gamma_posterior_per_modality():
    denoiser = CountDenoiser(BACKBONES["full_attention"](), (6, 4))
    denoiser.mean_profile.copy_(torch.tensor([2.0] * 6 + [10.0] * 4))
    denoiser.depth_concentration.copy_(torch.tensor([3.0, 5.0]))
    x_t, survival_prob = torch.zeros(2, G), torch.zeros(2, G)
    x_t[0, :2], survival_prob[0, :2] = 7.0, 1.0
    depth = denoiser.infer_depth(x_t, survival_prob)
    # Conjugacy: Gamma(a, a) and Poisson(depth * exposure) give mean (a + molecules) / (a + exposure).
    torch.testing.assert_close(depth, torch.tensor([[(3 + 14) / (3 + 4), 1.0], [1.0, 1.0]]))


def ensemble_and_members(name, n_members=3):
    """Several perturbed networks together, and each in a denoiser of its own."""
    torch.manual_seed(0)
    together, *alone = (
        CountDenoiser(BACKBONES[name](n), (6, 4), n_categories=(3,), n_continuous=1)
        for n in (n_members, *[1] * n_members)
    )
    perturbed(together)
    together.backbone.input_dropout = 0.0
    shared = {key for key, _ in together.named_buffers()}
    for member, denoiser in enumerate(alone):
        denoiser.backbone.input_dropout = 0.0
        state = together.state_dict()
        denoiser.load_state_dict({k: v if k in shared else v[member : member + 1] for k, v in state.items()})
    return together, alone


every_backbone = pytest.mark.parametrize("name", BACKBONES)


@every_backbone
def test_in_training_each_network_learns_from_its_own_share_of_the_cells(cells, name):
    together, alone = ensemble_and_members(name)
    found = together.train()(*cells, apart=True)
    for member, denoiser in enumerate(alone):
        share = slice(2 * member, 2 * member + 2)
        x_t, survival_prob, t, conditions = cells
        expected = denoiser.train()(x_t[share], survival_prob[share], t[share], conditions[share], apart=True)
        torch.testing.assert_close(found[0][share], expected[0])
        torch.testing.assert_close(found[1][share], expected[1])


@pytest.mark.parametrize("n_cells", [1, 2, 4])
def test_fewer_or_uneven_shares_are_no_hindrance(cells, n_cells):
    together, _ = ensemble_and_members("gene_set_transformer")
    x_t, survival_prob, t, conditions = cells
    few = (tensor[:n_cells] for tensor in (x_t, survival_prob, t, conditions))
    mean, dispersion = together.train()(*few, apart=True)
    assert mean.shape == dispersion.shape == (n_cells, G)
    (mean.sum() + dispersion.sum()).backward()


@every_backbone
def test_after_training_the_networks_are_averaged(cells, name):
    together, alone = ensemble_and_members(name)
    mean, dispersion = together.eval()(*cells)
    predictions = [denoiser.eval()(*cells) for denoiser in alone]
    torch.testing.assert_close(mean, torch.stack([m for m, _ in predictions]).mean(0))
    torch.testing.assert_close(dispersion, mixture_moments(predictions)[1])


def test_mixture_moments_are_those_of_the_mixture_of_negative_binomials():
    means, dispersions = [0.3, 2.0, 5.0], [0.7, 4.0, 50.0]
    mean, dispersion = mixture_moments(
        [
            (torch.tensor([m], dtype=torch.float64), torch.tensor([r], dtype=torch.float64))
            for m, r in zip(means, dispersions, strict=True)
        ]
    )
    counts = np.arange(2000)
    law = np.mean([nbinom.pmf(counts, r, r / (r + m)) for m, r in zip(means, dispersions, strict=True)], axis=0)
    expected_mean = law @ counts
    variance = law @ (counts - expected_mean) ** 2
    assert float(mean) == pytest.approx(expected_mean)
    assert float(mean + mean**2 / dispersion) == pytest.approx(variance)


def test_mixture_moments_where_nothing_is_lost_are_finite():
    nothing = (torch.zeros(3), torch.ones(3))
    mean, dispersion = mixture_moments([nothing, nothing])
    assert (mean == 0).all()
    assert torch.isfinite(dispersion).all()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("n_members", [1, 3])
def test_some_genes_are_predicted_as_among_all(cells, name, n_members):
    torch.manual_seed(0)
    denoiser = perturbed(CountDenoiser(BACKBONES[name](n_members), (6, 4), n_categories=(3,), n_continuous=1)).eval()
    genes = torch.tensor([7, 0, 4])
    with torch.inference_mode():
        for apart in (False, True):
            of_all, of_some = (denoiser(*cells, apart=apart, **some) for some in ({}, {"genes": genes}))
            for all_genes, some_genes in zip(of_all, of_some, strict=True):
                torch.testing.assert_close(some_genes, all_genes[:, genes])


def test_a_backbone_says_how_wide_its_context_is():
    with pytest.raises(AttributeError, match=r"Linear has no attribute context_width\. .* Set it"):
        CountDenoiser(torch.nn.Linear(2, 2), (2,))


@pytest.mark.parametrize("apart", [False, True])
def test_the_law_of_some_cells_is_as_among_all(denoiser, cells, apart):
    with torch.inference_mode():
        readout = denoiser.read(*cells, apart=apart)
        of_all, of_some = molecules_lost(readout), molecules_lost(readout.of(slice(1, None, 2)))
    for all_cells, some_cells in zip(of_all, of_some, strict=True):
        torch.testing.assert_close(some_cells, all_cells[1::2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_depth_is_computed_in_single_precision(cells, dtype):
    """70,000 molecules are beyond the range of 16 bits, and 301 beyond the precision of bfloat16."""
    _, survival_prob, t, conditions = cells
    denoiser = CountDenoiser(BACKBONES["gene_set_transformer"](1), (6, 4), n_categories=(3,), n_continuous=1).eval()
    for x_t in (torch.full((B, G), 12_000.0), torch.full((B, G), 50.1).round()):
        plain = denoiser.read(x_t, survival_prob, t, conditions).base_rate
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(denoiser.read(x_t, survival_prob, t, conditions).base_rate, plain)
