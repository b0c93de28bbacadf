"""What the U-Net predicts stays a pixel, and is the posterior that its formula says."""

import sys

import numpy as np
import pytest
import torch
from scipy import stats

from countsdiff_sc.image import ImageDenoiser
from countsdiff_sc.image._checks import conditions_of
from countsdiff_sc.image._denoiser import MAX_PIXEL
from countsdiff_sc.process import get_schedule, thin

pytest.importorskip("diffusers")
WIDTHS = (8, 8)


def make(**kwargs):
    torch.manual_seed(0)
    return ImageDenoiser(**{"n_channels": 1, "widths": WIDTHS, **kwargs}).eval()


def shaken(denoiser):
    """With a last layer that says something."""
    torch.nn.init.normal_(denoiser.unet.conv_out.weight, std=0.5)
    torch.nn.init.normal_(denoiser.condition_embedding)
    return denoiser


def states(t, schedule="cosine", n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(MAX_PIXEL + 1, (n, 1, 8, 8), generator=generator).float()
    x_0[:, :, 0, 0], x_0[:, :, 0, 1] = 0.0, MAX_PIXEL
    return thin(x_0, get_schedule(schedule).survival_prob(t).view(-1, 1, 1, 1), generator=generator)


@pytest.mark.parametrize("schedule", ["cosine", "blackout", "jump"])
def test_predictions_never_leave_the_range_of_a_pixel(schedule):
    t = torch.tensor([0.0, 1e-4, 0.5, 1.0])
    x_t = states(t, schedule)
    assert (x_t[3] == 0.0).all()
    expected = shaken(make(schedule=schedule))(x_t, t)
    assert (expected >= 0.0).all()
    assert (expected <= MAX_PIXEL - x_t).all()
    assert (expected[0] == 0.0).all(), "nothing is lost at t = 0"
    assert (expected[3] > 0.0).any(), "the network speaks at t = 1"


@pytest.mark.parametrize("prob", [0.1, 0.7])
@pytest.mark.parametrize("brightness", [0.05, 0.6])
def test_the_formula_is_the_posterior_mean_of_a_binomial_pixel(brightness, prob):
    """By enumeration of all pairs of counts before and after thinning."""
    x_0 = np.arange(MAX_PIXEL + 1)[:, None]
    joint = stats.binom.pmf(x_0, MAX_PIXEL, brightness) * stats.binom.pmf(x_0.T, x_0, prob)
    seen = joint.sum(0) > 1e-200  # further out the enumeration has no digits left
    exact = (joint * (x_0 - x_0.T)).sum(0)[seen] / joint.sum(0)[seen]
    x_t = torch.arange(MAX_PIXEL + 1.0, dtype=torch.double).view(1, 1, 16, 16)
    logit = torch.full_like(x_t, brightness).logit()
    found = ImageDenoiser.posterior_mean(logit, x_t, torch.tensor(prob, dtype=torch.double)).flatten()
    np.testing.assert_allclose(found.numpy()[seen], exact, rtol=1e-9)


def test_a_new_denoiser_reads_each_pixel_by_itself():
    t = torch.full((4,), 0.4)
    x_t, denoiser = states(t), make()
    one_changed = x_t.clone()
    one_changed[:, :, 3, 3] = 7.0
    before, after = denoiser(x_t, t), denoiser(one_changed, t)
    after[:, :, 3, 3] = before[:, :, 3, 3]
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_zeros_say_nothing_and_conditions_do():
    t, denoiser = torch.full((4,), 0.4), shaken(make(n_conditions=3))
    x_t = states(t)
    unknown = denoiser(x_t, t)
    torch.testing.assert_close(denoiser(x_t, t, torch.zeros(4, 3)), unknown, rtol=0, atol=0)
    assert not torch.allclose(denoiser(x_t, t, torch.eye(3)[[0, 1, 2, 0]]), unknown)


def test_gradients_reach_every_weight():
    denoiser = shaken(make(n_conditions=2))
    t = torch.full((4,), 0.4)
    denoiser(states(t), t, torch.eye(2)[[0, 1, 0, 1]]).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in denoiser.parameters())


@pytest.mark.parametrize(
    ("widths", "error", "match"),
    [
        ((8,), ValueError, r"widths=\(8,\).*at least two"),
        ((8, 12), ValueError, r"widths=\(8, 12\).*multiple of 8"),
        ((8, 0), ValueError, r"widths\[1\]=0 is out of range"),
        ((8.0, 8), TypeError, r"widths\[0\]=8.0 is a float"),
    ],
)
def test_widths_must_fit(widths, error, match):
    with pytest.raises(error, match=match):
        make(widths=widths)


def test_conditions_of_any_type_are_read_as_numbers():
    denoiser = make(n_conditions=2)
    for conditions in (torch.eye(2).long(), torch.eye(2).bool(), torch.eye(2).double()):
        assert torch.equal(conditions_of(2, conditions, denoiser), torch.eye(2))
    assert torch.equal(conditions_of(3, torch.tensor([[1, 0]]), denoiser), torch.tensor([[1.0, 0.0]] * 3))


@pytest.mark.parametrize("name", ["n_channels", "n_conditions", "layers_per_block", "dropout"])
def test_sizes_must_be_in_range(name):
    with pytest.raises(ValueError, match=rf"{name}=-1 is out of range"):
        make(**{name: -1})


def test_without_diffusers_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"countsdiff_sc\[image\]"):
        make()
