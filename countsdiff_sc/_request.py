"""What is asked of a trained model: the arguments of ``impute``, ``get_imputed_counts`` and ``sample``, checked."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from scvi import settings

from countsdiff_sc._module import CountsDiffModule
from countsdiff_sc._validation import check_choice, check_key, check_number, check_quantiles
from countsdiff_sc.process import get_attrition, get_birth_rule
from countsdiff_sc.process._birth_death import AttritionSchedule
from countsdiff_sc.process._births import BirthRule
from countsdiff_sc.process._samplers import KNOWN_PATHS
from countsdiff_sc.process._selection import MAX_STRENGTH

#: What may be passed as attrition.
Attrition = float | str | np.ndarray | AttritionSchedule | None

_ESTIMATES = ("mean", "median", "sample")
_CONDITIONINGS = ("observed", "remask")
#: Draws from which a median or quantile is formed where it has no closed form and ``n_samples`` is 1. Of 39 sorted draws the 2nd and
#: the 38th bound 90%, the 1st and the 39th 95%, and the 20th is the median.
_N_DRAWS = 39
#: Transitions of the remasking sampler, which needs several to bring the observed entries in.
_REMASK_STEPS = 20
#: Arguments that only the remasking sampler has, and their defaults.
_REMASK_ONLY = {"n_resample": 1, "resample_window": 1, "known_path": "fresh"}


def rank_of_quantile(level: float, n_draws: int) -> int:
    """Which of the sorted draws, counted from 1, bounds so large a share of what they are exchangeable with.

    That is at most the ``k``-th of ``n`` draws with probability ``k / (n + 1)``; where no ``k`` is right the interval between two
    quantiles is rather too wide.
    """
    place = round(level * (n_draws + 1), 9)  # 0.07 x 100 is above 7
    return math.floor(place) if level < 0.5 else math.ceil(place)


def _written(value: object) -> object:
    """What is recorded of an argument that is neither a number nor a string."""
    if isinstance(value, torch.Tensor):
        # Of one number for each entry a checksum, by which to tell it from others.
        digest = hashlib.sha256(value.numpy().tobytes()).hexdigest()
        return value.numpy() if value.ndim == 1 else f"array of shape {tuple(value.shape)}, SHA-256 {digest}"
    return getattr(value, "__qualname__", None) or repr(value)


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """How molecules are brought back; the arguments that imputation and generation share.

    Parameters
    ----------
    n_steps
        Transitions; None for the default.
    guidance_scale
        A number for all conditions together, or a mapping from the name of a condition to a number.
    attrition
        See :func:`~countsdiff_sc.process.get_attrition`; also an array of fractions of the maximum, of shape ``(G,)`` or
        cells x genes.
    births
        See :func:`~countsdiff_sc.process.get_birth_rule`.
    """

    n_steps: int | None = None
    guidance_scale: float | Mapping[str, float] = 1.0
    attrition: Attrition = None
    births: str | BirthRule = "negative_binomial"

    def __post_init__(self):
        if self.n_steps is not None:
            check_number("n_steps", self.n_steps, low=1, integer=True)
        if isinstance(self.guidance_scale, Mapping):
            for name, scale in self.guidance_scale.items():
                check_number(f"guidance_scale[{name!r}]", scale, low=0)
        else:
            check_number("guidance_scale", self.guidance_scale, low=0)
        get_birth_rule(self.births)
        if np.ndim(self.attrition) and np.issubdtype(np.asarray(self.attrition).dtype, np.number):
            object.__setattr__(self, "attrition", torch.as_tensor(np.asarray(self.attrition, dtype=np.float32)))
        get_attrition(self.attrition)

    def check_fits(self, module: CountsDiffModule, n_obs: int, n_genes: int) -> None:
        """Raise unless every condition is one of the model's, and an array of attrition has one number per gene or entry.

        Raises
        ------
        KeyError
            For a condition that the model does not have.
        ValueError
            For an array of another shape, and for guidance by a model that always saw its conditions.
        """
        if isinstance(self.guidance_scale, Mapping):
            for name in self.guidance_scale:
                check_key(
                    name,
                    module.condition_names,
                    where="the conditions of the model",
                    argument="a key of guidance_scale",
                )
        if self.guides and not module.condition_names:
            msg = (
                f"guidance_scale={self.guidance_scale} has no effect: the model has no conditions. It weighs labels, batches and "
                "covariates. Register some of them, or leave it out."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        if self.guides and module.condition_names and not module.p_uncond:
            msg = (
                f"guidance_scale={self.guidance_scale} was given to a model with p_uncond=0. Guidance compares with a network that is "
                "not told the conditions, which is trained only where they are sometimes left out. Train with p_uncond=0.2, or leave "
                "guidance_scale out."
            )
            raise ValueError(msg)
        if np.ndim(self.attrition) and self.attrition.shape not in {(n_genes,), (n_obs, n_genes)}:
            msg = (
                f"attrition has shape {tuple(self.attrition.shape)}. An array must have one number per gene, ({n_genes},), or one "
                f"per entry, cells x genes = ({n_obs}, {n_genes}). Pass such an array, or a single number."
            )
            raise ValueError(msg)

    @property
    def guides(self) -> bool:
        """Whether conditions are to weigh more or less than in training."""
        scales = self.guidance_scale.values() if isinstance(self.guidance_scale, Mapping) else [self.guidance_scale]
        return any(scale != 1.0 for scale in scales)

    def of_cells(self, rows: np.ndarray | slice, device: torch.device) -> SamplingRequest:
        """The request of a block of cells: the part of ``attrition`` that is theirs, on the device of the model."""
        if np.ndim(self.attrition) == 0:
            return self
        part = self.attrition if self.attrition.ndim == 1 else self.attrition[rows]
        request = copy(self)  # not `replace`, which would check it again
        object.__setattr__(request, "attrition", part.to(device))
        return request

    def recorded(self) -> dict[str, object]:
        """Arguments as they are written down: numbers and strings as they are, others by what is written for them, None not at all."""
        given = {key: value for key, value in vars(self).items() if value is not None}
        plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
        return {key: value if isinstance(value, (str, int, float)) else _written(value) for key, value in plain.items()}


@dataclass(frozen=True, kw_only=True)
class ImputationRequest(SamplingRequest):
    """What to put at missing entries; see :meth:`countsdiff_sc.CountsDiffSC.impute`."""

    estimate: str = "mean"
    n_samples: int = 1
    conditioning: str = "observed"
    n_resample: int = 1
    resample_window: int = 1
    known_path: str = "fresh"
    selection: float | Mapping[str, float] | None = None
    quantiles: Sequence[float] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_choice("estimate", self.estimate, _ESTIMATES)
        check_choice("conditioning", self.conditioning, _CONDITIONINGS)
        check_choice("known_path", self.known_path, KNOWN_PATHS)
        for name in ("n_samples", "n_resample", "resample_window"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_quantiles(self.quantiles)
        self._check_levels()
        if self.n_samples > 1 and self.is_closed_form and (self.levels is not None or not self.is_integer):
            msg = (
                f"n_samples={self.n_samples} has no effect here: one step gives means, medians and quantiles without drawing. Pass "
                "estimate='sample' for draws."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        self._check_resampling()
        self._check_selection()

    def _check_levels(self) -> None:
        if self.levels is None or self.is_closed_form:
            return
        beyond = [level for level in self.levels if not 1 <= rank_of_quantile(level, self.n_draws) <= self.n_draws]
        if beyond:
            needed = math.ceil(round(1.0 / min(beyond[0], 1.0 - beyond[0]), 6)) - 1
            msg = (
                f"The quantile {beyond[0]:g} was asked for, of {self.n_draws} draws. Where there is no closed form, levels must be "
                f"between 1 / {self.n_draws + 1} and 1 - 1 / {self.n_draws + 1}. Pass n_samples of at least {needed}."
            )
            raise ValueError(msg)

    def _check_resampling(self) -> None:
        given = [name for name, default in _REMASK_ONLY.items() if getattr(self, name) != default]
        if given and self.conditioning != "remask":
            problem = (
                f"{given[0]}={getattr(self, given[0])!r} was given with conditioning={self.conditioning!r}. It says how observed "
                "entries are put back, which is done with conditioning='remask' only. Pass that, or leave it out."
            )
        elif self.n_resample > 1 and self.transitions == 1:
            problem = (
                f"n_resample={self.n_resample} was given with n_steps=1. The first transition starts from nothing and is never run "
                "again. Pass n_steps of at least 2, or leave n_resample out."
            )
        elif self.resample_window > 1 and self.n_resample == 1:
            problem = (
                f"resample_window={self.resample_window} was given with n_resample=1. A window is what is run again, if n_resample "
                "is above 1. Pass for example n_resample=2, or leave resample_window out."
            )
        else:
            return
        raise ValueError(problem)

    def _check_selection(self) -> None:
        given = self.selection if isinstance(self.selection, Mapping) else {None: self.selection}
        for name, strength in given.items():
            if strength is not None:
                argument = "selection" if name is None else f"selection[{name!r}]"
                check_number(argument, strength, low=-MAX_STRENGTH, high=MAX_STRENGTH)
        if self.selects and self.conditioning == "remask":
            msg = (
                f"selection={self.selection} was given with conditioning='remask'. A network that does not see which counts are "
                "observed cannot allow for how they were selected. Leave one of the two out."
            )
            raise ValueError(msg)

    @property
    def selects(self) -> bool:
        """Whether a selection was stated that is not at random."""
        return any(self.selection.values()) if isinstance(self.selection, Mapping) else bool(self.selection)

    def check_something_missing(self, mask_kind: str) -> None:
        """Raise where a selection was given but zeros are predicted, of which none is missing.

        Raises
        ------
        ValueError
            If that is so.
        """
        if self.selects and mask_kind == "zeros":
            msg = (
                f"selection={self.selection} was given, but no count is missing: without a mask and without NaN zeros are "
                "predicted, fold by fold at random. Pass observed_mask, or leave selection out."
            )
            raise ValueError(msg)

    @property
    def transitions(self) -> int:
        """Number of steps, with the default of the conditioning filled in."""
        return self.n_steps or (_REMASK_STEPS if self.conditioning == "remask" else 1)

    @property
    def n_draws(self) -> int:
        """Draws from which a median or quantile is formed where it has no closed form."""
        return self.n_samples if self.n_samples > 1 else _N_DRAWS

    @property
    def is_closed_form(self) -> bool:
        """Whether one network pass gives what is asked for: means, draws, or quantiles of the predicted law itself."""
        one_pass = self.conditioning == "observed" and self.transitions == 1
        return one_pass and (self.levels is None or self.births == "negative_binomial")

    @property
    def is_integer(self) -> bool:
        """Whether the result consists of counts."""
        return self.quantiles is not None or self.estimate != "mean"

    @property
    def levels(self) -> Sequence[float] | None:
        """Levels of the predictive distribution that are asked for; None for means and draws."""
        if self.quantiles is None:
            return (0.5,) if self.estimate == "median" else None
        return self.quantiles

    @property
    def n_outputs(self) -> int:
        """Number of matrices that are returned."""
        if self.levels is not None:
            return len(self.levels)
        return self.n_samples if self.estimate == "sample" else 1
