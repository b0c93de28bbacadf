"""Whether imputation invents signal: genes that follow nothing must go on following nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import binom, norm, rankdata
from sklearn.decomposition import PCA

from countsdiff_sc._validation import check_number

from ._holdout import check_hidden, dense_counts, get_labels, with_gaps
from ._masks import mcar
from ._quiet import forgetful

#: A gene is eligible if it is seen in this fraction of the cells: of rarer ones no correlation can be told.
MIN_DETECTED = 0.05
#: Largest share of the genes that is permuted; the others are what the model learns from.
MAX_SHARE = 0.2
#: Random halves of the cells between which genes are tested, and the level.
N_HALVES, LEVEL = 20, 0.05
#: Probability of a warning of false positives where the tests of all genes are at their level.
FALSE_ALARM = 1e-4
#: Rise of the mean absolute correlation to warn of.
MAX_RISE = 0.02
#: Row of the counts before imputation.
BEFORE = "observed"


@dataclass(frozen=True)
class NullCheck:
    """What imputation makes of genes without signal.

    Parameters
    ----------
    table
        Rows ``"observed"`` (before imputation), ``"mean"`` and ``"sample"``. Columns, of the permuted genes:

        - ``mean_abs_correlation``: of pairs of them, in ``log1p``, within labels;
        - ``rise``: how far it is above that of the observed counts;
        - ``among_imputed``: the same correlation over imputed entries only (observed ones in the first row);
        - ``false_positives``: fraction of rank-sum tests, stratified by label, between random halves of the cells with
          ``p < 0.05``;
        - ``false_positives_by_depth``: the same between the deeper and the shallower half of each label;
        - ``false_positives_by_other_genes``: the same between halves by the first principal component, within labels, of
          the genes that were not permuted, such as a state or a treatment.
    warning
        What should not be done with these imputed values; empty if nothing was found.
    """

    table: pd.DataFrame
    warning: str


def null_check(
    model,
    adata: AnnData | None = None,
    *,
    n_genes: int = 100,
    fraction: float = 0.5,
    seed: int = 0,
    **train_kwargs,
) -> NullCheck:
    """Permute genes, train a model like this one on the result, impute it, and look for signal in the permuted genes.

    The counts of each chosen gene are permuted across the cells of a label (all cells, without labels), independently of
    the other genes, so that within labels they follow no gene and no depth. Then entries are hidden at random and
    imputed. Any correlation, and any difference between random halves of the cells, beyond that of the permuted counts
    themselves is made by the imputation (Andrews & Hemberg 2018).

    Parameters
    ----------
    model
        A :class:`~countsdiff_sc.CountsDiffSC`; its settings are used, its weights are not.
    adata
        Its training data (default) or other data set up alike; not changed.
    n_genes
        Genes to permute, of those seen in 5% of the cells and at most a fifth of all.
    fraction
        Expected fraction of the entries that is hidden and imputed.
    seed
        Seed of the permutation, the mask, the halves and the draws; that of the training is ``scvi.settings.seed``.
    **train_kwargs
        Arguments of :meth:`countsdiff_sc.CountsDiffSC.train` for the model that is trained.

    Raises
    ------
    KeyError
        If ``adata`` lacks the labels.
    TypeError
        For MuData and models of one, and if the denoiser was given as a module.
    ValueError
        If ``adata`` is backed, fewer than two genes can be permuted, or nothing is hidden.

    Notes
    -----
    ``rise`` counts observed entries too, which dilute what the imputed ones add. A mean is a smooth function of the cell,
    so means of different genes move together: ``among_imputed`` is high for every method that imputes means, and low for
    draws, which have the noise of counts. For the same reason a small error of the mean that follows depth or the other
    genes, in either of which a permuted gene has no part, is found by tests between halves that differ in them. Random
    halves cannot find it: that test is at its level for any imputer that does not know the halves.

    Correlations of depth-normalised values would be above their null level before imputation, since dividing by depth
    makes independent counts depend on it.

    Works on dense copies: a few times ``4 * n_obs * n_vars`` bytes.

    Examples
    --------
    >>> import countsdiff_sc
    >>> model = countsdiff_sc.CountsDiffSC(countsdiff_sc.datasets.pbmc68k_counts())
    >>> countsdiff_sc.evaluation.null_check(model).table  # doctest: +SKIP
    """
    check_number("n_genes", n_genes, low=2, integer=True)
    adata = model.adata if adata is None else adata
    fit, columns = model._refit(adata, method="null_check", train_kwargs=train_kwargs)
    labels_key = columns.pop("labels_key")
    labels = get_labels(adata, labels_key)
    labels = np.zeros(adata.n_obs, dtype=int) if labels is None else labels
    counts, known = dense_counts(adata, **columns)
    rng = np.random.default_rng(seed)
    genes = _choose_genes(counts, known, n_genes, rng)
    permuted = permute_within(counts, known, genes, labels, rng)
    hidden = known & ~mcar(permuted, fraction, seed=seed)
    check_hidden(fraction, hidden, known)
    copy = with_gaps(adata, columns["layer"], permuted, hidden)
    with forgetful(type(model)):
        imputer = fit(copy)
        imputed = {
            "mean": imputer.get_imputed_counts(copy),
            "sample": imputer.get_imputed_counts(copy, estimate="sample", seed=seed).toarray(),
        }
    imputed = {name: values[:, genes] for name, values in imputed.items()}
    others = np.setdiff1d(np.arange(counts.shape[1]), genes)
    scores = _scores(np.where(known, counts, 0.0)[:, others], labels)
    table = null_table(permuted[:, genes], imputed, known[:, genes], hidden[:, genes], labels, scores, seed=seed)
    return NullCheck(table, _warning(table, len(genes)))


def permute_within(
    counts: np.ndarray, known: np.ndarray, genes: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Counts, cells x genes, of which the known ones of each of ``genes`` have changed places within each label."""
    permuted = counts.copy()
    for label in np.unique(labels):
        of_label = labels == label
        for gene in genes:
            cells = np.flatnonzero(of_label & known[:, gene])
            permuted[cells, gene] = counts[rng.permutation(cells), gene]
    return permuted


def null_table(
    observed: np.ndarray,
    imputed: Mapping[str, np.ndarray],
    known: np.ndarray,
    hidden: np.ndarray,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Table of :class:`NullCheck` for any imputer.

    Parameters
    ----------
    observed
        Permuted counts (molecules), cells x permuted genes.
    imputed
        Imputed counts by estimate, same shape, equal to ``observed`` where nothing was hidden.
    known, hidden
        Where counts are known, and which of them were hidden, same shape.
    labels
        Label of each cell.
    scores
        Numbers of each cell, by name, that do not depend on the permuted genes; cells are also halved by each.
    seed
        Seed of the halves.
    """
    rng = np.random.default_rng(seed)
    random = [_upper_half(rng.random(len(labels)), labels) for _ in range(N_HALVES)]
    halves = {name: _upper_half(score, labels) for name, score in scores.items()}
    rows = {}
    for name, values in {BEFORE: observed, **imputed}.items():
        logs = np.log1p(np.where(known, values, 0.0))
        entries = known & ~hidden if name == BEFORE else hidden
        rows[name] = {
            "mean_abs_correlation": _mean_abs_correlation(logs, known, labels),
            "among_imputed": _mean_abs_correlation(logs, entries, labels),
            "false_positives": float(np.mean([_positives(logs, known, half, labels) for half in random])),
            **{f"false_positives_by_{by}": _positives(logs, known, half, labels) for by, half in halves.items()},
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("estimate")
    rise = table["mean_abs_correlation"] - table.loc[BEFORE, "mean_abs_correlation"]
    table.insert(1, "rise", rise)
    return table


def _choose_genes(counts: np.ndarray, known: np.ndarray, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    detected = (known & (counts > 0)).sum(0) >= MIN_DETECTED * np.maximum(known.sum(0), 1)
    eligible = np.flatnonzero(detected & known.any(0))
    n_genes = min(n_genes, len(eligible), int(MAX_SHARE * counts.shape[1]))
    if n_genes < 2:
        msg = (
            f"adata has {counts.shape[1]:,} genes, of which {len(eligible):,} are seen in {MIN_DETECTED:.0%} of the cells. Two "
            f"of them, and at most {MAX_SHARE:.0%} of all genes, must be permuted. Pass data with more genes."
        )
        raise ValueError(msg)
    return np.sort(rng.choice(eligible, n_genes, replace=False))


def _upper_half(score: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """True in the half of each label's cells with the higher scores."""
    half = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        half[cells[np.argsort(score[cells])[len(cells) // 2 :]]] = True
    return half


def _mean_abs_correlation(values: np.ndarray, entries: np.ndarray, labels: np.ndarray) -> float:
    r"""Mean over pairs of columns of :math:`|r|`, of the deviations from the label's mean at ``entries``, 0 elsewhere.

    Sums run over the cells in which both entries count.
    """
    deviation = np.zeros(values.shape)
    for label in np.unique(labels):
        cells = labels == label
        counted = entries[cells]
        mean = (values[cells] * counted).sum(0) / np.maximum(counted.sum(0), 1)
        deviation[cells] = (values[cells] - mean) * counted
    products = deviation.T @ deviation
    squares = np.square(deviation).T @ entries  # of the one in the cells in which the other counts
    scale = np.sqrt(squares * squares.T)
    pairs = np.triu_indices(len(scale), 1)
    products, scale = products[pairs], scale[pairs]
    return float(np.mean(np.abs(products[scale > 0] / scale[scale > 0]))) if (scale > 0).any() else 0.0


def _positives(values: np.ndarray, known: np.ndarray, half: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of columns whose rank-sum test between the halves, stratified by label, has ``p`` below the level.

    The test of van Elteren (1960): each label's rank sum, over its number of cells plus one.
    """
    statistic, variance = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    values = np.where(known, values, np.nan)
    for label in np.unique(labels):
        cells = labels == label
        n, n_upper = known[cells].sum(0), (known & half[:, None])[cells].sum(0)
        ranks = rankdata(values[cells], axis=0, nan_policy="omit")
        deviation = np.where(known[cells], ranks - (n + 1) / 2, 0.0) / (n + 1)
        statistic += deviation[half[cells]].sum(0)
        variance += n_upper * (n - n_upper) / np.maximum(n * (n - 1), 1) * np.square(deviation).sum(0)
    z = np.divide(np.abs(statistic), np.sqrt(variance), out=np.zeros_like(statistic), where=variance > 0)
    return float(np.mean(2.0 * norm.sf(z) < LEVEL))


def _scores(others: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Depth, and the first principal component within labels, of the genes that were not permuted."""
    depth = others.sum(1)
    logs = np.log1p(others / np.maximum(depth, 1.0)[:, None] * np.median(depth))
    for label in np.unique(labels):
        logs[labels == label] -= logs[labels == label].mean(0)
    component = PCA(1, svd_solver="randomized", random_state=0).fit_transform(logs)
    return {"depth": depth, "other_genes": component[:, 0]}


def _warning(table: pd.DataFrame, n_genes: int) -> str:
    lines, limit = [], binom.isf(FALSE_ALARM, n_genes, LEVEL) / n_genes
    for estimate, row in table.drop(index=BEFORE).iterrows():
        if row["rise"] > MAX_RISE:
            lines.append(
                f"{estimate}: genes without any correlation have a mean absolute correlation of "
                f"{row['mean_abs_correlation']:.3f} after imputation, {row['rise']:.3f} more than before. Do not read gene-gene "
                "correlations from it."
            )
        for column, groups in (
            ("false_positives", "random halves of the cells"),
            ("false_positives_by_depth", "deep and shallow cells"),
            ("false_positives_by_other_genes", "cells that differ in the other genes"),
        ):
            if row[column] > limit:
                lines.append(
                    f"{estimate}: {row[column]:.0%} of the genes without any difference differ between {groups} at "
                    f"p < {LEVEL}. Do not test it; test observed counts."
                )
    return "\n".join(lines)
