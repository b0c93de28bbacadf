"""Masked diffusion over classes of counts: the discrete diffusion model to compare with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from countsdiff_sc._one_cycle import one_cycle
from countsdiff_sc._training_defaults import default_max_epochs
from countsdiff_sc._validation import check_choice, check_number

from ._categorical import CategoricalDenoiser, CountClasses
from ._inputs import check_fitted, check_trainable, visible_counts
from ._rank_one import fit_rank_one

#: Entries whose class probabilities are held in memory at once.
BLOCK_ENTRIES = 2**17
#: Share of the training cells that choose the epoch, if there are as many cells.
VALIDATION_FRACTION, MIN_CELLS_TO_VALIDATE = 0.1, 20
#: Peak of the one-cycle learning rate, share of the steps in which it rises, decay of weights, largest gradient norm, and
#: decay of the moving average: those of :class:`~countsdiff_sc.CountsDiffSC`, but for its smaller norm and its decay of squared
#: gradients, with which this model is 1 to 3% worse at half of the entries hidden and more (pbmc3k).
LR, WARMUP_FRACTION, WEIGHT_DECAY, MAX_GRADIENT, EMA_DECAY = 2.5e-3, 0.1, 0.05, 1.0, 0.995
#: Rates of remasking in the authors' scripts, for 1,024 steps, by strategy.
PUBLISHED_ETA = {"cap": 0.008, "rescale": 0.015}


def step_probabilities(alpha_t: float, alpha_s: float, *, strategy: str, eta: float) -> tuple[float, float]:
    r"""Probabilities that a masked entry is decoded, and a decoded one masked again, in a step of ReMDM.

    Whatever the rate :math:`\sigma` of remasking, a fraction :math:`\alpha_s` is decoded after the step if
    :math:`\alpha_t` was before it; with ``eta=0`` the step is that of MDLM.

    Parameters
    ----------
    alpha_t, alpha_s
        Expected fractions of decoded entries before and after, :math:`\alpha_t < \alpha_s`.
    strategy
        ``"cap"``: :math:`\sigma = \min(\eta, \sigma_{\max})`; ``"rescale"``: :math:`\sigma = \eta \sigma_{\max}`.
    eta
        Rate of remasking, in [0, 1].

    Source
    ------
    :cite:p:`Wang2025`, section 4.1.
    """
    largest = min(1.0, (1.0 - alpha_s) / alpha_t) if alpha_t > 0.0 else 1.0
    remask = min(eta, largest) if strategy == "cap" else eta * largest
    return (alpha_s - (1.0 - remask) * alpha_t) / (1.0 - alpha_t), remask


def remdm_sample(
    draw: Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor],
    x_known: Tensor,
    missing_mask: Tensor,
    *,
    n_steps: int,
    strategy: str = "cap",
    eta: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Decode the missing entries step by step, masking a few of them again; observed entries never are.

    Parameters
    ----------
    draw
        Called as ``draw(x, visible, entries)`` with counts, 0 where masked, and where they are visible, each ``(B,
        G)``; returns counts drawn at the ``entries``, each given what is visible.
    x_known
        Counts (molecules), shape ``(B, G)``; only its observed entries are read.
    missing_mask
        True where a count is to be drawn, shape ``(B, G)``.
    n_steps
        Steps, equal to calls of ``draw``; the decoded fraction grows by the same amount in each.
    strategy, eta
        See :func:`step_probabilities`; by default the rate of the authors' scripts.
    generator
        Source of which entries are decoded and masked.
    """
    check_number("n_steps", n_steps, low=1, integer=True)
    check_choice("strategy", strategy, sorted(PUBLISHED_ETA))
    eta = PUBLISHED_ETA[strategy] if eta is None else eta
    check_number("eta", eta, low=0, high=1)
    x, decoded = x_known.masked_fill(missing_mask, 0.0), torch.zeros_like(missing_mask)
    for alpha_t, alpha_s in pairwise(k / n_steps for k in range(n_steps + 1)):
        unmask, remask = step_probabilities(alpha_t, alpha_s, strategy=strategy, eta=eta)
        u = torch.rand(x.shape, generator=generator, device=x.device)
        opened, closed = missing_mask & ~decoded & (u < unmask), decoded & (u < remask)
        entries = opened.nonzero(as_tuple=True)
        x[entries] = draw(x, ~missing_mask | decoded, entries)
        x.masked_fill_(closed, 0.0)
        decoded = (decoded | opened) & ~closed
    return x


class MaskedDiffusion:
    """Absorbing-state diffusion over classes of counts, imputing by the sampler of ReMDM.

    An entry is in one of at most ``n_classes`` classes, or masked: diffusion with an absorbing state
    :cite:p:`Austin2021`. A network predicts the classes of masked entries from the visible ones. It has the backbone
    and size of the default denoiser. It is trained on random masked fractions, uniform in [0, 1], by the cross-entropy
    of masked entries over the fraction that is masked, which bounds the log-likelihood :cite:p:`Sahoo2024`. Here the
    fraction is the cell's own rather than the expected one, so that the weighted sum is a mean over the cell's masked
    entries: the same bound, with less noise. Means are imputed by one pass, draws by steps with remasking
    :cite:p:`Wang2025`.

    Counts have a class of their own as long as there are enough classes; if not, large ones share ranges of about equal
    ratio. A class stands for the gene's training counts in it: their mean, or one of them.

    Parameters
    ----------
    n_classes
        Largest number of classes.
    rank
        Rank of the categorical head.
    max_epochs
        Passes over the training cells; by default as many as one network of :class:`~countsdiff_sc.CountsDiffSC` is
        given. The moving average of the weights that is best on a tenth of the cells is kept.
    batch_size
        Cells in a minibatch.
    seed
        Seed of training. The global random states are left as they were.
    **backbone_kwargs
        Passed to :class:`~countsdiff_sc.nn.GeneSetTransformer`, such as ``width``.
    """

    def __init__(
        self,
        *,
        n_classes: int = 64,
        rank: int = 6,
        max_epochs: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
        **backbone_kwargs,
    ):
        for name, value, low in (("n_classes", n_classes, 2), ("rank", rank, 1), ("batch_size", batch_size, 1)):
            check_number(name, value, low=low, integer=True)
        if max_epochs is not None:
            check_number("max_epochs", max_epochs, low=1, integer=True)
        self.n_classes, self.rank, self.max_epochs = n_classes, rank, max_epochs
        self.batch_size, self.seed, self.backbone_kwargs = batch_size, seed, backbone_kwargs
        self._net = None

    def fit(self, counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> MaskedDiffusion:
        """Train on the observed entries of counts (molecules), cells x genes; labels are not used."""
        visible, observed = visible_counts(counts, observed_mask)
        check_trainable(observed)
        self._classes = CountClasses(visible, observed, self.n_classes)
        depth, profile = fit_rank_one(visible, observed)
        scale = depth.mean() or 1.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = CategoricalDenoiser(
                depth / scale, profile * scale, self._classes, rank=self.rank, **self.backbone_kwargs
            )
            self._net = self._train(net, torch.as_tensor(visible), torch.as_tensor(observed))
        return self

    def impute(self, counts: np.ndarray, observed_mask: np.ndarray) -> np.ndarray:
        """Expected counts from one pass, cells x genes; observed ones are returned as they are."""

        def expected(x: Tensor, visible: Tensor, entries: tuple[Tensor, ...]) -> Tensor:
            return (self._net(x, visible, entries).softmax(1) * self._classes.mean[entries[1]]).sum(1)

        imputed = []
        for x, missing in self._blocks(counts, observed_mask):
            entries = missing.nonzero(as_tuple=True)
            with torch.no_grad():
                x[entries] = expected(x, ~missing, entries)
            imputed.append(x)
        return torch.cat(imputed).numpy()

    def draw(
        self,
        counts: np.ndarray,
        observed_mask: np.ndarray,
        *,
        n_samples: int = 1,
        n_steps: int = 64,
        strategy: str = "cap",
        eta: float | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Draws of the hidden counts, whole numbers of shape ``(n_samples, cells, genes)``; observed ones are kept.

        Parameters
        ----------
        counts, observed_mask
            Counts (molecules) and where they are known, cells x genes.
        n_samples
            Number of draws.
        n_steps, strategy, eta
            Steps, which are network passes; what limits the rate of remasking, ``"cap"`` or ``"rescale"``; and that rate, by
            default the one of the authors' scripts.
        seed
            Seed of the draws.
        """
        check_number("n_samples", n_samples, low=1, integer=True)
        generator = torch.Generator().manual_seed(seed)

        def draw(x: Tensor, visible: Tensor, entries: tuple[Tensor, ...]) -> Tensor:
            if not len(entries[0]):
                return x.new_empty(0)
            probabilities = self._net(x, visible, entries).softmax(1)
            classes = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
            return self._classes.draw(entries[1], classes, generator)

        drawn = []
        for x, missing in self._blocks(counts, observed_mask):
            with torch.no_grad():
                samples = [
                    remdm_sample(draw, x, missing, n_steps=n_steps, strategy=strategy, eta=eta, generator=generator)
                    for _ in range(n_samples)
                ]
            drawn.append(torch.stack(samples))
        return torch.cat(drawn, dim=1).numpy()

    def _blocks(self, counts: np.ndarray, observed_mask: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Counts, 0 where they are missing, and where they are, a block of cells at a time."""
        check_fitted(self, "_net")
        visible, observed = visible_counts(counts, observed_mask, len(self._net.profile))
        size = max(1, BLOCK_ENTRIES // visible.shape[1])
        for first in range(0, max(len(visible), 1), size):
            rows = slice(first, first + size)
            yield torch.as_tensor(visible[rows]), torch.as_tensor(~observed[rows])

    def _train(self, net: CategoricalDenoiser, x: Tensor, known: Tensor) -> CategoricalDenoiser:
        """The moving average of the weights with the lowest validation loss."""
        order = torch.randperm(len(x))
        n_held_out = int(VALIDATION_FRACTION * len(x)) if len(x) >= MIN_CELLS_TO_VALIDATE else 0
        held_out, cells = order[:n_held_out], order[n_held_out:]
        fraction = float(known.float().mean())
        n_epochs = self.max_epochs or default_max_epochs(float(x.sum()), len(cells), fraction)
        biases = [p for name, p in net.named_parameters() if p.ndim < 2 or name in {"basis", "depth_factor"}]
        matrices = [p for p in net.parameters() if all(p is not other for other in biases)]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": biases, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
        n_steps = n_epochs * math.ceil(len(cells) / self.batch_size)
        schedule = one_cycle(optimizer, n_steps, warmup_fraction=WARMUP_FRACTION)
        average = copy.deepcopy(net).requires_grad_(False).eval()
        best, best_loss, step = copy.deepcopy(average.state_dict()), math.inf, 0
        for _ in range(n_epochs):
            for batch in cells[torch.randperm(len(cells))].split(self.batch_size):
                optimizer.zero_grad()
                self._loss(net, x[batch], known[batch]).backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), MAX_GRADIENT)
                optimizer.step()
                schedule.step()
                # The decay grows from 0.1, so that the first steps are forgotten.
                weight = 1.0 - min(EMA_DECAY, (1.0 + step) / (10.0 + step))
                torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in net.parameters()], weight)
                step += 1
            if n_held_out:
                with torch.no_grad():  # the same masks at every epoch
                    masks = torch.Generator().manual_seed(self.seed)
                    loss = float(self._loss(average, x[held_out], known[held_out], masks))
                if loss < best_loss:
                    best, best_loss = copy.deepcopy(average.state_dict()), loss
        if n_held_out:
            average.load_state_dict(best)
        return average

    def _loss(
        self, net: CategoricalDenoiser, x: Tensor, known: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Cross-entropy of masked entries, averaged within a cell and then over cells (nats)."""
        # Evenly spread, as in MDLM: less noise than fractions drawn on their own.
        fraction = (torch.rand(1, generator=generator) + torch.arange(len(x)).unsqueeze(1) / len(x)) % 1.0
        masked = known & (torch.rand(x.shape, generator=generator) < fraction)
        entries = masked.nonzero(as_tuple=True)
        logits = net(x * ~masked, known & ~masked, entries)
        nats = F.cross_entropy(logits, self._classes.encode(x[entries]), reduction="none")
        return (nats / masked.sum(1)[entries[0]]).sum() / len(x)
