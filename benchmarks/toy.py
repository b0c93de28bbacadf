"""Count, Gaussian and masked diffusion on counts whose law is known: the toy study of the CountsDiff paper, done again.

Ten negative binomials share a size factor. Three models of one size are trained in one way until their validation loss is
flat, and their draws are compared with held-out rows. Two rows of the table are yardsticks: a second draw from the law,
which no model should beat by more than noise, and count diffusion with the exact denoiser, which shows what its sampler
alone costs.

    pip install ".[benchmarks]"
    python benchmarks/toy.py --csv toy.csv --markdown toy.md --figure toy.png
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from toy_law import ExactDenoiser, Law
from toy_models import MODELS, count_loss, fit, sample_counts
from tqdm import tqdm

import countsdiff_sc
from countsdiff_sc import evaluation, process

LAW_SEED = 0
N_TRAIN, N_VALIDATION, N_HELD_OUT, N_DRAWN = 20_000, 4_000, 50_000, 50_000
#: Rows drawn with the most steps, where dimensions are compared: the noise of fewer would hide what the models differ by.
N_DRAWN_LAST = 200_000
#: The law is tabulated up to here; more than that it has once in 10^9 rows.
MAX_COUNT = 500
#: Steps of training, and of sampling.
N_TRAINING_STEPS, SAMPLING_STEPS = 10_000, (1, 4, 10, 50, 200)
#: Validation losses taken in training.
N_CHECKS = 40
#: Rows that are compared in pairs.
MAX_CELLS = 5_000
REAL, TRAINING, EXACT = "real, second draw", "real, training rows", "CountsDiff, exact denoiser"
YARDSTICKS = [REAL, TRAINING]
COLORS = {
    REAL: "0.2",
    TRAINING: "0.6",
    EXACT: "#56B4E9",
    "CountsDiff": "#0072B2",
    "Gaussian": "#D55E00",
    "masked": "#009E73",
}
MARKERS = {REAL: "_", TRAINING: "x", EXACT: "+", "CountsDiff": "o", "Gaussian": "s", "masked": "^"}


def correlations(counts: np.ndarray) -> np.ndarray:
    """Pearson correlations of the pairs of dimensions, in ``log1p``."""
    return np.corrcoef(np.log1p(counts).T)[np.triu_indices(counts.shape[1], 1)]


def distance_to_law(cdf: np.ndarray, counts: np.ndarray) -> float:
    """Wasserstein-1 distance (molecules) of counts from the law with the cumulative probabilities of 0, 1, ..."""
    found = np.cumsum(np.bincount(counts.astype(np.int64), minlength=len(cdf))) / len(counts)
    return float(np.abs(found - np.pad(cdf, (0, len(found) - len(cdf)), constant_values=1.0)).sum())


def score(law: Law, held_out: np.ndarray, drawn: np.ndarray) -> list[dict]:
    """Scores of each dimension by its law, and of rows as wholes by held-out ones (``dimension`` is then ``"all"``)."""
    rows = []
    cdf = law.cdf(MAX_COUNT)
    for dim, variance in enumerate(law.variance):
        draws = drawn[:, dim]
        values = {
            "variance ratio": draws.var() / variance,
            "W1": distance_to_law(cdf[:, dim], draws),
            "P(0) error": abs(float((draws == 0).mean() - cdf[0, dim])),
        }
        rows += [{"dimension": dim, "metric": metric, "value": value} for metric, value in values.items()]
    true, found = correlations(held_out), correlations(drawn)
    n_rows = min(map(len, (held_out, drawn)))
    pair = held_out[:n_rows], drawn[:n_rows]
    values = {
        "MMD": evaluation.mmd(*pair, max_cells=MAX_CELLS),
        "sliced W1": evaluation.sliced_wasserstein(*pair, max_cells=MAX_CELLS, n_projections=200),
        "energy distance": evaluation.energy_distance(*pair, max_cells=MAX_CELLS),
        "mean correlation": found.mean(),
        "correlation error": np.abs(found - true).mean(),
    }
    return rows + [{"dimension": "all", "metric": metric, "value": value} for metric, value in values.items()]


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def train(
    name: str, train_rows: np.ndarray, validation_rows: np.ndarray, *, n_steps: int, seed: int
) -> tuple[nn.Module, pd.Series]:
    """A trained model, and its validation loss by step."""
    torch.manual_seed(seed)  # of the first weights
    model = MODELS[name](torch.as_tensor(train_rows))
    rows = map(torch.as_tensor, (train_rows, validation_rows))
    checks = fit(model, *rows, n_steps=n_steps, n_checks=N_CHECKS, seed=seed)
    return model, pd.Series(
        dict(tqdm(checks, desc=f"{name}, training", total=N_CHECKS, leave=False, disable=None)), name=name
    )


def run(law: Law, seed: int, n_steps: int, sampling_steps: tuple[int, ...]) -> Iterator[dict]:
    """Scores and validation losses of every method with one seed, in long form."""
    # Streams of rows that no other seed shares.
    train_rows, validation_rows, held_out, second = (
        law.draw(n, seed=1000 * (seed + 1) + k) for k, n in enumerate((N_TRAIN, N_VALIDATION, N_HELD_OUT, N_DRAWN_LAST))
    )
    for name, rows in zip(YARDSTICKS, (second, train_rows), strict=True):
        for row in score(law, held_out, rows):
            yield {"method": name, "steps": 0, **row}

    def sampled(method: str, draw) -> Iterator[dict]:
        for steps in tqdm(sampling_steps, desc=f"{method}, sampling", leave=False, disable=None):
            n_drawn = N_DRAWN_LAST if steps == max(sampling_steps) else N_DRAWN
            drawn = draw(n_drawn, steps, torch.Generator().manual_seed(seed)).numpy()
            for row in score(law, held_out, drawn):
                yield {"method": method, "steps": steps, **row}

    exact = ExactDenoiser(law, process.CosineSchedule())
    with torch.no_grad():
        best = float(count_loss(exact, torch.as_tensor(validation_rows), torch.Generator().manual_seed(0)))
    yield {"method": EXACT, "steps": 0, "dimension": "all", "metric": "validation loss", "value": best}
    yield from sampled(EXACT, lambda *arguments: sample_counts(exact, *arguments))
    for name in MODELS:
        model, losses = train(name, train_rows, validation_rows, n_steps=n_steps, seed=seed)
        yield {"method": name, "steps": 0, "dimension": "all", "metric": "parameters", "value": n_parameters(model)}
        for step, loss in losses.items():
            yield {"method": name, "steps": step, "dimension": "all", "metric": "validation loss", "value": loss}
        yield from sampled(name, model.sample)


def table_of_steps(results: pd.DataFrame, steps: int) -> pd.DataFrame:
    """One row per method at a number of sampling steps: means over seeds, with the range over dimensions of two scores."""
    at = results[(results["steps"] == steps) | results["method"].isin(YARDSTICKS)]
    by_dimension = at[at["dimension"] != "all"].groupby(["method", "metric", "dimension"])["value"].mean()
    joint = at[at["dimension"] == "all"].groupby(["method", "metric"])["value"].mean()
    rows = {}
    for method in (name for name in COLORS if name in by_dimension.index):
        ratio, w1, p0 = (by_dimension[method][metric] for metric in ("variance ratio", "W1", "P(0) error"))
        rows[method] = {
            "variance ratio, least to largest": f"{ratio.min():.3f} to {ratio.max():.3f}",
            "within 5%": f"{int(ratio.between(0.95, 1.05).sum())} of {len(ratio)}",
            "W1, mean": f"{w1.mean():.4f}",
            "P(0) error, largest": f"{p0.max():.4f}",
            "MMD": f"{joint[method]['MMD']:.5f}",
            "sliced W1": f"{joint[method]['sliced W1']:.4f}",
            "energy distance": f"{joint[method]['energy distance']:.5f}",
            "mean correlation": f"{joint[method]['mean correlation']:.3f}",
            "its error": f"{joint[method]['correlation error']:.4f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def dimensions(results: pd.DataFrame, metric: str, steps: int) -> pd.DataFrame:
    """A score of each dimension and method, means over seeds."""
    at = results[(results["metric"] == metric) & ((results["steps"] == steps) | results["method"].isin(YARDSTICKS))]
    return at.pivot_table(index="dimension", columns="method", values="value")[
        [name for name in COLORS if name in set(at["method"])]
    ]


def training_table(results: pd.DataFrame) -> pd.DataFrame:
    """Parameters of each model, its validation loss after each quarter of training, and the least possible."""
    at = results[results["metric"] == "validation loss"]
    losses = at.pivot_table(index="method", columns="steps", values="value")
    parameters = results[results["metric"] == "parameters"].groupby("method")["value"].first()
    checks = [step for step in losses.columns if step]
    table = losses.loc[list(MODELS), [checks[round(len(checks) * q / 4) - 1] for q in (1, 2, 3, 4)]]
    table = table.map("{:.4f}".format)
    table.insert(0, "parameters", parameters.map("{:.0f}".format))
    table = table.rename(columns=str).assign(**{"least possible": ""})
    table.loc["CountsDiff", "least possible"] = f"{losses.loc[EXACT, 0]:.4f}"
    return table


def markdown_table(table: pd.DataFrame, digits: int = 3) -> str:
    cells = table.map(lambda value: value if isinstance(value, str) else f"{value:.{digits}f}")
    lines = [f"| | {' | '.join(map(str, table.columns))} |", "|---" + "|---:" * table.shape[1] + "|"]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in zip(cells.index, cells.to_numpy(), strict=True)]
    return "\n".join(lines)


def markdown(results: pd.DataFrame) -> str:
    """Tables of every number of steps, then of every dimension at the largest."""
    sampling = sorted(results.loc[results["metric"] == "W1", "steps"].unique())[1:]
    blocks = [f"## Validation loss by training step\n\n{markdown_table(training_table(results))}"]
    blocks += [f"## Sampling steps: {steps}\n\n{markdown_table(table_of_steps(results, steps))}" for steps in sampling]
    for metric in ("variance ratio", "W1", "P(0) error"):
        blocks.append(
            f"## {metric}, {sampling[-1]} steps\n\n{markdown_table(dimensions(results, metric, sampling[-1]), 4)}"
        )
    versions = f"countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}, {platform.machine()}"
    return f"Means over {results['seed'].nunique()} seeds. {versions}.\n\n" + "\n\n".join(blocks) + "\n"


def figure(results: pd.DataFrame) -> plt.Figure:
    """Variance and W1 by dimension, and what the number of sampling steps does."""
    fig, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    last = int(results.loc[results["metric"] == "W1", "steps"].max())
    methods = [name for name in COLORS if name in set(results["method"])]
    panels = [("variance ratio", "variance / true variance"), ("W1", "W1 (molecules)")]
    for ax, (metric, label) in zip(axes[0], panels, strict=True):
        for shift, method in zip(np.linspace(-0.3, 0.3, len(methods)), methods, strict=True):
            at = results[(results["metric"] == metric) & (results["method"] == method)]
            by_dim = at[at["steps"].isin([0, last])].groupby("dimension")["value"].agg(["mean", "min", "max"])
            spread = np.abs(by_dim[["min", "max"]].to_numpy().T - by_dim["mean"].to_numpy())
            style = {"color": COLORS[method], "fmt": MARKERS[method], "markersize": 5, "elinewidth": 1}
            ax.errorbar(by_dim.index.astype(int) + shift, by_dim["mean"], yerr=spread, label=method, **style)
        ax.set(xlabel="dimension", ylabel=label, xticks=range(len(by_dim)), xlim=(-0.5, len(by_dim) - 0.5))
        ax.set_xticks(np.arange(1, len(by_dim)) - 0.5, minor=True)
        ax.grid(axis="x", which="minor", color="0.9")
        ax.tick_params(axis="x", which="minor", length=0)
        ax.set_title(f"{last} sampling steps; mean and range of the seeds", fontsize=10)
    axes[0, 0].axhspan(0.95, 1.05, color="0.93", zorder=0)
    axes[0, 1].set_yscale("log")
    for ax, metric in zip(axes[1], ("mean correlation", "energy distance"), strict=True):
        at = results[results["metric"] == metric].groupby(["method", "steps"])["value"].mean()
        ax.axhline(at[REAL].iloc[0], color=COLORS[REAL], linestyle=":")
        for method in methods[len(YARDSTICKS) :]:
            ax.plot(at[method].index, at[method], color=COLORS[method], marker=MARKERS[method], markersize=5)
        ax.set(xscale="log", xlabel="sampling steps", ylabel=metric)
        ax.set_xticks(at[method].index, at[method].index)
        ax.minorticks_off()
        ax.set_title(f"dotted: {REAL}", fontsize=10)
    axes[1, 0].set_ylabel("mean correlation of two dimensions")
    axes[1, 1].set_yscale("symlog", linthresh=1e-3)
    axes[1, 1].set_ylim(-1e-3, 3.0 * at.max())  # unbiased, so a little below 0 by chance
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return fig


def main() -> None:
    """Run every seed, then write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("toy.csv"), help="all scores and losses, in long form")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(10))
    parser.add_argument("--training-steps", type=int, default=N_TRAINING_STEPS)
    parser.add_argument("--sampling-steps", type=int, nargs="+", default=SAMPLING_STEPS)
    arguments = parser.parse_args()
    mpl.use("Agg")
    rows = []
    for seed in tqdm(arguments.seeds, desc="seeds", disable=None):
        scores = run(Law.random(LAW_SEED), seed, arguments.training_steps, tuple(arguments.sampling_steps))
        rows += [{"seed": seed, **row} for row in scores]
        pd.DataFrame(rows).to_csv(arguments.csv, index=False)
    results = pd.DataFrame(rows)
    table = markdown(results)
    tqdm.write(table)
    if arguments.markdown is not None:
        arguments.markdown.write_text(table)
    if arguments.figure is not None:
        figure(results).savefig(arguments.figure, dpi=110)


if __name__ == "__main__":
    main()
