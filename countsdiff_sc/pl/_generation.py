"""Pictures of generated cells beside real ones."""

from __future__ import annotations

import warnings

import anndata
import matplotlib.pyplot as plt
import numpy as np
import scanpy
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse

from countsdiff_sc._validation import check_anndata, check_key, named_layers

#: Real cells are grey and drawn below.
_COLORS = {"real": "0.6", "generated": "C0"}
#: Neighbours of a cell in the embedding, as in scanpy, where there are as many cells.
_N_NEIGHBOURS = 15


def generated(real: AnnData, generated: AnnData, *, layer: str | None = None, seed: int = 0) -> Figure:
    """Compare generated with real cells: joint UMAP, library sizes, and mean, variance and zeros of each gene.

    Cells of the same law lie on each other in the UMAP, and genes on the dashed line.

    Parameters
    ----------
    real
        Real cells; best some that the model was not trained on.
    generated
        Result of :meth:`countsdiff_sc.CountsDiffSC.sample`, best with the labels of ``real``.
    layer
        Layer of ``real`` with raw counts; ``X`` by default.
    seed
        Seed of the UMAP.

    Raises
    ------
    KeyError, TypeError
        If ``layer`` does not exist, or something is no AnnData; of a MuData pass one modality.
    ValueError
        If the genes differ, there are fewer than 4 cells in all, or real ones have no counts.

    Examples
    --------
    >>> cells = model.sample(held_out.n_obs, labels=held_out.obs["cell_type"])  # doctest: +SKIP
    >>> countsdiff_sc.pl.generated(held_out, cells)  # doctest: +SKIP
    """
    for name, cells in (("real", real), ("generated", generated)):
        check_anndata(cells, method=f"pl.generated, as {name},")
    if layer is not None:
        check_key(layer, named_layers(real), where="real.layers", argument="layer")
    if not real.var_names.equals(generated.var_names):
        msg = (
            f"real has {real.n_vars:,} genes and generated {generated.n_vars:,}, and they are not the same in the same order. "
            "Genes are compared one by one. Subset with real[:, generated.var_names]."
        )
        raise ValueError(msg)
    if real.n_obs + generated.n_obs < 4:
        msg = f"There are {real.n_obs} real and {generated.n_obs} generated cells. A UMAP needs at least 4. Generate more."
        raise ValueError(msg)
    counts = {"real": real.X if layer is None else real.layers[layer], "generated": generated.X}
    counts = {name: sparse.csr_matrix(matrix) for name, matrix in counts.items()}
    if not (counts["real"].data == np.floor(counts["real"].data)).all():
        msg = (
            f"real holds numbers that are not counts, or NaN, in {'X' if layer is None else f'layer {layer!r}'}. Generated cells are "
            "complete counts, to be compared with such. Pass the layer with raw counts, layer=..."
        )
        raise ValueError(msg)
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    _draw_embedding(counts, axes[0], seed)
    _draw_library_sizes(counts, axes[1])
    mean = {name: np.asarray(x.mean(axis=0)).ravel() for name, x in counts.items()}
    square = {name: np.asarray(x.astype(np.float64).power(2).mean(axis=0)).ravel() for name, x in counts.items()}
    for name, color in _COLORS.items():
        variance = square[name] - np.square(mean[name])
        axes[2].loglog(mean[name], variance, ".", color=color, markersize=3, label=name)
    axes[2].set(xlabel="mean of a gene (molecules)", ylabel="variance", title="Mean and variance")
    axes[2].legend(frameon=False)
    zeros = {name: 1.0 - np.asarray((x > 0).mean(axis=0)).ravel() for name, x in counts.items()}
    axes[3].plot([0, 1], [0, 1], "--", color="0.6")
    axes[3].plot(zeros["real"], zeros["generated"], ".", color=_COLORS["generated"], markersize=3)
    axes[3].set(xlabel="zeros of a gene, real", ylabel="zeros of a gene, generated", title="Fraction of zeros")
    return figure


def _draw_embedding(counts: dict[str, sparse.csr_matrix], ax: Axes, seed: int) -> None:
    both = anndata.concat(
        {name: AnnData(x.astype(np.float32)) for name, x in counts.items()}, label="source", index_unique="-"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cells without molecules, and of a seed that forbids threads
        scanpy.pp.normalize_total(both)
        scanpy.pp.log1p(both)
        scanpy.pp.pca(both, n_comps=min(50, both.n_obs - 1, both.n_vars - 1), random_state=seed)
        scanpy.pp.neighbors(both, n_neighbors=min(_N_NEIGHBOURS, both.n_obs - 1), random_state=seed)
        # The spectral start cannot be computed for very few cells.
        scanpy.tl.umap(both, random_state=seed, init_pos="random" if both.n_obs < 50 else "spectral")
    for name, color in _COLORS.items():
        x, y = both.obsm["X_umap"][both.obs["source"] == name].T
        ax.plot(x, y, ".", color=color, markersize=3, alpha=0.7, label=name)
    ax.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[], title="Cells")
    ax.legend(frameon=False, markerscale=3)


def _draw_library_sizes(counts: dict[str, sparse.csr_matrix], ax: Axes) -> None:
    totals = {name: np.log10(np.asarray(x.sum(axis=1)).ravel() + 1.0) for name, x in counts.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(totals.values())), bins=40)
    for name, color in _COLORS.items():
        ax.hist(totals[name], edges, density=True, histtype="step", color=color, linewidth=2, label=name)
    ax.set(xlabel="log10(1 + molecules of a cell)", ylabel="density", title="Library size")
    ax.legend(frameon=False)
