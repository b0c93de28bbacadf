"""What a denoiser is told about a cell besides its counts: time, depth, labels, batches, covariates, selection."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._members import MemberLinear


@dataclass(frozen=True)
class Conditions:
    """Known facts about ``B`` cells; :class:`CellContext` gets them with a leading axis of networks.

    Parameters
    ----------
    categories
        One code per categorical condition, ``-1`` for unknown; integers, shape ``(B, n_categorical)``.
    continuous
        Continuous covariates, shape ``(B, n_continuous)``.
    selection
        How much more often high counts of each modality are observed than low ones, 0 where they are missing at random, see
        :meth:`countsdiff_sc.CountsDiffSC.impute`; shape ``(B, D)``.
    """

    categories: Tensor
    continuous: Tensor
    selection: Tensor

    def __getitem__(self, cells: Tensor | slice) -> Conditions:
        """Those of some cells."""
        return Conditions(self.categories[cells], self.continuous[cells], self.selection[cells])

    def under(self, selection: Tensor) -> Conditions:
        """Copy for another selection, the same for all cells ``(D,)`` or by cell ``(B, D)``."""
        return replace(self, selection=torch.zeros_like(self.selection) + selection)

    def dropped(self, drop: Tensor) -> Conditions:
        """Copy in which conditions marked in ``drop`` (bool, ``(B, n_categorical + n_continuous)``) are unknown."""
        n_categorical = self.categories.shape[1]
        categories = self.categories.masked_fill(drop[:, :n_categorical], -1)
        return replace(
            self, categories=categories, continuous=self.continuous.masked_fill(drop[:, n_categorical:], math.nan)
        )

    def unknown(self) -> Conditions:
        """Copy in which every label, batch and covariate is unknown; the selection is none of these."""
        unknown = torch.full_like(self.categories, -1), torch.full_like(self.continuous, math.nan)
        return Conditions(*unknown, self.selection)


class ConditionEmbedding(nn.Module):
    """Sum of one learned vector per condition; an unknown category has its own, an unknown covariate adds nothing."""

    def __init__(self, width: int, n_categories: tuple[int, ...], n_continuous: int, n_members: int = 1):
        super().__init__()
        # Row 0 of each table: unknown. Large at the start, so that categories differ before they have learned anything: one of ten
        # cells has no time to move away from the others.
        self.tables = nn.ParameterList(0.3 * torch.randn(n_members, n + 1, width) for n in n_categories)
        self.linear = MemberLinear(n_members, n_continuous, width, bias=False) if n_continuous else None
        self.register_buffer("members", torch.arange(n_members).unsqueeze(1), persistent=False)

    def forward(self, conditions: Conditions) -> Tensor | float:
        """Embed conditions of ``E`` or 1 times ``B`` cells as ``(E, B, C)``, or as 0 where the model has none."""
        embedded = 0.0
        for index, table in enumerate(self.tables):
            embedded = embedded + table[self.members, conditions.categories[..., index] + 1]
        if self.linear is not None:
            embedded = embedded + self.linear(torch.nan_to_num(conditions.continuous))
        return embedded


def fourier_features(t: Tensor, n_features: int) -> Tensor:
    r"""Sines and cosines of a time in ``[0, 1]`` at octave-spaced frequencies; shape ``(...)`` to ``(..., n_features)``.

    Continuous in ``t``: nothing is rounded to a table of steps.
    """
    frequency = math.pi * 2.0 ** torch.arange(n_features // 2, device=t.device, dtype=t.dtype)
    angle = t.unsqueeze(-1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class CellContext(nn.Module):
    """Embed time, visible depth, selection and conditions into one vector per cell.

    Parameters
    ----------
    width
        Width ``C`` of the context.
    n_modalities
        Number of modalities ``D``.
    n_categories
        Number of categories of each categorical condition.
    n_continuous
        Number of continuous covariates.
    n_members
        Number of networks ``E``.
    selection
        Whether the networks are told how counts were selected.
    """

    N_TIME_FEATURES = 8

    def __init__(
        self,
        width: int,
        n_modalities: int = 1,
        n_categories: tuple[int, ...] = (),
        n_continuous: int = 0,
        n_members: int = 1,
        *,
        selection: bool = True,
    ):
        super().__init__()
        self.selection = selection
        self.scalars = MemberLinear(n_members, self.N_TIME_FEATURES + n_modalities * (1 + selection) + 2, width)
        self.out = MemberLinear(n_members, width, width)
        self.conditions = ConditionEmbedding(width, n_categories, n_continuous, n_members)

    def forward(self, x_t: Tensor, survival_prob: Tensor, depth: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Context ``(E, B, C)`` from counts and survival probabilities, depth and time of ``E`` or 1 times ``B`` cells.

        Parameters
        ----------
        x_t, survival_prob
            Shape ``(E, B, G)`` or, shared by all networks, ``(1, B, G)``.
        depth
            Shape ``(E, B, D)`` or ``(1, B, D)``.
        t
            Shape ``(E, B)`` or ``(1, B)``.
        conditions
            With the same leading axis.
        """
        n_molecules = x_t.sum(dim=-1, keepdim=True)
        scalars = [fourier_features(t, self.N_TIME_FEATURES), depth.log(), survival_prob.mean(-1, keepdim=True)]
        # Counts of molecules span orders of magnitude; 7 nats is about a thousand.
        scalars.append(n_molecules.log1p() / 7.0)
        if self.selection:
            # Large beside the other numbers: an eighth of the cells has to teach in a few hundred steps what it means.
            scalars.append(2.0 * conditions.selection)
        return self.out(F.silu(self.scalars(torch.cat(scalars, dim=-1)))) + self.conditions(conditions)
