"""Three small generative models of one size, and one way to train them.

Each has ``loss(x, generator)``, the objective of a minibatch of counts (a mean over rows, nats or squared errors), and
``sample(n_rows, n_steps, generator)``, which returns counts. Shapes are (rows ``B``, dimensions ``G``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from countsdiff_sc import process
from countsdiff_sc._one_cycle import one_cycle
from countsdiff_sc.evaluation._categorical import CountClasses
from countsdiff_sc.evaluation._masked_diffusion import remdm_sample

#: Trained numbers of each model, about: widths are chosen to meet it.
N_PARAMETERS = 20_000
#: Sines and cosines of time that a network reads.
N_FREQUENCIES = 6
BATCH_SIZE, LR, EMA_DECAY, MAX_GRADIENT = 512, 2e-3, 0.999, 1.0


def mlp(n_in: int, n_out: int, n_parameters: int = N_PARAMETERS) -> nn.Sequential:
    """Two hidden layers of the width that comes closest to the number of parameters."""
    sizes = {width: width * (n_in + 1) + width * (width + 1) + n_out * (width + 1) for width in range(1, 1000)}
    width = min(sizes, key=lambda width: abs(sizes[width] - n_parameters))
    layers = [nn.Linear(n_in, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, n_out)]
    return nn.Sequential(*layers)


def time_features(t: Tensor) -> Tensor:
    """Sines and cosines of times in [0, 1], shape ``(B, 2 N_FREQUENCIES)``."""
    phases = 0.5 * math.pi * t.unsqueeze(1) * 2.0 ** torch.arange(N_FREQUENCIES)
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class CountsDiff(nn.Module):
    """Count diffusion: the network predicts each dimension's rate and dispersion, hence the law of the molecules lost."""

    def __init__(self, train: Tensor):
        super().__init__()
        self.n_dims = train.shape[1]
        self.net = mlp(self.n_dims + 2 * N_FREQUENCIES, 2 * self.n_dims)
        self.schedule = process.CosineSchedule()
        self.register_buffer("profile", train.mean(0))

    def forward(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (molecules) and inverse dispersion of the molecules lost."""
        t = t.expand(len(x_t))
        log_ratio, log_dispersion = self.net(torch.cat([x_t.log1p(), time_features(t)], dim=1)).chunk(2, dim=1)
        rate, dispersion = self.profile * log_ratio.exp(), log_dispersion.clamp(-5.0, 8.0).exp()
        survival_prob = self.schedule.survival_prob(t).unsqueeze(1)
        # The mean must not be bent to please the dispersion's likelihood.
        expected, _ = process.gamma_poisson_posterior(rate, dispersion.detach(), x_t, survival_prob)
        return expected, dispersion + x_t

    def loss(self, x_0: Tensor, generator: torch.Generator) -> Tensor:
        return count_loss(self, x_0, generator)

    @torch.no_grad()
    def sample(self, n_rows: int, n_steps: int, generator: torch.Generator) -> Tensor:
        return sample_counts(self, n_rows, n_steps, generator)


def count_loss(denoise, x_0: Tensor, generator: torch.Generator) -> Tensor:
    """Loss of the mean plus loss of the dispersion, in nats per row; times are continuous and uniform."""
    t = torch.rand(len(x_0), generator=generator)
    x_t = process.thin(x_0, denoise.schedule.survival_prob(t).unsqueeze(1), generator=generator)
    (expected, dispersion), n_deaths = denoise(x_t, t), x_0 - x_t
    of_mean = process.bregman_loss(n_deaths, expected)
    of_dispersion = process.negative_binomial_nll(n_deaths, expected.detach(), dispersion)
    return (of_mean + of_dispersion).sum(1).mean()


def sample_counts(denoise, n_rows: int, n_steps: int, generator: torch.Generator) -> Tensor:
    """Counts from nothing: every entry is missing. The schedule is the one that ``denoise`` was made for."""
    nothing = torch.zeros(n_rows, denoise.n_dims)
    everything = torch.ones_like(nothing, dtype=torch.bool)
    return process.sample_conditioned(
        denoise, nothing, everything, denoise.schedule, n_steps=n_steps, births="negative_binomial", generator=generator
    )


class GaussianDiffusion(nn.Module):
    """DDPM (Ho et al. 2020) on standardised ``log1p`` counts; draws are ``expm1``'ed and rounded."""

    N_TIMES = 1000

    def __init__(self, train: Tensor):
        from diffusers import DDPMScheduler  # here, so that the other models need no extra package

        super().__init__()
        n_dims, y = train.shape[1], train.log1p()
        self.net = mlp(n_dims + 2 * N_FREQUENCIES, n_dims)
        self.register_buffer("location", y.mean(0))
        self.register_buffer("scale", y.std(0))
        self.scheduler = DDPMScheduler(
            num_train_timesteps=self.N_TIMES,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="epsilon",
            clip_sample=True,  # of the predicted data, to the range of the training data
            clip_sample_range=float(((y - self.location) / self.scale).abs().max()),
            timestep_spacing="trailing",  # few steps start from pure noise too
        )

    def forward(self, z: Tensor, times: Tensor) -> Tensor:
        """The noise in ``z`` at whole times below ``N_TIMES``."""
        t = (times.expand(len(z)) + 1.0) / self.N_TIMES
        return self.net(torch.cat([z, time_features(t)], dim=1))

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        z = (x.log1p() - self.location) / self.scale
        noise = torch.randn(z.shape, generator=generator)
        times = torch.randint(self.N_TIMES, (len(z),), generator=generator)
        return F.mse_loss(self(self.scheduler.add_noise(z, noise, times), times), noise)

    @torch.no_grad()
    def sample(self, n_rows: int, n_steps: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(n_rows, len(self.scale), generator=generator)
        self.scheduler.set_timesteps(n_steps)
        for time in self.scheduler.timesteps:
            z = self.scheduler.step(self(z, time), time, z, generator=generator).prev_sample
        return (z * self.scale + self.location).expm1().round().clamp(min=0.0)


class MaskedDiffusion(nn.Module):
    """Absorbing diffusion over counts as categories (MDLM, Sahoo et al. 2024).

    Sampler, bound and categorical head are those of :class:`~countsdiff_sc.evaluation.MaskedDiffusion`; the network is not.
    """

    #: Functions of the category by which an entry's logits may differ from the frequencies of its dimension.
    RANK = 6

    def __init__(self, train: Tensor):
        super().__init__()
        n_dims, n_classes = train.shape[1], int(train.max()) + 1
        self.classes = CountClasses(train.numpy(), torch.ones_like(train, dtype=torch.bool).numpy(), n_classes)
        place = self.classes.lower.log1p() / self.classes.lower[-1].log1p()
        self.basis = nn.Parameter(torch.stack([torch.cos(math.pi * (r + 1) * place) for r in range(self.RANK)]))
        self.net = mlp(2 * n_dims + 2 * N_FREQUENCIES, n_dims * self.RANK, N_PARAMETERS - self.basis.numel())
        nn.init.zeros_(self.net[-1].weight)  # training starts from the frequencies
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("log_frequency", self.classes.log_frequency)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Logits ``(B, G, C)`` from counts and where they are visible."""
        seen = visible.to(x.dtype)
        inputs = torch.cat([(x * seen).log1p(), seen, time_features(1.0 - seen.mean(1))], dim=1)
        factors = self.net(inputs).unflatten(1, (x.shape[1], self.RANK))
        return self.log_frequency + factors @ self.basis

    def loss(self, x: Tensor, generator: torch.Generator) -> Tensor:
        fraction = (torch.rand(1, generator=generator) + torch.arange(len(x)).unsqueeze(1) / len(x)) % 1.0
        masked = torch.rand(x.shape, generator=generator) < fraction
        logits = self(x, ~masked).flatten(0, 1)
        nats = F.cross_entropy(logits, self.classes.encode(x).flatten(), reduction="none").view(x.shape)
        # The mean over a row's masked entries bounds the likelihood, as in evaluation.MaskedDiffusion.
        return ((nats * masked).sum(1) / masked.sum(1).clamp(min=1)).mean() * x.shape[1]

    @torch.no_grad()
    def sample(self, n_rows: int, n_steps: int, generator: torch.Generator) -> Tensor:
        def draw(x: Tensor, visible: Tensor, entries: tuple[Tensor, ...]) -> Tensor:
            rows, dims = entries
            if not len(rows):
                return x.new_empty(0)
            chosen, position = rows.unique(return_inverse=True)  # most rows have nothing to decode in a short step
            probabilities = self(x[chosen], visible[chosen])[position, dims].softmax(1)
            classes = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            return self.classes.draw(dims, classes, generator)

        nothing = torch.zeros(n_rows, len(self.log_frequency))
        everything = torch.ones_like(nothing, dtype=torch.bool)
        return remdm_sample(draw, nothing, everything, n_steps=n_steps, eta=0.0, generator=generator)


MODELS = {"CountsDiff": CountsDiff, "Gaussian": GaussianDiffusion, "masked": MaskedDiffusion}


def fit(
    model: nn.Module, train: Tensor, validation: Tensor, *, n_steps: int, n_checks: int, seed: int
) -> Iterator[tuple[int, float]]:
    """Train in place; yield the step and the validation loss of the averaged weights, of which the last stay.

    Adam, one cycle of the learning rate, and a moving average of the weights, for every model.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    schedule = one_cycle(optimizer, n_steps, warmup_fraction=0.1)
    average = copy.deepcopy(model).requires_grad_(False)
    for step in range(1, n_steps + 1):
        rows = torch.randint(len(train), (BATCH_SIZE,), generator=generator)
        optimizer.zero_grad()
        model.loss(train[rows], generator).backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        optimizer.step()
        schedule.step()
        weight = 1.0 - min(EMA_DECAY, step / (10.0 + step))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], weight)
        if step % max(n_steps // n_checks, 1) == 0:
            with torch.no_grad():  # the same noise at every check
                yield step, float(average.loss(validation, torch.Generator().manual_seed(0)))
    model.load_state_dict(average.state_dict())
