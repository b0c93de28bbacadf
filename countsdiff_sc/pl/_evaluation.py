"""Picture of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from countsdiff_sc._validation import check_not_string

#: A panel ends where methods are worse than the best by this factor.
MAX_RATIO = 3.0


def evaluation(table: pd.DataFrame, *, metrics: Sequence[str] = ("poisson_deviance", "rmse_log1p")) -> Figure:
    """Plot scores of methods: a dot per seed, a line at their mean, one panel per metric and mask.

    Where a method is far worse than the best its mean is written at the edge.

    Methods stand in the order of their first metric, the best on top; the model's names are bold.

    Parameters
    ----------
    table
        Result of :meth:`countsdiff_sc.CountsDiffSC.evaluate`, or several of them concatenated.
    metrics
        Columns to plot.

    Raises
    ------
    KeyError
        If ``table`` lacks one of them.
    TypeError, ValueError
        If they are a string, or there are none.

    Examples
    --------
    >>> table = model.evaluate(seed=range(3))  # doctest: +SKIP
    >>> countsdiff_sc.pl.evaluation(table)  # doctest: +SKIP
    """
    check_not_string("metrics", metrics)
    if not metrics:
        msg = "metrics is empty. There is a panel for each. Pass the names of one column or several."
        raise ValueError(msg)
    for name in ("mechanism", "fraction", "method", *metrics):
        if name not in table.columns:
            msg = (
                f"{name!r} is not a column of the table, which has {list(table.columns)}. The table must be of the form that "
                "CountsDiffSC.evaluate returns. Pass one, and metrics that are among its columns."
            )
            raise KeyError(msg)
    masks = list(table.groupby(["mechanism", "fraction"], sort=False))
    order = table.groupby("method")[metrics[0]].mean().sort_values(ascending=False, na_position="first").index
    places = {method: place for place, method in enumerate(order)}
    size = (4.0 * len(metrics), (0.35 * len(order) + 1.2) * len(masks))
    figure, axes = plt.subplots(
        len(masks), len(metrics), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for row, ((mechanism, fraction), rows) in zip(axes, masks, strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            place = rows["method"].map(places)
            mean = rows.groupby(place)[metric].mean()
            # Methods that are far off, as zeros are, would squeeze the others into a line: they are named at the edge.
            is_far = (mean > MAX_RATIO * mean.min()) & (mean.min() > 0)
            for far, value in mean[is_far].items():
                ax.annotate(f"{value:.3g} →", (1.0, far), xycoords=("axes fraction", "data"), ha="right", va="center")
            ax.plot(mean[~is_far], mean.index[~is_far], "|", markersize=16, color="0.5")
            is_ours = rows["method"].str.startswith("CountsDiffSC")
            for chosen, color in ((~is_ours, "0.3"), (is_ours, "C0")):
                chosen = chosen & ~place.isin(mean.index[is_far])
                ax.plot(rows[metric][chosen], place[chosen], "o", markersize=4, alpha=0.7, color=color)
            ax.set(title=f"{mechanism}, {fraction:.0%} hidden", xlabel=metric.replace("_", " "))
            ax.grid(axis="x", color="0.9")
        row[0].set_yticks(range(len(order)), order)
        for label in row[0].get_yticklabels():
            label.set_fontweight("bold" if label.get_text().startswith("CountsDiffSC") else "normal")
    return figure
