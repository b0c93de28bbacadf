"""The trainable part: a denoiser, its moving average, and the loss of one minibatch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from countsdiff_sc._constants import observed_mask_key
from countsdiff_sc._generation import generation_grid
from countsdiff_sc._moving_average import MovingAverage
from countsdiff_sc._training_states import hidden_conditions, training_states
from countsdiff_sc._validation import check_no_further, check_number
from countsdiff_sc.nn import Conditions, CountDenoiser, FullAttention, GeneSetTransformer
from countsdiff_sc.nn._molecules_lost import dispersion_loss, mean_loss
from countsdiff_sc.process import get_schedule, get_time_distribution, product_guidance
from countsdiff_sc.process._losses import negative_binomial_loss, weighted_bregman_loss
from countsdiff_sc.process._samplers import Denoise

#: Default number of networks.
N_MEMBERS = 3
#: Extra metric of a minibatch in evaluation mode: what each cell adds to the loss, shape ``(B,)``.
LOSS_BY_CELL = "loss_by_cell"
#: Times of generation of which one is drawn in training, and how many of them are 1, where it starts. The first molecules decide a
#: cell's depth: to learn them from times near 1 only had a rare label start with half of its.
_N_GENERATION_TIMES, _N_STARTS = 256, 32
#: Arguments of backbones that are sizes; the others are probabilities of dropout, which leave something.
_SIZES, _MAX_DROPOUT = {"n_tokens", "width", "context_width", "n_layers", "n_heads"}, 0.99
_BACKBONES = {"gene_set_transformer": GeneSetTransformer, "full_attention": FullAttention}


class CountsDiffModule(BaseModuleClass):
    """Count diffusion over ``G`` genes with random observed sets.

    Parameters
    ----------
    count_keys
        Registry keys of the ``D`` count matrices; their columns are concatenated into ``G`` genes.
    modality_sizes
        Number of columns of each.
    categorical_keys
        For each categorical condition its registry key and column in that field.
    n_categories
        Number of categories of each.
    n_continuous
        Number of continuous covariates.
    condition_names
        Column of ``obs`` of each condition, categorical ones first.
    denoiser
        ``"gene_set_transformer"``, ``"full_attention"`` or a backbone module (see :class:`~countsdiff_sc.nn.CountDenoiser`).
    schedule, loss_weighting, time_distribution
        See :func:`~countsdiff_sc.process.get_schedule`, :func:`~countsdiff_sc.process.get_loss_weighting` and
        :func:`~countsdiff_sc.process.get_time_distribution`.
    p_uncond
        Probability with which each condition of a cell is hidden in training, half of the time together with all others.
    one_pass_fraction
        Fraction of training cells whose time is not drawn from ``time_distribution``. It is exactly 1, where the one-pass
        estimates are read off, or for one in ten of them a time of a cell that is generated from nothing. They have weight
        1 under every weighting. Below 0.5 a model is for generation: it is trained twice as long by default, and its dispersion does
        not go with the rate.
    ema_decay
        Decay of the moving average of the weights, per optimiser step.
    n_members
        Networks, each trained on its own share of every minibatch. They are averaged in one pass; by several steps each cell
        follows one. By default 3, or 1 where ``denoiser`` is a module.
    **denoiser_kwargs
        Passed to the backbones named by ``denoiser``.
    """

    #: The dispersion is fitted to every so many-th cell, since its likelihood is dear. Among any 280 in a row are as many of each
    #: kind that :mod:`._training_states` treats in a special way as among all: 7 has no factor in common with 8 and 10.
    DISPERSION_EVERY = 7

    def __init__(
        self,
        *,
        count_keys: tuple[str, ...],
        modality_sizes: tuple[int, ...],
        categorical_keys: tuple[tuple[str, int], ...] = (),
        n_categories: tuple[int, ...] = (),
        n_continuous: int = 0,
        condition_names: tuple[str, ...] = (),
        denoiser: str | nn.Module = "gene_set_transformer",
        schedule="cosine",
        loss_weighting="uniform",
        time_distribution="uniform",
        p_uncond: float = 0.2,
        one_pass_fraction: float = 0.8,
        ema_decay: float = 0.995,
        n_members: int | None = None,
        **denoiser_kwargs,
    ):
        super().__init__()
        for name, value in (("p_uncond", p_uncond), ("one_pass_fraction", one_pass_fraction), ("ema_decay", ema_decay)):
            check_number(name, value, low=0, high=1)
        if p_uncond == 1.0 and (n_categories or n_continuous):
            msg = (
                f"p_uncond=1 hides {list(condition_names)} from the model in all of training. Some cells must show them. Pass less, such "
                "as 0.2, or set the data up without them."
            )
            raise ValueError(msg)
        self.count_keys = count_keys
        self.categorical_keys = categorical_keys
        self.n_categories = n_categories
        self.n_continuous = n_continuous
        self.condition_names = condition_names
        self.schedule = get_schedule(schedule)
        self.time_distribution = get_time_distribution(time_distribution)
        self.loss_weighting = self.time_distribution.weighting(loss_weighting)
        # Parts of the user's own may do anything.
        parts = denoiser, schedule, loss_weighting, time_distribution
        self.is_built_in = all(isinstance(part, (str, int)) for part in parts)
        self.p_uncond = p_uncond
        self.one_pass_fraction, self.is_for_generation = one_pass_fraction, one_pass_fraction < 0.5
        backbone = _backbone(denoiser, n_members, sum(modality_sizes), denoiser_kwargs)
        self.net = CountDenoiser(backbone, modality_sizes, n_categories, n_continuous)
        # Better for draws in one pass; cells generated by many steps are better without.
        self.net.dispersion_slope.requires_grad_(not self.is_for_generation)
        self.ema = MovingAverage(self.net, ema_decay)
        self.register_buffer("generation_times", torch.ones(_N_GENERATION_TIMES))

    # ------------------------------------------------------------------ data

    def counts(self, tensors: dict[str, Tensor], observed_mask: Tensor | None = None) -> Tensor:
        """Counts ``(B, G)``, NaN where nothing is known.

        An ``observed_mask`` ``(B, G)`` takes the place of the registered masks; NaN is never known.
        """
        x, observed = self._counts_and_mask(tensors, observed_mask)
        # 0 / 0 is NaN; to fill with NaN is five times slower on a CPU
        return x if observed is None else x * observed / observed

    def counts_and_known(
        self, tensors: dict[str, Tensor], observed_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """:meth:`counts` with 0 for NaN, and where they are known (bool)."""
        x, observed = self._counts_and_mask(tensors, observed_mask)
        # Numbers throughout: to compare takes as long on a CPU as ten of these.
        known = torch.nan_to_num(torch.add(x.new_ones(()) if observed is None else observed, x, alpha=0.0))
        return torch.nan_to_num(x) * known, known.bool()

    def _counts_and_mask(
        self, tensors: dict[str, Tensor], observed_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Counts as they stand in the data, and 1 where a mask says that they are observed and 0 elsewhere, if there is one."""
        x = _joined([tensors[key] for key in self.count_keys])
        if observed_mask is not None:
            return x, as_numbers(observed_mask, x.dtype)
        if not any(observed_mask_key(key) in tensors for key in self.count_keys):
            return x, None
        masks = [tensors.get(observed_mask_key(key), torch.ones_like(tensors[key])) for key in self.count_keys]
        return x, _joined(masks).to(x.dtype)

    def conditions(self, tensors: dict[str, Tensor]) -> Conditions:
        """Labels, batches and covariates of the cells of a minibatch, whose counts are missing at random."""
        n_cells, device = len(tensors[self.count_keys[0]]), tensors[self.count_keys[0]].device
        codes = [tensors[key][:, column].long() for key, column in self.categorical_keys]
        # A label that is not known has the code after the last.
        codes = [code.masked_fill(code >= n, -1) for code, n in zip(codes, self.n_categories, strict=True)]
        categories = torch.stack(codes, dim=1) if codes else torch.empty(n_cells, 0, dtype=torch.long, device=device)
        covariates = (
            tensors[REGISTRY_KEYS.CONT_COVS_KEY] if self.n_continuous else torch.empty(n_cells, 0, device=device)
        )
        return Conditions(categories, covariates, torch.zeros(n_cells, len(self.count_keys), device=device))

    # ------------------------------------------------------------------ training

    @auto_move_data
    def forward(self, tensors: dict[str, Tensor], *, generator: torch.Generator | None = None) -> LossOutput:
        """Loss of one minibatch, with the trained weights in training mode and their moving average otherwise."""
        states = training_states(
            self.counts(tensors),
            schedule=self.schedule,
            time_distribution=self.time_distribution,
            one_pass_fraction=self.one_pass_fraction,
            mean_profile=self.net.mean_profile,
            membership=self.net.membership,
            generation_times=self.generation_times if self.training else None,
            generator=generator,
        )
        n_deaths, n_targets, n_cells = states.n_deaths, states.n_targets, len(states.n_deaths)
        conditions = self.conditions(tensors).under(states.selection)
        if self.training:
            n_conditions = conditions.categories.shape[1] + conditions.continuous.shape[1]
            hidden = hidden_conditions(
                self.p_uncond, n_cells, n_conditions, generator=generator, device=n_deaths.device
            )
            conditions = conditions.dropped(hidden)

        cells = (states.x_t, states.survival_prob, states.t.squeeze(1), conditions)
        # A cell counts as any other, however many of its entries are targets.
        per_target = 1.0 / n_targets.clamp(min=1)
        weight = per_target * torch.where(states.one_pass, 1.0, self.loss_weighting(self.schedule, states.t))
        if self.training:
            readout = self.net.read(*cells, apart=True)
            # Of a small minibatch all, so that every network has some.
            every = self.DISPERSION_EVERY if n_cells >= self.DISPERSION_EVERY * self.net.n_members else 1
            # The divisors go into the weights, of which there are fewer than entries of the gradients.
            of_mean = mean_loss(readout, n_deaths, weight / n_cells)
            n_fitted = len(range(0, n_cells, every))
            of_dispersion = dispersion_loss(readout, n_deaths, per_target / n_fitted, every=every)
            return LossOutput(loss=of_mean + of_dispersion, n_obs_minibatch=n_cells)
        expected_births, dispersion = self.denoiser(*cells)
        by_cell = weighted_bregman_loss(n_deaths, expected_births, weight)
        by_cell = by_cell + negative_binomial_loss(n_deaths, expected_births, dispersion) * per_target.squeeze(1)
        return LossOutput(loss=by_cell.mean(), n_obs_minibatch=n_cells, extra_metrics={LOSS_BY_CELL: by_cell})

    @property
    def denoiser(self) -> nn.Module:
        """The weights in use: those being trained, or their moving average once in evaluation mode."""
        return self.net if self.training else self.ema.module

    def set_reference(self, mean_profile: Tensor, depth_concentration: Tensor, location: Tensor, scale: Tensor) -> None:
        """Set what the data fix before training: mean profile ``(G,)``, spread of depths ``(D,)``, covariates' scale."""
        for denoiser in (self.net, self.ema.module):
            denoiser.mean_profile.copy_(mean_profile)
            denoiser.depth_concentration.copy_(depth_concentration)
            denoiser.continuous_location.copy_(location)
            denoiser.continuous_scale.copy_(scale)
        # Times below 1; the others stay as they are.
        self.generation_times[_N_STARTS:] = self.generation_grid(_N_GENERATION_TIMES - _N_STARTS + 1)[1:-1]

    # ------------------------------------------------------------------ inference

    def generation_grid(self, n_steps: int) -> Tensor:
        """Times of a generated cell's transitions, from 1 to 0; double precision, shape ``(n_steps + 1,)``."""
        return generation_grid(self.schedule, n_steps, float(self.net.mean_profile.sum()))

    def bind(
        self,
        observed_mask: Tensor,
        conditions: Conditions,
        guidance_scale: float | Mapping[str, float] = 1.0,
        *,
        generator: torch.Generator | None = None,
        genes: slice | Tensor = slice(None),
    ) -> Denoise:
        """Close the denoiser over what is known about the cells, in the form the samplers call.

        Parameters
        ----------
        observed_mask
            True where the full count is visible at all times, shape ``(B, G)``; all False for an unconditional run.
        conditions
            Labels, batches, covariates and selection of the cells.
        guidance_scale
            A number for all conditions together (:func:`~countsdiff_sc.process.geometric_guidance`), or a mapping from name to
            number (:func:`~countsdiff_sc.process.product_guidance`). Each scale other than 1 costs one network pass per call
            beyond the first.
        generator
            Deals the cells out to the networks, of which each cell then follows one at all times. A mixture of their laws at
            every time anew would have cells change their mind, and differ less than those of any one network. None for the
            mixture.
        genes
            The genes that are predicted, all by default.
        """
        apart = generator is not None and self.net.n_members > 1
        order, back = self._dealt(len(observed_mask), generator) if apart else (slice(None), slice(None))
        conditions, observed = conditions[order], as_numbers(observed_mask[order], self.net.mean_profile.dtype)
        guides, options = self._guides(conditions, guidance_scale), {"apart": apart, "genes": genes}

        def denoise(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            survival_prob = torch.maximum(observed, self.schedule.survival_prob(t))  # 1 where observed
            inputs = x_t[order], survival_prob, t.expand(len(observed))
            expected_births, dispersion = self.denoiser(*inputs, conditions, **options)
            if guides:
                without = [(self.denoiser(*inputs, fewer, **options)[0], scale) for fewer, scale in guides]
                # Of nothing lost nothing is left, and not NaN, where extreme scales make infinite means of it.
                expected_births = product_guidance(expected_births, without).masked_fill(observed[:, genes] > 0, 0.0)
            return expected_births[back], dispersion[back]

        return denoise

    def _dealt(self, n_cells: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The cell in each place of equal shares, and the place of each cell: any one with the same probability.

        Places that are left over have the first cell once more.
        """
        n_places = -(-n_cells // self.net.n_members) * self.net.n_members
        places = torch.randperm(n_places, generator=generator, device=generator.device)[:n_cells]
        cells = torch.zeros(n_places, dtype=torch.long, device=generator.device)
        cells[places] = torch.arange(n_cells, device=generator.device)
        return cells, places

    def _guides(
        self, conditions: Conditions, guidance_scale: float | Mapping[str, float]
    ) -> list[tuple[Conditions, float]]:
        """For each scale other than 1, the conditions without those that it belongs to."""
        if not isinstance(guidance_scale, Mapping):
            return [] if guidance_scale == 1.0 else [(conditions.unknown(), guidance_scale)]
        device, guides = conditions.categories.device, []
        for name, scale in guidance_scale.items():
            if scale != 1.0:
                drop = torch.tensor([[each == name for each in self.condition_names]], device=device)
                guides.append((conditions.dropped(drop), scale))
        return guides


def as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 for True and 0 for False; nine times as fast on a CPU as the plain conversion."""
    return mask.view(torch.uint8).to(dtype)


def _joined(parts: list[Tensor]) -> Tensor:
    # Of a matrix stored by columns the loader makes tensors by columns.
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=1).contiguous()


def _backbone(denoiser: str | nn.Module, n_members: int | None, n_genes: int, arguments: dict) -> nn.Module:
    if n_members is not None:
        check_number("n_members", n_members, low=1, integer=True)
    if isinstance(denoiser, nn.Module):
        if n_members not in (None, 1):
            arguments = {"n_members": n_members, **arguments}
        if arguments:
            msg = (
                f"{sorted(arguments)} are not arguments of the module. With a denoiser that is already made, "
                "there is nothing else to pass them to. Give them where the denoiser is made."
            )
            raise TypeError(msg)
        return denoiser
    if denoiser not in _BACKBONES:
        msg = f"denoiser={denoiser!r} is not known. It must be one of {sorted(_BACKBONES)} or a module. Pass one of these."
        raise ValueError(msg)
    backbone = _BACKBONES[denoiser]
    of_backbone = [name for name in inspect.signature(backbone).parameters if name != "n_genes"]
    check_no_further(arguments, known=["one_pass_fraction", "ema_decay", *of_backbone])
    for name, value in arguments.items():
        if name in _SIZES:
            check_number(name, value, low=1, integer=True)
        else:
            check_number(name, value, low=0, high=_MAX_DROPOUT)
    return backbone(n_genes, n_members=n_members or N_MEMBERS, **arguments)
