"""Draw the figures of real and generated cells into _static; run as ``python docs/figures_cells.py``.

Trains one model by default settings on the cells that come with scanpy, without the one cell that is shown: about a minute
on one thread, and another for the samples. Nothing is kept but the pictures; the numbers of their captions are printed.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import scvi
import torch
from anndata import AnnData
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

import countsdiff_sc
from countsdiff_sc import CountsDiffSC, process
from countsdiff_sc.evaluation import energy_distance
from countsdiff_sc.nn import Conditions

STATIC = Path(__file__).parent / "_static"
SEED = 0
LABELS_KEY, LABEL = "bulk_labels", "CD19+ B"
N_STEPS, N_RUNS = 60, 100
GUIDANCE = (0, 1, 2, 4)
ATTRITION = {"none": (None, "o", "-"), "0.1": (0.1, "s", "--"), '"max"': ("max", "^", "-.")}
COLORS = ["#0072B2", "#D55E00", "#009E73"]  # distinguishable with colour blindness


def counts(adata: AnnData) -> np.ndarray:
    return adata.X.toarray().astype(np.float32)


def log_fractions(x: np.ndarray) -> np.ndarray:
    """``log1p`` of counts per 1,000, so that depth tells nothing."""
    return np.log1p(1000.0 * x / x.sum(1, keepdims=True).clip(1.0))


def markers(adata: AnnData, n: int) -> np.ndarray:
    """Genes that are highest in the label against all other cells, by difference of mean ``log_fractions``."""
    is_label, y = (adata.obs[LABELS_KEY] == LABEL).to_numpy(), log_fractions(counts(adata))
    return np.argsort(y[~is_label].mean(0) - y[is_label].mean(0))[:n]


def distance_between(real: np.ndarray, x: np.ndarray) -> float:
    """Energy distance, which takes as many cells as there are real ones: its mean over blocks of ``x``."""
    n = len(real)
    return np.mean([energy_distance(real, x[i : i + n]) for i in range(0, len(x) - n + 1, n)])


# --- one cell through time ---


def forward_states(model: CountsDiffSC, x_0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """All genes of a real cell at times 0 to 1, shape ``(N_STEPS + 1, N_RUNS, G)``."""
    states = [x_0]
    for p_s, p_t in pairwise(model.module.schedule.survival_prob(process.time_grid(N_STEPS)).flip(0)):
        states.append(process.thin(states[-1], p_t / p_s, generator=generator))
    return torch.stack(states)


def reverse_states(model, x_0, observed, attrition, generator) -> torch.Tensor:
    """The cell at times 1 to 0 if only ``observed`` genes, and no label, are seen; shape as before."""
    conditions = Conditions(
        torch.full((N_RUNS, len(model.module.n_categories)), -1), torch.empty(N_RUNS, 0), torch.zeros(N_RUNS, 1)
    )
    times, sigma = process.time_grid(N_STEPS), process.get_attrition(attrition)
    denoise = model.module.bind(observed, conditions, generator=generator)
    survival = model.module.schedule.survival_prob(times)
    states = [x_0.where(observed, 0.0)]
    for t, (p_t, p_s) in zip(times, pairwise(survival), strict=False):
        n_deaths = process.negative_binomial_births(*denoise(states[-1], t), generator)
        step = {"p_s": p_s, "p_t": p_t, "attrition": sigma(p_s, p_t), "generator": generator}
        states.append(process.birth_death_step(states[-1], n_deaths, **step).where(~observed, x_0))
    return torch.stack(states)


def draw_cell_trajectory(model: CountsDiffSC, train: AnnData, cell: AnnData) -> plt.Figure:
    generator = torch.Generator().manual_seed(SEED)
    x_0 = torch.from_numpy(counts(cell))
    observed = torch.rand(x_0.shape, generator=generator) < 0.5
    runs, capped = x_0.repeat(N_RUNS, 1), process.capped_attrition(0.02)
    model.module.eval()
    with torch.inference_mode():
        panels = {
            "forward: molecules die": forward_states(model, runs, generator),
            "reverse, no attrition": reverse_states(model, runs, observed.expand_as(runs), None, generator),
            "reverse, attrition 0.02 a step": reverse_states(model, runs, observed.expand_as(runs), capped, generator),
        }
    expressed = [gene for gene in markers(train, 30) if x_0[0, gene] > 0]
    chosen = np.array(list(dict.fromkeys([*expressed[:8], *np.argsort(-x_0[0].numpy())]))[:16])
    is_observed = observed[0].numpy()[chosen]
    rows = np.concatenate([chosen[is_observed], chosen[~is_observed]])
    hidden = ~observed[0]
    for title, states in panels.items():
        end = states[0 if title.startswith("forward") else -1][:, hidden].sum(1)
        low, high = end.quantile(0.05), end.quantile(0.95)
        print(
            f"{title}: hidden molecules at t = 0: {end[0]:.0f}, 90% of runs {low:.0f} to {high:.0f}, mean {end.mean():.0f}"
        )

    figure, axes = plt.subplots(2, 3, figsize=(10.6, 5.4), height_ratios=(1, 2.6), sharex="col", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06)
    norm = mpl.colors.PowerNorm(0.5, vmin=0, vmax=max(float(states[:, 0, rows].max()) for states in panels.values()))
    for (above, below), (title, states) in zip(axes.T, panels.items(), strict=True):
        forwards = title.startswith("forward")
        t = process.time_grid(N_STEPS).flip(0) if forwards else process.time_grid(N_STEPS)
        for genes, color, style, label in (
            (slice(None), COLORS[0], "-", "all genes"),
            (hidden, COLORS[1], "--", "hidden genes"),
        ):
            totals = states[:, :, genes].sum(2)
            low, high = totals.quantile(0.05, dim=1), totals.quantile(0.95, dim=1)
            above.fill_between(t, low, high, step="post", color=color, alpha=0.2, linewidth=0)
            above.step(t, totals[:, 0], where="post", color=color, linestyle=style, label=label)
            above.axhline(float(x_0[0, genes].sum()), color=color, linewidth=0.8, linestyle=":")
        above.set(title=title, ylim=(0, 1.4 * float(x_0.sum())))
        image = below.pcolormesh(t, range(len(rows)), states[:, 0, rows].T, norm=norm, cmap="Blues", shading="nearest")
        below.axhline(is_observed.sum() - 0.5, color="0.3", linewidth=0.9)
        below.set(xlabel="time $t$", xlim=(float(t[0]), float(t[-1])), ylim=(len(rows) - 0.5, -0.5))
        below.spines[:].set_visible(False)
        end = states[0 if forwards else -1, 0, rows].int().tolist()
        names = [f"{name}  {n}" for name, n in zip(cell.var_names[rows], end, strict=True)] if forwards else end
        below.set_yticks(range(len(rows)), names)
        below.tick_params(axis="y", length=0, labelleft=forwards, labelright=not forwards)
    axes[0, 0].set_ylabel("molecules")
    axes[0, 0].legend(frameon=False, loc="upper right", ncols=2, borderaxespad=0.0)
    for ax in axes[1, 1:]:
        for y, text in (((is_observed.sum() - 1) / 2, "observed"), ((is_observed.sum() + len(rows) - 1) / 2, "hidden")):
            ax.text(1.02, y, text, rotation=90, ha="right", va="center", color="0.3")
    bar = figure.colorbar(
        image, ax=axes[1], label="molecules", pad=0.02, aspect=30, ticks=[0, 1, 5, 10, 20, 40, 60, 80]
    )
    bar.outline.set_visible(False)
    return figure


# --- many cells of one label ---


def draw_guidance_attrition(model: CountsDiffSC, train: AnnData, *, n_cells: int = 300) -> plt.Figure:
    is_label = (train.obs[LABELS_KEY] == LABEL).to_numpy()
    x, of_type = counts(train), markers(train, 10)
    real = x[is_label]
    classifier = LogisticRegression(C=0.01, max_iter=1000)
    cross_validated = cross_val_predict(classifier, log_fractions(x), is_label, cv=5, method="predict_proba")[:, 1]
    classifier.fit(log_fractions(x), is_label)
    statistics = {
        "probability of the label": lambda x: classifier.predict_proba(log_fractions(x))[:, 1].mean(),
        "share of 10 marker genes": lambda x: (x[:, of_type].sum(1) / x.sum(1).clip(1.0)).mean(),
        "energy distance to real cells": lambda x: distance_between(real, x),
        "library size, mean": lambda x: x.sum(1).mean(),
        "library size, standard deviation": lambda x: x.sum(1).std(),
        "distance between cells": lambda x: pdist(log_fractions(x)).mean(),
    }
    truth = {name: statistic(real) for name, statistic in statistics.items()}
    truth["probability of the label"] = cross_validated[is_label].mean()  # by classifiers that have not seen the cell
    truth["energy distance to real cells"] = 0.0
    print("real", {name: round(float(value), 3) for name, value in truth.items()})
    figure, axes = plt.subplots(2, 3, figsize=(9.2, 5.0), sharex=True, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    for (label, (attrition, marker, style)), color in zip(ATTRITION.items(), COLORS, strict=True):
        options = {"labels": LABEL, "attrition": attrition, "seed": SEED}
        samples = [counts(model.sample(n_cells, guidance_scale=scale, **options)) for scale in GUIDANCE]
        look = {"color": color, "marker": marker, "linestyle": style, "markersize": 4.5, "label": f"attrition {label}"}
        for ax, (name, statistic) in zip(axes.flat, statistics.items(), strict=True):
            values = [statistic(sample) for sample in samples]
            print(label, name, dict(zip(GUIDANCE, [f"{value:.4g}" for value in values], strict=True)))
            ax.plot(GUIDANCE, values, **look)
            thirds = np.array([[statistic(third) for third in np.array_split(sample, 3)] for sample in samples])
            ax.plot(GUIDANCE, thirds, ".", color=color, alpha=0.5, markersize=5, markeredgewidth=0)
    for ax, (name, value) in zip(axes.flat, truth.items(), strict=True):
        ax.axhline(value, color="0.35", linewidth=1.0, linestyle=(0, (5, 3)), label="real cells", clip_on=False)
        ax.set(title=name, xticks=GUIDANCE)
        if name.endswith("deviation"):
            ax.set_yscale("log")
            ax.set_yticks([100, 200, 500, 1000, 2000], ["100", "200", "500", "1000", "2000"])
            ax.minorticks_off()
        else:
            ax.set_ylim(0, 1.05 * max(ax.get_ylim()[1], value))
    for ax in axes[1]:
        ax.set_xlabel(r"guidance scale $\gamma$")
    axes[0, 0].legend(frameon=False, loc="lower right")
    return figure


def main() -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130})
    torch.set_num_threads(1)
    scvi.settings.seed = SEED
    adata = countsdiff_sc.datasets.pbmc68k_counts()
    # The cell shown is the one of the label whose number of molecules is the median.
    of_label = np.flatnonzero(adata.obs[LABELS_KEY] == LABEL)
    shown = of_label[np.argsort(counts(adata[of_label]).sum(1))[len(of_label) // 2]]
    cell, train = adata[[shown]].copy(), adata[np.arange(adata.n_obs) != shown].copy()
    CountsDiffSC.setup_anndata(train, labels_key=LABELS_KEY)
    model = CountsDiffSC(train)
    model.train(enable_progress_bar=False)
    figures = {
        "cell_trajectory": draw_cell_trajectory(model, train, cell),
        "guidance_attrition": draw_guidance_attrition(model, train),
    }
    for name, figure in figures.items():
        figure.savefig(STATIC / f"{name}.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
