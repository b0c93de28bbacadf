"""The forward process of a training minibatch says what it did, and does the same with and without compiled loops."""

import pytest
import torch
from laws import generator

from countsdiff_sc.process._corruption import corrupt

SHAPE = (40, 301)


@pytest.fixture
def cells():
    """Counts with NaN, some of them large, and for each cell an exposure and a survival probability, 0 and 1 among them."""
    x_0 = torch.poisson(torch.full(SHAPE, 0.7), generator=generator(1))
    x_0[:, 0] = 500.0
    x_0[torch.rand(SHAPE, generator=generator(2)) < 0.1] = torch.nan
    exposure, survival_prob = torch.rand((2, SHAPE[0], 1), generator=generator(3))
    exposure[:10], survival_prob[5:15] = 1.0, 0.0
    return x_0, exposure, survival_prob


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and not
def test_what_is_returned_belongs_together(cells, dtype):
    x_0, exposure, survival_prob = (tensor.to(dtype) for tensor in cells)
    observed_prob = torch.rand(SHAPE, generator=generator(4), dtype=dtype)
    x_t, n_deaths, prob, n_targets = corrupt(
        x_0, observed_prob=observed_prob, exposure=exposure, survival_prob=survival_prob, generator=generator(5)
    )
    known = ~x_0.isnan()
    is_target = known & (prob < 1.0)
    assert n_targets.shape == (SHAPE[0], 1)
    assert torch.equal(n_targets.squeeze(1), is_target.sum(1).to(dtype))
    assert torch.equal(n_deaths.isnan(), ~is_target)
    assert torch.equal((x_t + n_deaths)[is_target], x_0[is_target])
    assert torch.equal(x_t[known & ~is_target], x_0[known & ~is_target])
    assert not x_t[~known].any()
    assert not prob[~known].any()
    assert ((prob == exposure) | (prob == survival_prob))[known].all()
    assert not x_t[prob == 0.0].any()


@pytest.mark.parametrize("observed", [0.0, 1.0])
@pytest.mark.parametrize("left", [0.0, 1.0])
def test_where_nothing_is_random_both_ways_agree_exactly(cells, observed, left):
    x_0, _, _ = cells
    arguments = {
        "observed_prob": torch.full(SHAPE, observed),
        "exposure": torch.full((SHAPE[0], 1), left),
        "survival_prob": torch.full((SHAPE[0], 1), 1.0 - left),
    }
    compiled = corrupt(x_0, **arguments)
    plain = corrupt(x_0.double(), **{name: tensor.double() for name, tensor in arguments.items()})
    for single, double in zip(compiled, plain, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=0.0, atol=0.0, equal_nan=True)
