"""What a network is shown of the cells of a minibatch, and what it has to guess."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from countsdiff_sc.process import SurvivalSchedule, TimeDistribution
from countsdiff_sc.process._corruption import corrupt
from countsdiff_sc.process._selection import MAX_STRENGTH, height

#: How often a cell's whole modality is hidden, where there are several.
MISSING_MODALITY_FRACTION = 0.2
#: How often a cell's observed counts are thinned, and the least that is left of them.
SHALLOW_FRACTION, MIN_EXPOSURE = 0.5, 0.2
# Cells come in random order. Which of them are treated in a special way does not depend on what is drawn, so that a device
# need not be waited for.
#: Cells that lose low counts more often than high ones, or the reverse.
SELECTIVE = slice(0, None, 8)
#: Cells of which nothing is observed, at times that a generated cell goes through, unless their time is random anyway.
FROM_NOTHING = slice(5, None, 10)  # odd numbers, so no cell is of both kinds


@dataclass(frozen=True)
class TrainingStates:
    """States of ``B`` cells.

    Parameters
    ----------
    x_t, n_deaths, survival_prob, n_targets
        What is left of the counts, what was lost, with which probability, and of how many entries; see
        :func:`~countsdiff_sc.process._corruption.corrupt`.
    t
        Time of the entries that are not observed, shape ``(B, 1)``.
    one_pass
        Whether that was not drawn from the time distribution, bool, shape ``(B, 1)``.
    selection
        How much more often high counts are observed than low ones, in each modality, see
        :mod:`~countsdiff_sc.process._selection`; ``(B, D)``.
    """

    x_t: Tensor
    n_deaths: Tensor
    survival_prob: Tensor
    n_targets: Tensor
    t: Tensor
    one_pass: Tensor
    selection: Tensor


def training_states(
    x_0: Tensor,
    *,
    schedule: SurvivalSchedule,
    time_distribution: TimeDistribution,
    one_pass_fraction: float,
    mean_profile: Tensor,
    membership: Tensor,
    generation_times: Tensor | None,
    generator: torch.Generator | None,
) -> TrainingStates:
    """Draw a time and an observed set for each cell, and thin its counts.

    Parameters
    ----------
    x_0
        Counts (molecules), NaN where nothing is known, shape ``(B, G)``.
    schedule, time_distribution
        Of the model.
    one_pass_fraction
        Fraction of cells whose time is 1, or one that generation goes through.
    mean_profile
        Molecules of an average cell, shape ``(G,)``.
    membership
        Modality of each gene, one-hot, shape ``(G, D)``.
    generation_times
        Times of which those of generation are drawn, or None for 1 throughout, as in validation.
    generator
        Source of randomness on the device of ``x_0``.
    """
    n_cells = len(x_0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=x_0.device)

    t = time_distribution.at(schedule, uniform(n_cells, 1))
    one_pass = uniform(n_cells, 1) < one_pass_fraction
    t = t.masked_fill(one_pass, 1.0)
    observed_prob, selection = observation_prob(x_0, mean_profile, membership, generator)
    if generation_times is not None:
        start_from_nothing(t, observed_prob, one_pass, generation_times, generator)
    n_modalities = membership.shape[1]
    if n_modalities > 1:
        kept = uniform(n_cells, n_modalities) >= MISSING_MODALITY_FRACTION
        observed_prob = observed_prob * (kept.to(x_0.dtype) @ membership.T)
    # Some cells are seen at a lower depth than they were measured: what they lose there is a target as well.
    shallow = uniform(n_cells, 1) < SHALLOW_FRACTION
    exposure = torch.where(shallow, MIN_EXPOSURE + (1.0 - MIN_EXPOSURE) * uniform(n_cells, 1), 1.0)
    x_t, n_deaths, survival_prob, n_targets = corrupt(
        x_0,
        observed_prob=observed_prob,
        exposure=exposure,
        survival_prob=schedule.survival_prob(t),
        generator=generator,
    )
    return TrainingStates(x_t, n_deaths, survival_prob, n_targets, t, one_pass, selection)


def observation_prob(
    x_0: Tensor, mean_profile: Tensor, membership: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Probability with which each entry is observed, ``(B, G)``, and how selective that is, ``(B, D)``.

    The observed fraction of a cell is itself uniform, so every conditional met at imputation, and generation, is trained. Some
    cells lose low counts more often than high ones, or the reverse: about two thirds of their entries are observed.
    """
    n_cells, n_genes = x_0.shape
    x_0 = torch.nan_to_num(x_0[SELECTIVE])
    sizes = (n_cells, 1), (len(x_0), membership.shape[1])
    fraction, strength = (torch.rand(size, generator=generator, device=x_0.device) for size in sizes)
    prob, selection = fraction.repeat(1, n_genes), fraction.new_zeros(n_cells, membership.shape[1])
    selection[SELECTIVE] = MAX_STRENGTH * (2.0 * strength - 1.0)
    of_entries = selection[SELECTIVE] @ membership.T
    odds = torch.logit(fraction[SELECTIVE].sqrt(), eps=1e-4) + of_entries * height(x_0, mean_profile)
    prob[SELECTIVE] = torch.sigmoid(odds)
    return prob, selection


def start_from_nothing(
    t: Tensor, observed_prob: Tensor, one_pass: Tensor, times: Tensor, generator: torch.Generator | None
) -> None:
    """Change, in place, some cells of time 1 to states of a cell that is being generated, at any of ``times``."""
    drawn = times[torch.randint(len(times), t[FROM_NOTHING].shape, generator=generator, device=t.device)]
    t[FROM_NOTHING] = torch.where(one_pass[FROM_NOTHING], drawn, t[FROM_NOTHING])
    observed_prob[FROM_NOTHING] *= ~one_pass[FROM_NOTHING]


def hidden_conditions(
    p_uncond: float, n_cells: int, n_conditions: int, *, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Which conditions of a cell are hidden, each with probability ``p_uncond``; bool, shape ``(n_cells, n_conditions)``.

    Of several half of them are hidden all together, since guidance compares with a network that is told none: of four that are hidden
    independently in a fifth of the cells none would be left in one of 600.
    """

    def is_chosen(prob: float, size: int) -> Tensor:
        return torch.rand((n_cells, size), generator=generator, device=device) < prob

    if n_conditions < 2:
        return is_chosen(p_uncond, n_conditions)
    together = p_uncond / 2.0
    return is_chosen(together / (1.0 - together), n_conditions) | is_chosen(together, 1)
