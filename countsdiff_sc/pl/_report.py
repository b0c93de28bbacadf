"""Pictures of a training run and of its predictions."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from countsdiff_sc.evaluation._metrics import paired

#: Fewer hidden entries do not make a box.
MIN_IN_BOX = 5


def training_curve(model, *, ax: Axes | None = None) -> Axes:
    """Plot training and validation loss by epoch.

    Parameters
    ----------
    model
        A trained :class:`~countsdiff_sc.CountsDiffSC`.
    ax
        Axes to draw on; new ones by default.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    """
    if not model.is_trained:
        msg = "The model is not trained. The curve is that of its training. Call model.train() first."
        raise RuntimeError(msg)
    ax = plt.subplots()[1] if ax is None else ax
    for name, style in (("train_loss", {"color": "0.6"}), ("validation_loss", {"color": "C0"})):
        if name in model.history:
            values = model.history[name][name].astype(float)
            ax.plot(values.index + 1, values, label=name.replace("_", " "), **style)
    ax.set(xlabel="epoch", ylabel="loss (nats per missing entry)", title="Training")
    ax.legend(frameon=False)
    return ax


def imputed_against_true(truth: np.ndarray, predicted: np.ndarray, *, ax: Axes | None = None) -> Axes:
    """Plot imputed means against the counts that were hidden, one box per true count, or range of counts, of which there are 5.

    Boxes have half of the means, and whiskers reach as far as is usual, 1.5 times the height of a box. A mean is less extreme than the
    count that was drawn about it, so those of large counts are lower, and those of small ones higher, than these: that is no bias.

    Parameters
    ----------
    truth
        Hidden counts (molecules), such as ``counts[hidden]``.
    predicted
        Their imputed means, same shape.
    ax
        Axes to draw on; new ones by default.

    Raises
    ------
    TypeError
        For sparse matrices.
    ValueError
        If the shapes differ.
    """
    truth, predicted = (each.ravel() for each in paired(truth, predicted))
    ax = plt.subplots()[1] if ax is None else ax
    edges = np.unique(np.floor(np.geomspace(1, max(truth.max(initial=1), 1) + 1, 14))).astype(int)
    edges = np.concatenate([[0], edges])
    groups = [predicted[(truth >= low) & (truth < high)] for low, high in pairwise(edges)]
    kept = [index for index, group in enumerate(groups) if len(group) >= MIN_IN_BOX]
    labels = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    positions = np.arange(len(kept))
    if kept:
        boxes = [groups[index] for index in kept]
        ax.boxplot(boxes, positions=positions, widths=0.6, showfliers=False, medianprops={"color": "C0"})
    middle = [truth[(truth >= edges[i]) & (truth < edges[i + 1])].mean() for i in kept]
    ax.plot(positions, middle, "_", color="C3", markersize=18, label="true mean of the group")
    ax.set_yscale("symlog", linthresh=1.0)
    ax.set_ylim(bottom=0)
    ax.set_xticks(positions, [labels[i] for i in kept], rotation=45)
    ax.set(xlabel="hidden count (molecules)", ylabel="imputed mean (molecules)", title="Hidden entries")
    lines, names = ax.get_legend_handles_labels()
    parts = [Line2D([], [], color="C0"), Patch(facecolor="none", edgecolor="black")]
    ax.legend([*lines, *parts], [*names, "median", "middle half"], loc="upper left", frameon=False)
    return ax


def report(holdout) -> Figure:
    """Training curve, and imputed against hidden counts, side by side.

    Parameters
    ----------
    holdout
        Result of :func:`countsdiff_sc.evaluation.hold_out`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    training_curve(holdout.model, ax=axes[0])
    imputed_against_true(holdout.truth, holdout.predicted, ax=axes[1])
    return figure
