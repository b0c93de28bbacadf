"""scVI as an imputer: the variational autoencoder of single-cell counts to compare with."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import scvi
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from countsdiff_sc._validation import check_choice, check_number

from ._inputs import check_fitted, check_trainable, visible_counts
from ._quiet import forgetful, quiet, seeded
from ._rank_one import fit_rank_one

#: Cells whose posterior is found at once.
BLOCK_SIZE = 512
#: Steps and first step size of Adam, with which posteriors are found.
N_STEPS, LR = 100, 0.05
#: Posterior samples whose means are averaged.
N_POSTERIOR_SAMPLES = 25
#: Rounds in which the rates of genes are scaled to their visible counts, where some were hidden in training.
N_CALIBRATIONS = 2
#: Least rate of a gene.
TINY = 1e-12
LIKELIHOODS = ("nb", "zinb", "poisson")


class ScviImputer:
    r"""scVI :cite:p:`Lopez2018`, trained as its authors do and given the posterior of the visible counts.

    scVI has no mask: in training hidden counts are zeros, and each gene's rate is divided by its visible fraction
    afterwards. At imputation they are left out. Its encoder has not learned to read cells with gaps, and zeros there
    cost it a seventh more deviance on cells with half of the entries hidden. So the latent posterior of each cell, a
    Gaussian with independent coordinates as in scVI, is fitted to the likelihood of the visible counts by gradient
    steps, with the trained decoder as it is. The library size is the one that explains the visible counts by the
    decoded profile's visible part.

    Parameters
    ----------
    max_epochs
        Passes over the training cells; by default scvi-tools' choice, up to 400. All cells train.
    gene_likelihood
        ``"nb"``, ``"zinb"`` or ``"poisson"``. ``"nb"`` suits counts of molecules.
    seed
        Seed of the training. ``scvi.settings.seed`` and the global random states are left as they were.
    **model_kwargs
        Passed to :class:`scvi.model.SCVI`, such as ``n_latent``.
    """

    def __init__(self, *, max_epochs: int | None = None, gene_likelihood: str = "nb", seed: int = 0, **model_kwargs):
        if max_epochs is not None:
            check_number("max_epochs", max_epochs, low=1, integer=True)
        check_choice("gene_likelihood", gene_likelihood, LIKELIHOODS)
        self.max_epochs, self.gene_likelihood = max_epochs, gene_likelihood
        self.seed, self.model_kwargs = seed, model_kwargs
        self._module = None

    def fit(self, counts: np.ndarray, observed_mask: np.ndarray, labels: np.ndarray | None = None) -> ScviImputer:
        """Train on the observed entries of counts (molecules), cells x genes; labels are not used."""
        visible, observed = visible_counts(counts, observed_mask)
        filled = visible.any(axis=1)  # scVI takes the logarithm of a cell's total
        check_trainable(observed[filled], min_cells=2)
        depth, profile = fit_rank_one(visible[filled], observed[filled])
        exposure = depth @ observed[filled] / depth.sum()
        # What is read of a gene is this part of it; one never seen has nothing to be divided.
        self._visible_part = torch.as_tensor(np.where(exposure > 0, exposure, 1.0), dtype=torch.float32)
        self._mean_library = profile.sum() * depth.mean()
        self._shape = depth.mean() ** 2 / max(depth.var(), 1e-9)
        adata = AnnData(sparse.csr_matrix(visible[filled]))
        batch_size = next(size for size in itertools.count(128) if len(depth) % size != 1)  # for its batch norm
        with quiet(), seeded(self.seed), forgetful(scvi.model.SCVI):
            scvi.model.SCVI.setup_anndata(adata)
            model = scvi.model.SCVI(adata, gene_likelihood=self.gene_likelihood, **self.model_kwargs)
            model.train(
                self.max_epochs, accelerator="cpu", train_size=1.0, batch_size=batch_size, enable_progress_bar=False
            )
        self._module = model.module.cpu().eval()
        for _ in range(0 if observed.all() else N_CALIBRATIONS):
            found = (self._predict(visible, observed, 0, _mean) * observed).sum(0)
            self._visible_part *= torch.as_tensor((found + 1.0) / (visible.sum(0) + 1.0))
        return self

    def impute(self, counts: np.ndarray, observed_mask: np.ndarray) -> np.ndarray:
        """Posterior means, averaged over samples of the latent variable; observed counts are returned as they are."""
        visible, observed = self._checked(counts, observed_mask)
        return np.where(observed, visible, self._predict(visible, observed, 0, _mean))

    def draw(self, counts: np.ndarray, observed_mask: np.ndarray, *, n_samples: int = 1, seed: int = 0) -> np.ndarray:
        """Draws of the hidden counts, whole numbers of shape ``(n_samples, cells, genes)``; observed ones are kept.

        Parameters
        ----------
        counts, observed_mask
            Counts (molecules) and where they are known, cells x genes.
        n_samples
            Number of draws, each of a latent variable and then of counts.
        seed
            Seed of the draws.
        """
        check_number("n_samples", n_samples, low=1, integer=True)
        visible, observed = self._checked(counts, observed_mask)
        drawn = self._predict(
            visible, observed, seed, lambda law: torch.stack([law().sample() for _ in range(n_samples)])
        )
        return np.where(observed, visible, drawn)

    def _checked(self, counts: np.ndarray, observed_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        check_fitted(self, "_module")
        return visible_counts(counts, observed_mask, len(self._visible_part))

    def _predict(
        self,
        visible: np.ndarray,
        observed: np.ndarray,
        seed: int,
        predict: Callable[[Callable[[], Distribution]], Tensor],
    ) -> np.ndarray:
        """What ``predict`` makes, ``(..., cells, genes)``, of a function that draws a law from the posterior."""
        blocks = []
        with quiet(), seeded(seed):
            for first in range(0, len(visible), BLOCK_SIZE):
                x, known = (torch.as_tensor(of[first : first + BLOCK_SIZE]) for of in (visible, observed))
                posterior = self._posterior(x, known)
                with torch.no_grad():
                    predicted = predict(lambda: self._law(posterior.sample(), x, known))  # noqa: B023  (called at once)
                blocks.append(predicted)
        return torch.cat(blocks, dim=-2).numpy()

    def _law(self, z: Tensor, x: Tensor, known: Tensor) -> Distribution:
        """Law of all counts given the latent variable, at the library size that the visible ones imply."""
        batch = torch.zeros(len(z), 1)
        scale = self._module.generative(z, torch.zeros(len(z), 1), batch)["px"].mean.clamp(min=TINY)
        profile = scale / self._visible_part
        profile = profile / profile.sum(1, keepdim=True)
        # Posterior mean of a Gamma library size with the mean and variance of the training cells'.
        part = (profile * known).sum(1, keepdim=True)
        library = (x.sum(1, keepdim=True) + self._shape) / (part + self._shape / self._mean_library)
        return self._module.generative(z, (library * profile / scale).log(), batch)["px"]

    def _posterior(self, x: Tensor, known: Tensor) -> Normal:
        """Gaussian nearest to the posterior of the latent variable given the visible counts (variational inference).

        It starts from the prior, since starts from the encoder's output ended in worse optima; more steps gained
        nothing.
        """
        location = torch.zeros(len(x), self._module.n_latent, requires_grad=True)
        log_scale = torch.zeros_like(location, requires_grad=True)
        parameters = [location, log_scale]
        optimizer = torch.optim.Adam(parameters, LR)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, N_STEPS)
        prior = Normal(0.0, 1.0)
        for _ in range(N_STEPS):
            posterior = Normal(location, log_scale.exp())
            log_likelihood = (self._law(posterior.rsample(), x, known).log_prob(x) * known).sum()
            loss = kl_divergence(posterior, prior).sum() - log_likelihood
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
        return Normal(location.detach(), log_scale.detach().exp())


def _mean(law: Callable[[], Distribution]) -> Tensor:
    return sum(law().mean for _ in range(N_POSTERIOR_SAMPLES)) / N_POSTERIOR_SAMPLES
