"""Schedules, weightings and training times side by side, default settings otherwise.

A fifth of the cells is held out. Each model is trained on the rest and scored on the held-out cells in three ways: half of
their entries are imputed, cells of their labels are generated, and their log-probability is bounded.

    pip install ".[benchmarks]"
    COUNTSDIFF_SC_DATA=folder python benchmarks/design_space.py --csv design_space.csv --markdown design_space.md
"""

from __future__ import annotations

import argparse
import logging
import platform
import warnings
from pathlib import Path

import anndata
import imputation
import numpy as np
import pandas as pd
import scvi
import torch
from tqdm import tqdm

import countsdiff_sc
from countsdiff_sc import CountsDiffSC, evaluation

DATA_SETS = ["pbmc3k", "kang"]
#: Schedule, weighting and training times; the first is the default.
DESIGNS = [
    ("cosine", "uniform", "uniform"),
    ("cosine", "paper", "uniform"),
    ("cosine", "likelihood", "uniform"),
    ("cosine", "uniform", 1000),
    ("blackout", "uniform", "uniform"),
    ("blackout", "paper", 1000),
    ("blackout", "likelihood", "uniform"),
    ("blackout", "likelihood", "importance"),
    ("jump", "uniform", "uniform"),
]
HIDDEN_FRACTION, N_TIMES = 0.5, 16
METRICS = {
    "deviance": "deviance",
    "energy_imputed": "energy distance, imputed",
    "energy_generated": "energy distance, generated",
    "elbo": "ELBO",
    "elbo_error": "± of the estimate",
}
DESIGN_KEYS = ["schedule", "loss_weighting", "time_distribution"]
KEYS = ["data", "seed", "n_members", *DESIGN_KEYS]


def scores(model: CountsDiffSC, test: anndata.AnnData, seed: int) -> dict[str, float]:
    """Deviance of one-pass means, energy distances of one-pass draws and of generated cells, and ELBO per cell (nats)."""
    truth, observed = test.X.toarray(), evaluation.mcar(test.X, HIDDEN_FRACTION, seed=seed)
    imputed = {"observed_mask": observed, "seed": seed}
    mean = model.get_imputed_counts(test.copy(), **imputed)
    draw = model.get_imputed_counts(test.copy(), estimate="sample", **imputed).toarray()
    cells = model.sample(test.n_obs, labels=test.obs[imputation.LABELS_KEY].astype(str), seed=seed).X.toarray()
    elbo = model.get_elbo(test.copy(), n_times=N_TIMES, seed=seed)
    return {
        "deviance": evaluation.poisson_deviance(truth[~observed], mean[~observed]),
        "energy_imputed": evaluation.energy_distance(truth, draw, seed=seed),
        "energy_generated": evaluation.energy_distance(truth, cells, seed=seed),
        "elbo": elbo["elbo"].mean(),
        "elbo_error": np.sqrt((elbo["standard_error"] ** 2).sum()) / len(elbo),
    }


def run(name: str, seed: int, n_members: int, design: tuple) -> dict:
    """Train and score one model."""
    train, test = imputation.split(imputation.load(name), seed)
    scvi.settings.seed = seed
    CountsDiffSC.setup_anndata(train, labels_key=imputation.LABELS_KEY)
    model = CountsDiffSC(train, n_members=n_members, **dict(zip(DESIGN_KEYS, design, strict=True)))
    model.train(accelerator="cpu", enable_progress_bar=False)
    return {**dict(zip(KEYS, (name, seed, n_members, *map(str, design)), strict=True)), **scores(model, test, seed)}


def markdown(results: pd.DataFrame) -> str:
    """One table: a row for each data set and design, averaged over seeds."""
    versions = f"countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}"
    n_seeds = results["seed"].nunique()
    table = results.groupby(["data", *DESIGN_KEYS], sort=False)[list(METRICS)].mean()
    lines = [
        "| data | schedule | weighting | times | " + " | ".join(METRICS.values()) + " |",
        "|---|---|---|---|" + "---:|" * len(METRICS),
    ]
    for key, row in table.iterrows():
        cells = [f"{value:.1f}" if metric.startswith("elbo") else f"{value:.4f}" for metric, value in row.items()]
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    n_members = "/".join(map(str, results["n_members"].unique()))
    head = f"{versions}; {platform.machine()}; seeds: {n_seeds}; networks of each model: {n_members}."
    return head + "\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Compute what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("design_space.csv"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=DATA_SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n-members", type=int, default=3, help="networks of each model")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = (
        pd.read_csv(arguments.csv, dtype={"time_distribution": str})
        if arguments.csv.exists()
        else pd.DataFrame(columns=KEYS)
    )
    done = set(results[KEYS].itertuples(index=False, name=None))
    todo = [
        (name, seed, design)
        for seed in range(arguments.seeds)
        for name in arguments.data
        for design in DESIGNS
        if (name, seed, arguments.n_members, *map(str, design)) not in done
    ]
    for name, seed, design in tqdm(todo):
        results = pd.concat([results, pd.DataFrame([run(name, seed, arguments.n_members, design)])], ignore_index=True)
        results.to_csv(arguments.csv, index=False)
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(results))


if __name__ == "__main__":
    main()
