"""Imputation of one block of cells, on tensors: which entries are missing, and what is put there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.stats import nbinom
from torch import Tensor

from countsdiff_sc._module import CountsDiffModule, as_numbers
from countsdiff_sc._request import ImputationRequest, rank_of_quantile
from countsdiff_sc._rows import Rows, as_counts
from countsdiff_sc._side_by_side import side_by_side
from countsdiff_sc._validation import check_finite_values
from countsdiff_sc.nn import Conditions
from countsdiff_sc.process import get_birth_rule, sample_conditioned, sample_remasked
from countsdiff_sc.process._births import filled_by_draws
from countsdiff_sc.process._selection import estimate_strength

#: Without a mask, zeros are predicted in this many random folds of genes, each from the genes of the others.
N_FOLDS = 10
#: Share of the observed entries that the network sees when it is told from the mask how they were selected.
SEEN_PROB = 0.5


@dataclass
class Tally:
    """What was imputed, in numbers.

    Parameters
    ----------
    n_missing
        Entries of each modality that were filled in, shape ``(D,)``.
    n_empty_cells
        Cells in which nothing was observed.
    n_newly_hidden
        Entries that are observed by the registered masks but not by the one given now.
    n_observed, n_observed_zeros, n_observed_ones
        Entries that the one given now leaves observed, and how many of them are 0, and 1.
    """

    n_missing: np.ndarray | int = 0
    n_empty_cells: int = 0
    n_newly_hidden: int = 0
    n_observed: int = 0
    n_observed_zeros: int = 0
    n_observed_ones: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def impute_block(
    module: CountsDiffModule,
    x: Tensor,
    observed_mask: Tensor,
    conditions: Conditions,
    request: ImputationRequest,
    generator: torch.Generator,
) -> Iterator[Tensor | sparse.csr_matrix]:
    """Fill the missing entries of a block of cells.

    Parameters
    ----------
    module
        Trained module in evaluation mode.
    x
        Counts (molecules), 0 where missing, shape ``(B, G)``.
    observed_mask
        True where ``x`` is kept as it is, shape ``(B, G)``.
    conditions
        Labels, batches, covariates and selection of the cells.
    request
        What to compute.
    generator
        Source of randomness on the device of ``x``.

    Yields
    ------
    ``request.n_outputs`` matrices ``(B, G)`` with observed entries in place, one at a time: tensors, or counts as CSR where
    these are made at once.
    """
    missing = ~observed_mask
    if request.is_closed_form:
        law = _predictive_law(module, x, observed_mask, conditions, request)
        return _fill_from_law(x, missing, law, request, generator)
    return _fill_from_draws(x, missing, _sampler(module, x, observed_mask, conditions, request, generator), request)


def impute_zeros(
    module: CountsDiffModule,
    x: Tensor,
    folds: Sequence[Tensor],
    conditions: Conditions,
    request: ImputationRequest,
    generator: torch.Generator,
) -> Iterator[Tensor | sparse.csr_matrix]:
    """Fill the zeros of a block of cells, each gene fold predicted from the genes of all other folds.

    Hiding all zeros at once would tell the network, by the choice of the mask, that everything it sees is expressed,
    and inflate every prediction. A fold is hidden whole, zeros and non-zeros alike.

    Parameters
    ----------
    folds
        Indices of the genes of each.
    module, x, conditions, request, generator
        As in :func:`impute_block`.
    """
    nowhere = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
    hidden = [nowhere.index_fill(0, genes, True).expand_as(x) for genes in folds]
    if request.is_closed_form:
        mean, dispersion = torch.empty_like(x), torch.empty_like(x)
        for genes, fold in zip(folds, hidden, strict=True):
            law = _predictive_law(module, x * ~fold, ~fold, conditions, request, genes)
            mean[:, genes], dispersion[:, genes] = law
        mean.masked_fill_(x != 0, 0.0)
        return _fill_from_law(x, x == 0, (mean, dispersion), request, generator)
    samplers = [_sampler(module, x, ~fold, conditions, request, generator) for fold in hidden]

    def draw(*, final_mean: bool = False) -> Tensor:
        filled = x
        for fold, sample in zip(hidden, samplers, strict=True):
            filled = torch.where(fold & (x == 0), sample(final_mean=final_mean), filled)
        return filled

    return _fill_from_draws(x, x == 0, draw, request)


def _predictive_law(
    module, x, observed_mask, conditions, request, genes: slice | Tensor = slice(None)
) -> tuple[Tensor, Tensor]:
    """Mean and inverse dispersion of missing counts, which are 0 in ``x``, given the observed ones, by one network pass."""
    denoise = module.bind(observed_mask, conditions, request.guidance_scale, genes=genes)
    return denoise(x, torch.ones((), device=x.device))


def _fill_from_law(
    x: Tensor, missing: Tensor, law: tuple[Tensor, Tensor], request: ImputationRequest, generator: torch.Generator
) -> Iterator[Tensor | sparse.csr_matrix]:
    """Put means or quantiles of negative binomial laws, or draws, at missing entries, where ``x`` is 0.

    Elsewhere the mean is 0.
    """
    mean, dispersion = law
    if not request.is_integer:
        yield x + mean  # one of them is 0
    elif request.levels is None and request.births == "negative_binomial":
        yield from filled_by_draws(x, mean, dispersion, request.n_samples, generator)
    elif request.levels is None:
        rule = get_birth_rule(request.births)
        for _ in range(request.n_samples):
            drawn = rule(mean, dispersion, generator)
            # Rules of the package give 0 where nothing is expected; one of the user's may not.
            yield torch.where(missing, drawn, x) if callable(request.births) else x + drawn
    else:
        entries = missing.nonzero(as_tuple=True)
        for level in request.levels:
            quantile = _negative_binomial_quantile(level, mean[entries], dispersion[entries])
            yield x.index_put(entries, quantile)


def _fill_from_draws(
    x: Tensor, missing: Tensor, draw: Callable[..., Tensor], request: ImputationRequest
) -> Iterator[Tensor]:
    """Yield draws of a sampler, or their mean or quantiles at missing entries."""
    if not request.is_integer:
        mean = sum(draw(final_mean=True) for _ in range(request.n_samples)) / request.n_samples
        yield torch.where(missing, mean, x)  # a sum of large counts is rounded
    elif request.levels is None:
        yield from (draw() for _ in range(request.n_samples))
    else:
        ordered = torch.stack([draw()[missing] for _ in range(request.n_draws)]).sort(dim=0).values
        for level in request.levels:
            yield x.masked_scatter(missing, ordered[rank_of_quantile(level, request.n_draws) - 1])


def impute_cells(
    module: CountsDiffModule,
    minibatches: Iterable[dict[str, Tensor]],
    masks: Iterable[np.ndarray | None],
    request: ImputationRequest,
    *,
    selection: Sequence[float],
    rows: Sequence[np.ndarray],
    zeros_are_missing: bool,
    seed: int,
) -> tuple[list[np.ndarray | sparse.csr_matrix], Tally]:
    """Impute minibatch by minibatch.

    Parameters
    ----------
    module
        Trained module in evaluation mode.
    minibatches
        Registered tensors of consecutive blocks of cells.
    masks
        Observed mask of each block, ``(B, G)``; None where the registered data say what is missing.
    request
        What to compute.
    selection
        How much more often high counts of each modality are observed than low ones.
    rows
        Rows of each block in the data.
    zeros_are_missing
        Predict the zeros, by gene folds, instead of the entries outside the mask.
    seed
        Seed of the folds and of the blocks' generators.

    Returns
    -------
    The outputs, dense float32 for means and CSR of integers for counts, and what was imputed in numbers.
    """
    device = module.device
    folds = [torch.as_tensor(genes, device=device) for genes in gene_folds(len(module.net.mean_profile), seed)]
    strength = torch.tensor(selection, device=device)

    def imputed(block, generator: torch.Generator) -> tuple[list[np.ndarray | sparse.csr_matrix], Tally]:
        tensors, mask, cells = block
        tensors = {key: value.to(device) for key, value in tensors.items()}
        mask = None if mask is None else torch.as_tensor(mask, device=device)
        x, observed = module.counts_and_known(tensors, mask)
        conditions, of_block = module.conditions(tensors).under(strength), request.of_cells(cells, device)
        missing = as_numbers(x == 0 if zeros_are_missing else ~observed, x.dtype) @ module.net.membership
        numbers = {}
        if zeros_are_missing:
            results = impute_zeros(module, x, folds, conditions, of_block, generator)
        else:
            numbers["n_empty_cells"] = missing.sum(dim=1) == x.shape[1]
            if mask is not None:
                numbers["n_newly_hidden"] = ~module.counts(tensors).isnan() & ~observed
                numbers["n_observed"] = observed
                numbers["n_observed_zeros"] = observed & (x == 0)
                numbers["n_observed_ones"] = x == 1
            results = impute_block(module, x, observed, conditions, of_block, generator)
        results = [_stored(values, request) for values in results]
        # Read back once, when the device has to be waited for anyway.
        found = [*missing.sum(dim=0, dtype=torch.long), *(each.sum() for each in numbers.values())]
        n_missing, rest = np.split(torch.stack(found).cpu().numpy(), [missing.shape[1]])
        return results, Tally(n_missing, **dict(zip(numbers, rest.tolist(), strict=True)))

    blocks = zip(minibatches, masks, rows, strict=True)
    outputs, tally = [Rows(sum(map(len, rows))) for _ in range(request.n_outputs)], Tally()
    for results, found in side_by_side(imputed, blocks, n_blocks=len(rows), seed=seed, device=device):
        tally += found
        for output, values in zip(outputs, results, strict=True):
            output.append(values)
    return [output.stacked() for output in outputs], tally


def estimated_selection(
    module: CountsDiffModule, minibatches: Iterable[dict[str, Tensor]], masks: Iterable[np.ndarray | None]
) -> tuple[float, ...]:
    """How much more often high counts of each modality are observed than low ones, told from the masks of some cells.

    The network sees a part of what is observed. What is expected of the rest, and of what is missing, then does not depend
    on what stands there, and under a mask at random nothing but effects of cells and genes tells the two apart.

    Parameters
    ----------
    module, minibatches, masks
        As in :func:`impute_cells`, of the cells that are looked at.
    """
    device, net = module.device, module.net
    # A seed of its own: what is estimated does not depend on what is drawn.
    generator = torch.Generator(device).manual_seed(0)
    found = []
    for tensors, mask in zip(minibatches, masks, strict=True):
        tensors = {key: value.to(device) for key, value in tensors.items()}
        x, observed = module.counts_and_known(tensors, None if mask is None else torch.as_tensor(mask, device=device))
        seen = observed & (torch.rand(x.shape, generator=generator, device=device) < SEEN_PROB)
        denoise = module.bind(seen, module.conditions(tensors))
        found.append((observed, seen, *denoise(x * seen, torch.ones((), device=device))))
    matrices = [torch.cat(blocks) for blocks in zip(*found, strict=True)]
    # Each modality by itself: cells may lack one of them for reasons that have nothing to do with another.
    return tuple(
        estimate_strength(*(matrix[:, genes] for matrix in matrices), net.mean_profile[genes], seen_prob=SEEN_PROB)
        for genes in (column > 0 for column in net.membership.T)
    )


def _stored(values: Tensor | sparse.csr_matrix, request: ImputationRequest) -> np.ndarray | sparse.csr_matrix:
    """Counts as CSR of integers, means as they are."""
    values = values if sparse.issparse(values) else values.cpu().numpy()
    if request.is_integer:
        return as_counts(values)
    check_finite_values(values)
    return values


def gene_folds(n_genes: int, seed: int) -> list[np.ndarray]:
    """Indices of the genes of each random fold; sizes differ by one at most."""
    n_folds = min(N_FOLDS, max(n_genes, 1))
    fold = np.random.default_rng(seed).permutation(np.arange(n_genes) % n_folds)
    return [np.flatnonzero(fold == each) for each in range(n_folds)]


def _sampler(module, x, observed_mask, conditions, request, generator) -> Callable[..., Tensor]:
    options = {"n_steps": request.transitions, "attrition": request.attrition, "births": request.births}
    if request.conditioning == "remask":
        visible, sample = torch.zeros_like(observed_mask), sample_remasked
        options |= {name: getattr(request, name) for name in ("n_resample", "resample_window", "known_path")}
    else:
        visible, sample = observed_mask, sample_conditioned

    def draw(*, final_mean: bool = False) -> Tensor:
        # A mean is better by all networks, which costs it nothing: its last step is not drawn.
        dealer = None if final_mean else generator
        denoise = module.bind(visible, conditions, request.guidance_scale, generator=dealer)
        return sample(
            denoise, x, ~observed_mask, module.schedule, final_mean=final_mean, generator=generator, **options
        )

    return draw


def _negative_binomial_quantile(level: float, mean: Tensor, dispersion: Tensor) -> Tensor:
    size, expected = dispersion.double().cpu().numpy(), mean.double().cpu().numpy()
    return torch.as_tensor(nbinom.ppf(level, size, size / (size + expected)), dtype=mean.dtype, device=mean.device)
