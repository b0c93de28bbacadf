"""Which entries to hide when a method is to be judged.

Each mechanism is called as ``mask(counts, fraction, seed=...)`` and returns the *observed* mask: booleans, cells x genes,
True where an entry stays visible. ``fraction`` is the expected fraction of hidden entries, exactly, of the genes that a
mechanism hides; nothing depends on the order of cells or genes. What is NaN is not known: it is not observed in the result, and
says nothing about the others.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from countsdiff_sc._counts import dense, stored_values
from countsdiff_sc._validation import check_number

#: Log odds between the highest and the lowest value of what drives a mechanism.
STRENGTH = 4.0
#: Fraction of the genes that :func:`mar` never hides: their molecules drive what is hidden of the others.
DRIVER_FRACTION = 0.1


def mcar(counts, fraction: float, *, seed: int) -> np.ndarray:
    """Hide entries completely at random.

    Parameters
    ----------
    counts
        Counts, cells x genes, dense or sparse; here it matters only which of them are NaN.
    fraction
        Probability with which an entry is hidden, in [0, 1].
    seed
        Seed of the mask.
    """
    check_number("fraction", fraction, low=0, high=1)
    return (np.random.default_rng(seed).random(counts.shape, dtype=np.float32) >= fraction) & _known(counts)


def mar(counts, fraction: float, *, seed: int) -> np.ndarray:
    """Hide entries at random given what stays visible: shallow cells lose more.

    A tenth of the genes, drawn at random, is never hidden; the fewer molecules a cell has in them, the more of its
    other entries are hidden.

    Parameters
    ----------
    counts
        Counts (molecules), cells x genes, dense or sparse.
    fraction
        Expected fraction of the entries *of the other genes* that is hidden, in [0, 1].
    seed
        Seed of the mask.
    """
    check_number("fraction", fraction, low=0, high=1)
    rng = np.random.default_rng(seed)
    n_obs, n_genes = counts.shape
    driver = rng.permutation(n_genes) < max(1, round(DRIVER_FRACTION * n_genes))
    counts = np.asarray(dense(counts), dtype=np.float64)
    known = ~np.isnan(counts)
    of_drivers, known_drivers = np.where(known, counts, 0.0)[:, driver], known[:, driver]
    # Relative to what an average cell has in those that are known.
    average = of_drivers.sum(axis=0) / np.maximum(known_drivers.sum(axis=0), 1)
    expected = known_drivers @ average
    depth = np.divide(of_drivers.sum(axis=1), expected, out=np.ones(n_obs), where=expected > 0)
    # A cell of which more is known has more to lose.
    hidden_prob = _calibrated(-_quantile(depth[:, None]), fraction, weight=known[:, ~driver].sum(axis=1, keepdims=True))
    return ((rng.random((n_obs, n_genes), dtype=np.float32) >= hidden_prob) | driver) & known


def mnar_low(counts, fraction: float, *, seed: int) -> np.ndarray:
    """Hide entries not at random: in each gene, low counts more often than high ones.

    Parameters
    ----------
    counts
        Counts (molecules), cells x genes, dense or sparse.
    fraction
        Expected fraction of each gene's entries that is hidden, in [0, 1].
    seed
        Seed of the mask.
    """
    return _mnar(counts, fraction, seed, direction=-1.0)


def mnar_high(counts, fraction: float, *, seed: int) -> np.ndarray:
    """Hide entries not at random: in each gene, high counts more often than low ones.

    Parameters
    ----------
    counts, fraction, seed
        As in :func:`mnar_low`.
    """
    return _mnar(counts, fraction, seed, direction=1.0)


def panel(counts, fraction: float, *, seed: int) -> np.ndarray:
    """Hide whole genes, as if the cells had been measured with a smaller panel.

    Parameters
    ----------
    counts
        Counts, cells x genes, dense or sparse; here it matters only which of them are NaN.
    fraction
        Fraction of the genes that is hidden, in [0, 1], rounded to whole genes.
    seed
        Seed of the mask.
    """
    check_number("fraction", fraction, low=0, high=1)
    n_obs, n_genes = counts.shape
    kept = np.random.default_rng(seed).permutation(n_genes) >= round(fraction * n_genes)
    return np.tile(kept, (n_obs, 1)) & _known(counts)


def modality(counts, fraction: float, *, columns: np.ndarray, seed: int) -> np.ndarray:
    """Hide one modality of whole cells, as if it had not been measured there.

    Parameters
    ----------
    counts
        Counts, cells x features of all modalities, dense or sparse; here it matters only which of them are NaN.
    fraction
        Probability with which a cell loses the modality, in [0, 1].
    columns
        Indices, or a boolean vector, of the modality's features.
    seed
        Seed of the mask.
    """
    check_number("fraction", fraction, low=0, high=1)
    observed = np.ones(counts.shape, dtype=bool) & _known(counts)
    without = np.random.default_rng(seed).random(counts.shape[0]) < fraction
    observed[np.ix_(without, np.arange(counts.shape[1])[columns])] = False
    return observed


def valid_entries(counts, labels: np.ndarray) -> np.ndarray:
    """Entries that the CountsDiff paper scores: non-zeros, and zeros of genes never seen in the cell's label.

    The choice looks at the truth, so scores on it say little about use; it is here to reproduce published tables.

    Parameters
    ----------
    counts
        Counts (molecules), cells x genes, dense or sparse.
    labels
        Label of each cell.

    Returns
    -------
    Booleans, cells x genes, True for valid entries.
    """
    positive = dense(counts) > 0
    valid = positive.copy()
    labels = np.asarray(labels)
    for label in np.unique(labels):
        cells = labels == label
        valid[cells] |= ~positive[cells].any(axis=0)
    return valid


def split_molecules(counts, fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide each entry's molecules at random: molecular cross-validation (Batson et al. 2019).

    Parameters
    ----------
    counts
        Counts (molecules), cells x genes, dense or sparse.
    fraction
        Probability with which a molecule is held out, in [0, 1].
    seed
        Seed of the split.

    Returns
    -------
    Kept and held-out counts; they add up to ``counts``, and are NaN where that is.

    Raises
    ------
    ValueError
        If a value is neither a non-negative integer nor NaN.
    """
    check_number("fraction", fraction, low=0, high=1)
    whole = dense(counts)
    known = ~np.isnan(whole)
    molecules = np.where(known, whole, 0)
    is_count = np.isfinite(molecules) & (molecules >= 0) & (molecules == np.floor(molecules))
    if not is_count.all():
        row, column = np.argwhere(~is_count)[0]
        msg = (
            f"counts[{row}, {column}]={molecules[row, column]} is not a count. Molecules are divided, so counts must be "
            "non-negative integers, or NaN. Pass raw counts."
        )
        raise ValueError(msg)
    molecules = molecules.astype(np.int64)
    held_out = np.random.default_rng(seed).binomial(molecules, fraction).astype(whole.dtype)
    if not known.all():
        held_out[~known] = np.nan
    return whole - held_out, held_out


def _mnar(counts, fraction: float, seed: int, *, direction: float) -> np.ndarray:
    check_number("fraction", fraction, low=0, high=1)
    hidden_prob = _calibrated(direction * _quantile(dense(counts)), fraction)
    return np.random.default_rng(seed).random(counts.shape) >= hidden_prob  # False where that is NaN


def _quantile(values: np.ndarray) -> np.ndarray:
    """Rank of each value among those of its column that are not NaN, ties averaged, from 0 to 1."""
    ranks = rankdata(values, axis=0, nan_policy="omit")
    return (ranks - 0.5) / np.maximum((~np.isnan(values)).sum(axis=0), 1)


def _calibrated(score: np.ndarray, fraction: float, *, weight: np.ndarray | None = None) -> np.ndarray:
    """Probabilities increasing in ``score`` (spread 1) whose mean in each column is ``fraction``: a shifted logistic.

    Over scores that are not NaN, where the probability is NaN too, each of the same weight or of its own.
    """
    known = ~np.isnan(score)
    if fraction in (0.0, 1.0):
        return np.where(known, fraction, np.nan)
    weight = known if weight is None else known * weight
    total, score_or_zero = np.maximum(weight.sum(axis=0), 1), np.where(known, score, 0.0)
    low = np.full((1, score.shape[1]), -40.0)
    high = -low
    for _ in range(60):  # bisection, all columns at once
        middle = (low + high) / 2.0
        too_few = (expit(STRENGTH * score_or_zero + middle) * weight).sum(axis=0, keepdims=True) < fraction * total
        low, high = np.where(too_few, middle, low), np.where(too_few, high, middle)
    return expit(STRENGTH * score + (low + high) / 2.0)


def _known(counts) -> np.ndarray | bool:
    """Where counts are not NaN; True if all are."""
    return ~np.isnan(dense(counts)) if np.isnan(stored_values(counts)).any() else True


#: Mechanisms that need nothing but counts and a fraction, by name.
MECHANISMS = {"mcar": mcar, "mar": mar, "mnar_low": mnar_low, "mnar_high": mnar_high}
