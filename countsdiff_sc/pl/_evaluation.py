"""Picture of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


def evaluation(table: pd.DataFrame, *, metrics: Sequence[str] = ("poisson_deviance", "rmse_log1p")) -> Figure:
    """Plot scores of methods: a dot per seed, a line at their mean, one panel per metric and mask.

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

    Examples
    --------
    >>> table = model.evaluate(seed=range(3))  # doctest: +SKIP
    >>> countsdiff_sc.pl.evaluation(table)  # doctest: +SKIP
    """
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
            ax.plot(mean, mean.index, "|", markersize=16, color="0.5")
            is_ours = rows["method"].str.startswith("CountsDiffSC")
            for chosen, color in ((~is_ours, "0.3"), (is_ours, "C0")):
                ax.plot(rows[metric][chosen], place[chosen], "o", markersize=4, alpha=0.7, color=color)
            ax.set(title=f"{mechanism}, {fraction:.0%} hidden", xlabel=metric.replace("_", " "))
            ax.grid(axis="x", color="0.9")
        row[0].set_yticks(range(len(order)), order)
        for label in row[0].get_yticklabels():
            label.set_fontweight("bold" if label.get_text().startswith("CountsDiffSC") else "normal")
    return figure
