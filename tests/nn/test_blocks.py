"""Attention, time features, and the symmetries of the backbones."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from countsdiff_sc.nn import FullAttention, GeneSetTransformer
from countsdiff_sc.nn._blocks import ModulatedBlock, attention
from countsdiff_sc.nn._context import fourier_features
from countsdiff_sc.nn._denoiser import freeman_tukey_residual
from countsdiff_sc.nn._members import MemberLinear

E = 2  # networks


@pytest.mark.parametrize("n_heads", [1, 2])
def test_attention_equals_its_formula(n_heads):
    torch.manual_seed(0)
    block = ModulatedBlock(8, 6, n_heads, dropout=0.0, n_members=E)
    hidden = torch.randn(E, 3, 5, 8)
    query, key, value = block.qkv(hidden.flatten(1, 2)).unflatten(1, (3, 5)).chunk(3, dim=-1)
    heads = []
    for head in torch.arange(8).chunk(n_heads):
        weights = (query[..., head] @ key[..., head].transpose(-1, -2) / math.sqrt(len(head))).softmax(-1)
        heads.append(weights @ value[..., head])
    mixed = block.attention_out(torch.cat(heads, dim=-1).flatten(1, 2)).view_as(hidden)
    torch.testing.assert_close(block._attend(hidden), mixed)


@pytest.mark.parametrize("n_tokens", [1, 8, 32, 33])
def test_attention_of_few_and_many_tokens_is_that_of_torch(n_tokens):
    query, key, value = torch.randn(3, 4, 2, n_tokens, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(query, key, value), F.scaled_dot_product_attention(query, key, value))


def test_tokens_may_be_permuted():
    torch.manual_seed(0)
    block = ModulatedBlock(8, 6, 2, dropout=0.0, n_members=E)
    tokens, context = torch.randn(E, 3, 5, 8), torch.randn(E, 3, 6)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(block(tokens[:, :, order], context), block(tokens, context)[:, :, order])


def test_an_unmodulated_block_is_a_plain_one():
    """The modulation starts at zero: context plays no part before training."""
    torch.manual_seed(0)
    block, tokens = ModulatedBlock(8, 6, 2, dropout=0.0, n_members=E), torch.randn(E, 3, 5, 8)
    torch.testing.assert_close(block(tokens, torch.randn(E, 3, 6)), block(tokens, torch.zeros(E, 3, 6)))


def test_networks_do_not_see_each_other():
    torch.manual_seed(0)
    layer, x = MemberLinear(E, 4, 3), torch.randn(E, 5, 4)
    alone = torch.stack([F.linear(x[e], layer.weight[e].T, layer.bias[e, 0]) for e in range(E)])
    torch.testing.assert_close(layer(x), alone)
    torch.testing.assert_close(layer(x[:1]), layer(x[:1].repeat(E, 1, 1)))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width=10 is not divisible by n_heads=4"):
        ModulatedBlock(10, 10, 4, 0.0)


def permute_genes(backbone, order):
    """The same network for genes in another order: every weight with a gene axis is permuted along it."""
    state = backbone.state_dict()
    for name, value in state.items():
        if name == "read_in.weight":
            state[name] = value[:, order]
        elif name == "gene_embedding":
            state[name] = value[:, :, order]
        elif name.startswith("read_log") and value.shape[-1] == len(order):
            state[name] = value[..., order]
    backbone.load_state_dict(state)


@pytest.mark.parametrize("backbone_class", [GeneSetTransformer, FullAttention])
def test_genes_have_no_order(backbone_class):
    torch.manual_seed(0)
    backbone = backbone_class(7, n_members=E, width=8, n_layers=1, n_heads=2).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    shape = (E, 2, 7)
    x_t, survival_prob, base_rate = torch.poisson(torch.full(shape, 2.0)), torch.rand(shape), torch.rand(shape) + 0.5
    context, order = torch.randn(E, 2, backbone.context_width), torch.tensor([3, 6, 1, 0, 5, 2, 4])
    before = backbone(x_t, survival_prob, base_rate, context)
    permute_genes(backbone, order)
    after = backbone(x_t[..., order], survival_prob[..., order], base_rate[..., order], context)
    for left, right in zip(after, before, strict=True):
        torch.testing.assert_close(left, right[..., order])


def test_time_features_are_continuous_and_tell_times_apart():
    t = torch.linspace(0, 1, 2001)
    features = fourier_features(t, 8)
    assert features.shape == (2001, 8)
    # The fastest of four octaves has angular frequency 8 pi, so a step of 5e-4 moves it by less than 0.013.
    assert features.diff(dim=0).abs().max() < 0.013
    distance = torch.cdist(features, features)
    far = (t.unsqueeze(0) - t.unsqueeze(1)).abs() > 0.01
    assert distance[far].min() > 0.05


@given(x=st.integers(0, 10**6), expected=st.floats(1e-6, 1e6))
def test_the_residual_is_monotone_and_signed(x, expected):
    residual = freeman_tukey_residual(
        torch.tensor([x, x + 1.0]).double(), torch.tensor(1.0), torch.tensor(expected).double()
    )
    assert residual[1] > residual[0]
    if x > expected + 1:
        assert residual[0] > 0
    if x < expected - 1:
        assert residual[0] < 0


@pytest.mark.parametrize("mean", [0.5, 3.0, 50.0])
def test_the_residual_of_poisson_counts_is_standardised(mean):
    """Mean within 0.12 and variance in (0.5, 1.1): exact moments over the law, no sampling."""
    counts = torch.arange(0, 400).double()
    prob = torch.distributions.Poisson(torch.tensor(mean).double()).log_prob(counts).exp()
    residual = freeman_tukey_residual(counts, torch.tensor(0.5), torch.tensor(2 * mean).double())
    average = (prob * residual).sum()
    variance = (prob * (residual - average).square()).sum()
    assert abs(float(average)) < 0.12
    assert 0.5 < float(variance) < 1.1


def test_nothing_expected_nothing_surprising():
    assert freeman_tukey_residual(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([3.0])) == 0


def test_large_products_and_their_gradients_are_those_of_a_batched_product():
    torch.manual_seed(0)
    layer = MemberLinear(3, 700, 80)
    x, weight = (
        torch.randn(3, 80, 700, requires_grad=True),
        torch.randn(3, 80, 80),
    )  # above the size from which it counts
    plain = torch.baddbmm(layer.bias, x, layer.weight)
    torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-4)
    leaves = [x, layer.weight, layer.bias]
    expected = torch.autograd.grad((plain * weight).sum(), leaves)
    for found, gradient in zip(torch.autograd.grad((layer(x) * weight).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(layer(x[:1].detach()), layer(x[:1].detach().repeat(3, 1, 1)))
