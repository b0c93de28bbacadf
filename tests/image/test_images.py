"""Training, generation and filling in, on 8 x 8 images."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from countsdiff_sc.image import ImageDenoiser, Images, inpaint, sample, train
from countsdiff_sc.image._training import _minibatch

pytest.importorskip("diffusers")
QUIET = {"progress": False}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def two_kinds():
    """Bright left halves, and bright upper halves."""
    pixels = torch.full((2, 1, 8, 8), 30, dtype=torch.uint8)
    pixels[0, :, :, :4], pixels[1, :, :4] = 220, 220
    return Images(pixels, torch.eye(2), ("left", "upper"))


def untrained(**kwargs):
    torch.manual_seed(0)
    return ImageDenoiser(**{"n_channels": 1, "n_conditions": 2, "widths": (8, 8), **kwargs})


@pytest.fixture(scope="module")
def learned():
    """A denoiser of the two kinds, and the loss of each step."""
    denoiser = untrained(widths=(16, 16))
    losses = train(
        denoiser,
        two_kinds(),
        n_steps=300,
        batch_size=16,
        p_uncond=0.5,
        flip=False,
        generator=generator(),
        **QUIET,
    )
    return denoiser, losses


def distance_to_kinds(pixels):
    """Mean absolute difference of each image to each kind."""
    return (pixels[:, None].float() - two_kinds().pixels[None].float()).abs().mean((2, 3, 4))


def test_training_lowers_the_loss(learned):
    _, losses = learned
    assert losses.shape == (300,)
    assert (losses >= 0.0).all()
    assert losses[-50:].mean() < 0.2 * losses[:5].mean()


def weights_after(n_steps=3, **kwargs):
    denoiser = untrained()
    train(denoiser, two_kinds(), n_steps=n_steps, batch_size=4, generator=generator(), **kwargs, **QUIET)
    assert not denoiser.training
    return torch.cat([weights.flatten() for weights in denoiser.state_dict().values()])


def test_training_is_reproducible_and_leaves_the_average_in_use():
    assert torch.equal(weights_after(), weights_after())
    last, first = weights_after(ema_decay=0.0), torch.cat([w.flatten() for w in untrained().state_dict().values()])
    assert not torch.equal(weights_after(), last)
    assert not torch.equal(last, first)


@pytest.mark.parametrize("n_steps", [1, 9, np.int64(4)])
@pytest.mark.parametrize("warmup_fraction", [0.001, 0.1, 1])
def test_short_runs_have_a_schedule_of_the_learning_rate(n_steps, warmup_fraction):
    assert torch.isfinite(weights_after(n_steps, warmup_fraction=warmup_fraction)).all()


def test_minibatches_mirror_half_of_the_images_and_hide_some_conditions():
    images, n = two_kinds(), 4000
    draw = functools.partial(_minibatch, images, n, generator=generator())
    x_0, conditions = draw(p_uncond=0.1, flip=True)
    is_left, is_right = (x_0[:, 0, -1, column] > 100 for column in (0, -1))
    is_hidden = ~conditions.any(1)
    # Shares of 1/4, 1/4 and 1/10, to five standard errors.
    for found, share in ((is_left, 0.25), (is_right, 0.25), (is_hidden, 0.1)):
        assert abs(found.float().mean() - share) < 5 * (share * (1 - share) / n) ** 0.5
    assert torch.equal(conditions[~is_hidden, 0] > 0, (is_left | is_right)[~is_hidden])
    x_0, conditions = draw(p_uncond=0.0, flip=False)
    assert (x_0[:, 0, -1, -1] < 100).all()
    assert conditions.any(1).all()


def test_a_loss_that_is_not_finite_is_an_error():
    denoiser = untrained()
    torch.nn.init.constant_(denoiser.unet.conv_out.bias, torch.nan)
    with pytest.raises(FloatingPointError, match="loss of step 0 is nan"):
        train(denoiser, two_kinds(), n_steps=2, **QUIET)


def test_colour_without_conditions():
    images = Images(two_kinds().pixels.repeat(1, 3, 1, 1), torch.zeros(2, 0), ())
    denoiser = untrained(n_channels=3, n_conditions=0)
    train(denoiser, images, n_steps=2, **QUIET)
    assert sample(denoiser, n_images=2, size=8, n_steps=2, **QUIET).shape == (2, 3, 8, 8)


def test_samples_look_like_what_was_learned(learned):
    denoiser, _ = learned
    drawn = sample(denoiser, n_images=40, size=8, n_steps=30, generator=generator(), **QUIET)
    assert drawn.shape == (40, 1, 8, 8)
    assert drawn.dtype == torch.uint8
    distances = distance_to_kinds(drawn)
    assert distances.min(1).values.median() < 20.0, "the two kinds differ by 95"
    assert len(set(distances.argmin(1).tolist())) == 2, "both kinds are drawn; in which shares takes longer to learn"


@pytest.mark.parametrize("kind", [0, 1])
def test_conditions_choose_the_kind(learned, kind):
    denoiser, _ = learned
    conditions = torch.eye(2)[[kind]]
    settings = {"conditions": conditions, "n_steps": 30, "attrition": 0.02, "guidance_scale": 1.5}
    drawn = sample(denoiser, n_images=20, size=8, generator=generator(), **settings, **QUIET)
    distances = distance_to_kinds(drawn)
    assert (distances.argmin(1) == kind).float().mean() >= 0.9


def test_samples_are_reproducible(learned):
    denoiser, _ = learned
    settings = {"n_images": 5, "size": (8, 4), "n_steps": 4, "batch_size": 2, **QUIET}
    first, second = (sample(denoiser, **settings, generator=generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (5, 1, 8, 4)
    assert not torch.equal(first, sample(denoiser, **settings, generator=generator(1)))


@pytest.mark.parametrize(("guidance_scale", "n_passes"), [(1, 4), (1.0, 4), (0.0, 8), (2.0, 8)])
def test_guidance_costs_a_second_pass_and_1_is_none(learned, guidance_scale, n_passes):
    denoiser, _ = learned
    settings = {"n_images": 3, "size": 8, "n_steps": 4, "conditions": torch.eye(2)[[0, 1, 1]], **QUIET}
    passes = []
    with denoiser.register_forward_hook(lambda *_: passes.append(1)):
        guided = sample(denoiser, **settings, guidance_scale=guidance_scale, generator=generator())
    assert len(passes) == n_passes
    plain, without = (
        sample(denoiser, **settings | {"conditions": conditions}, generator=generator())
        for conditions in (settings["conditions"], None)
    )
    assert torch.equal(guided, plain) == (guidance_scale == 1)
    assert torch.equal(guided, without) == (guidance_scale == 0)


def test_conditions_go_with_their_images_over_batches(learned):
    denoiser, _ = learned
    kinds = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    settings = {"size": 8, "n_steps": 20, "batch_size": 3, "guidance_scale": 1.5}
    drawn = sample(denoiser, n_images=7, conditions=torch.eye(2)[kinds], generator=generator(), **settings, **QUIET)
    assert torch.equal(distance_to_kinds(drawn).argmin(1), kinds)


@pytest.mark.parametrize("options", [{}, {"n_resample": 3, "resample_window": 2}, {"known_path": "coherent"}])
def test_filling_in_keeps_what_is_known_and_completes_the_kind(learned, options):
    denoiser, _ = learned
    pixels = two_kinds().pixels.repeat(10, 1, 1, 1)
    missing = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    missing[:, :, 4:] = True
    settings = {"n_steps": 20, **options, **QUIET}
    filled = inpaint(denoiser, pixels, missing, generator=generator(), **settings)
    known = ~missing.expand_as(pixels)
    assert torch.equal(filled[known], pixels[known])
    kinds = torch.arange(20) % 2
    assert (distance_to_kinds(filled).argmin(1) == kinds).float().mean() >= 0.9
    # What stands at missing pixels is not read.
    assert torch.equal(filled, inpaint(denoiser, pixels * known, missing, generator=generator(), **settings))


def test_nothing_missing_leaves_everything(learned):
    denoiser, _ = learned
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8))
    assert torch.equal(
        inpaint(denoiser, pixels, torch.zeros_like(pixels, dtype=torch.bool), n_steps=2, **QUIET), pixels
    )


def test_images_that_do_not_fit_are_refused():
    images, denoiser = two_kinds(), untrained()
    for wrong, match in [
        (replace(images, pixels=images.pixels.float()), "Pixels are torch.float32"),
        (replace(images, pixels=images.pixels[:0]), "at least one image"),
        (replace(images, pixels=images.pixels.repeat(1, 3, 1, 1)), r"\(N, 1, height, width\)"),
        (replace(images, pixels=images.pixels[:, :, :7]), "multiples of 2"),
        (replace(images, conditions=torch.eye(3)), r"conditions has shape \(3, 3\)"),
        (replace(images, conditions=torch.full((2, 2), torch.nan)), "not finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            train(denoiser, wrong, n_steps=1, **QUIET)
    for wrong, error, match in [
        (images.pixels, ValueError, r"missing_mask is torch.uint8"),
        (torch.ones(8, 7, dtype=torch.bool), ValueError, r"missing_mask has shape \(8, 7\)"),
        (torch.ones(2, 8, 8, dtype=torch.bool), ValueError, r"missing_mask has shape \(2, 8, 8\)"),
        (np.ones((8, 8), bool), TypeError, "missing_mask is a ndarray"),
    ]:
        with pytest.raises(error, match=match):
            inpaint(denoiser, images.pixels, wrong, **QUIET)


def test_guidance_without_conditions_is_refused():
    with pytest.raises(ValueError, match="guidance_scale=2 has no conditions"):
        sample(untrained(), n_images=1, size=8, guidance_scale=2, **QUIET)


@pytest.mark.parametrize(
    "options", [{"size": 8.0}, {"size": (8,)}, {"n_steps": 2.5}, {"conditions": np.eye(2)}, {"batch_size": "many"}]
)
def test_what_is_no_number_or_tensor_is_refused(options):
    with pytest.raises(TypeError, match=f"{next(iter(options))}.* is a"):
        sample(untrained(), **{"n_images": 2, "size": 8, **options}, **QUIET)


@pytest.mark.parametrize("name", ["n_images", "size", "n_steps", "batch_size", "guidance_scale"])
def test_numbers_of_sampling_must_be_in_range(name):
    with pytest.raises(ValueError, match=f"{name}=-1"):
        sample(untrained(), **{"n_images": 1, "size": 8, name: -1}, **QUIET)


@pytest.mark.parametrize("name", ["n_steps", "batch_size", "lr", "warmup_fraction", "p_uncond", "ema_decay"])
def test_numbers_of_training_must_be_in_range(name):
    with pytest.raises(ValueError, match=f"{name}=-1"):
        train(untrained(), two_kinds(), **{"n_steps": 1, name: -1}, **QUIET)
