"""Fréchet distance between true and generated cells, in the latent space of one encoder."""

from __future__ import annotations

import numpy as np
import scvi
from anndata import AnnData
from lightning.pytorch.utilities.seed import isolate_rng
from scipy import sparse

from ._quiet import forgetful, quiet, seeded

#: Cells of a minibatch.
BATCH_SIZE = 128


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    r"""Squared Fréchet (Wasserstein-2) distance between Gaussians fitted to two sets of points (Dowson & Landau 1982).

    :math:`|m_x - m_y|^2 + \mathrm{tr}(C_x + C_y - 2 (C_x C_y)^{1/2})` of their means and covariances. Use it with an encoder
    of your own.

    Parameters
    ----------
    x, y
        Latent vectors, shapes ``(n, d)`` and ``(m, d)``.

    Returns
    -------
    The distance, at least 0. It shrinks with more points, which have less noise in their covariances: compare methods at one
    number of cells.

    Notes
    -----
    With :math:`C = R^\top R`, by QR of the centred points, the last trace is the sum of the singular values of
    :math:`R_x R_y^\top`. No matrix root is taken, so singular covariances do no harm.
    """
    if np.ndim(x) != 2 or np.ndim(y) != 2 or np.shape(x)[1] != np.shape(y)[1] or min(len(x), len(y)) < 2:
        msg = (
            f"The points have shapes {np.shape(x)} and {np.shape(y)}. Covariances of one size need at least 2 rows each and as "
            "many columns in both. Encode both with the same encoder."
        )
        raise ValueError(msg)
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    root_x, root_y = (np.linalg.qr(p - p.mean(0), mode="r") / np.sqrt(len(p) - 1) for p in (x, y))
    overlap = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    shift = np.square(x.mean(0) - y.mean(0)).sum()
    return float(max(shift + np.square(root_x).sum() + np.square(root_y).sum() - 2.0 * overlap, 0.0))


class ScFID:
    """Fréchet distance in the latent space of an scVI encoder, trained once and used for every method.

    The published scFID :cite:p:`Soatto2026` uses scVI as trained on the CELLxGENE census. Values are comparable only within
    one encoder: not with published ones, nor between data sets.

    Parameters
    ----------
    train_counts
        Counts (molecules) of the training cells, cells x genes, dense or sparse; never the cells that are scored.
    n_latent
        Latent dimensions.
    max_epochs
        Passes over the training cells.
    seed
        Seed of the training. ``scvi.settings.seed`` and the global random states are left as they were.
    """

    def __init__(
        self, train_counts: np.ndarray | sparse.spmatrix, *, n_latent: int = 10, max_epochs: int = 50, seed: int = 0
    ):
        _check_cells("train_counts", train_counts)
        self.n_genes = train_counts.shape[1]
        adata = AnnData(sparse.csr_matrix(train_counts, dtype=np.float32))
        with quiet(), seeded(seed), forgetful(scvi.model.SCVI):
            scvi.model.SCVI.setup_anndata(adata)
            # Layer norm, unlike batch norm, takes a last minibatch of one cell.
            norms = {"use_batch_norm": "none", "use_layer_norm": "both"}
            self.model = scvi.model.SCVI(adata, n_latent=n_latent, gene_likelihood="nb", **norms)
            self.model.train(max_epochs, train_size=1.0, batch_size=BATCH_SIZE, enable_progress_bar=False)

    def distance(self, truth: np.ndarray | sparse.spmatrix, generated: np.ndarray | sparse.spmatrix) -> float:
        """Squared Fréchet distance between true and generated, or imputed, cells; see :func:`frechet_distance`.

        Parameters
        ----------
        truth, generated
            Counts (molecules), cells x genes, of the training genes; their numbers of cells may differ.
        """
        return frechet_distance(self.encode(truth), self.encode(generated))

    def encode(self, counts: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """Means of the latent posteriors, shape ``(cells, n_latent)``, of counts (molecules), cells x genes."""
        _check_cells("counts", counts, self.n_genes)
        with quiet(), forgetful(scvi.model.SCVI), isolate_rng():  # a data loader draws a seed, even in order
            adata = AnnData(sparse.csr_matrix(counts, dtype=np.float32))
            return self.model.get_latent_representation(adata, batch_size=BATCH_SIZE)


def _check_cells(name: str, counts: np.ndarray | sparse.spmatrix, n_genes: int | None = None) -> None:
    shape = np.shape(counts) if not sparse.issparse(counts) else counts.shape
    if len(shape) == 2 and shape[0] >= 2 and n_genes in {None, shape[1]}:
        return
    genes = "some" if n_genes is None else f"the {n_genes:,} training"
    msg = f"{name} has shape {shape}. It must have at least 2 cells, and {genes} genes. Pass cells x genes, genes in order."
    raise ValueError(msg)
