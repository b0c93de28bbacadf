"""Imputation tools of other packages, called as the baselines are and each given its best chance.

Neither knows of a mask: hidden counts are zeros to them. What that does to the scale of a result is taken out
afterwards, from the visible counts, and a little of the gene mean x depth is mixed in: both tools predict zeros, and one
where there was a molecule costs the Poisson deviance 26 nats. They are installed with ``pip install "countsdiff_sc[benchmarks]"``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
from anndata import AnnData
from scipy import sparse

from countsdiff_sc._validation import check_number

from ._baselines import gene_mean_x_depth
from ._inputs import check_trainable, visible_counts
from ._quiet import quiet, seeded

#: Counts to which a cell is scaled in front of the logarithm of ALRA.
SCALE = 1e4
#: Principal components from which halra chooses the rank.
HALRA_COMPONENTS = 100
#: Rounds, and prior molecules, of :func:`match_visible_totals`.
N_ROUNDS, PRIOR_MOLECULES = 3, 1.0


def magic(
    counts: np.ndarray,
    observed_mask: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    background: float = 0.1,
    seed: int = 0,
    **settings,
) -> np.ndarray:
    """MAGIC :cite:p:`vanDijk2018`: counts diffused over a graph of cells, as square roots at one library size.

    The mask is diffused as well, and the result divided by it, so that neighbours are averaged where they were visible.
    Squared and at the cell's own library size again, it is scaled by cell and gene to the visible totals, which the
    square of a mean of roots falls short of.

    Parameters
    ----------
    counts, observed_mask
        Counts (molecules) and where they are known, cells x genes.
    labels
        Not used.
    background
        Weight of the gene mean x depth in the result; 0 for what the tool alone says.
    seed
        Seed of the principal components. The global random states are left as they were.
    **settings
        Passed to ``magic.MAGIC``, such as ``knn`` or ``t``.
    """
    package = _import("magic", "magic-impute")
    check_number("background", background, low=0, high=1)
    settings = {"knn": 5, "t": 3, "n_pca": 100, "verbose": False, **settings}
    for name in ("knn", "t"):
        check_number(name, settings[name], low=1, integer=True)
    visible, observed, kept = _prepare(counts, observed_mask)
    shown = visible[kept]
    if len(shown) <= 3 * settings["knn"]:
        msg = (
            f"counts has {len(shown):,} cells with visible molecules. MAGIC needs more than 3 knn={3 * settings['knn']}. "
            "Pass more cells, or a smaller knn."
        )
        raise ValueError(msg)
    settings["n_pca"] = min(settings["n_pca"], *(n - 1 for n in shown.shape))
    library = shown.sum(1, keepdims=True)
    with quiet(), seeded(seed):
        operator = package.MAGIC(random_state=seed, **settings)
        diffused = np.asarray(operator.fit_transform(np.sqrt(shown / library), genes="all_genes"))
    exposure = observed[kept].astype(np.float64)
    for _ in range(settings["t"]):
        exposure = operator.graph.diff_op @ exposure
    roots = np.divide(diffused, exposure, out=np.zeros_like(exposure), where=exposure > 0)
    return _filled_in(np.square(roots) * library, kept, visible, observed, background)


def halra(
    counts: np.ndarray,
    observed_mask: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    background: float = 0.1,
    seed: int = 0,
    **settings,
) -> np.ndarray:
    """ALRA :cite:p:`Linderman2022`, by halra: a low-rank approximation of log counts, thresholded gene by gene.

    Back at the cell's own library size the result is scaled by cell and gene to the visible totals.

    Parameters
    ----------
    counts, observed_mask
        Counts (molecules) and where they are known, cells x genes.
    labels
        Not used.
    background
        Weight of the gene mean x depth in the result; 0 for what the tool alone says.
    seed
        Seed of the singular vectors. The global random states are left as they were.
    **settings
        Passed to ``halra.halra``. Of 100 cells or genes or fewer the rank must be given as ``matrix_rank``.
    """
    package = _import("halra", "halra")
    check_number("background", background, low=0, high=1)
    visible, observed, kept = _prepare(counts, observed_mask)
    shown = visible[kept]
    if settings.get("matrix_rank") is None and min(shown.shape) <= HALRA_COMPONENTS:
        msg = (
            f"counts has {len(shown):,} cells and {shown.shape[1]:,} genes with visible molecules. halra chooses the rank "
            f"from more than {HALRA_COMPONENTS} of each. Pass it, for example matrix_rank=10."
        )
        raise ValueError(msg)
    with quiet(), seeded(seed):
        adata = AnnData(sparse.csr_matrix(shown))
        logs = package.halra(adata, normalize=True, seed=seed, verbose=False, **settings).X.toarray()
    return _filled_in(np.expm1(logs) * shown.sum(1, keepdims=True) / SCALE, kept, visible, observed, background)


def match_visible_totals(imputed: np.ndarray, visible: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Scale cells and genes in turn until the visible entries of the result add up to the visible counts.

    Parameters
    ----------
    imputed, visible, observed
        Expected counts, counts with 0 where they are hidden (molecules), and where they are not, cells x genes.
    """
    for _ in range(N_ROUNDS):
        for axis in (1, 0):
            found = (imputed * observed).sum(axis, keepdims=True)
            imputed = imputed * (visible.sum(axis, keepdims=True) + PRIOR_MOLECULES) / (found + PRIOR_MOLECULES)
    return imputed.astype(np.float32)


def _prepare(counts: np.ndarray, observed_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Visible counts, where they are, and the index of the cells and genes that have any."""
    visible, observed = visible_counts(counts, observed_mask)
    check_trainable(observed)
    return visible, observed, np.ix_(visible.any(axis=1), visible.any(axis=0))


def _filled_in(
    result: np.ndarray, kept: tuple, visible: np.ndarray, observed: np.ndarray, background: float
) -> np.ndarray:
    """The result in its place, at the right scale; cells and genes that are not in it have background alone."""
    imputed = gene_mean_x_depth(visible, observed)
    scaled = match_visible_totals(result, visible[kept], observed[kept])
    imputed[kept] = background * imputed[kept] + (1.0 - background) * scaled
    return imputed


def _import(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = (
            f"The package {package} is not installed. evaluation.{module} needs it. Run "
            'pip install "countsdiff_sc[benchmarks]".'
        )
        raise ImportError(msg) from error
