"""Imputation of held-out cells, beside every baseline, over data sets, masks and seeds.

A fifth of the cells is held out and a model trained on the rest, once with labels and once without; then entries of the
held-out cells are hidden and imputed. Baselines see the training cells in full and the visible entries of the
held-out ones; of their settings the best on each row is taken, which flatters them. Results are appended to a
CSV file as they come, and rows that are already there are not computed again.

    COUNTSDIFF_SC_DATA=folder python benchmarks/imputation.py --csv results.csv --markdown results.md
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy
import scvi
import torch
from tqdm import tqdm

import countsdiff_sc
from countsdiff_sc import CountsDiffSC, evaluation

DATA_SETS = {
    "pbmc3k": "pbmc3k",
    "kang": "kang_pbmc_ifnb_donors",
    "zeisel": "zeisel_cortex_1000g",
    "pancreas": "mouse_pancreas_e15_spliced",
    "mixology": "sc_mixology_cell_lines",
}
MASKS = {
    "MCAR 10%": (evaluation.mcar, 0.1),
    "MCAR 50%": (evaluation.mcar, 0.5),
    "MCAR 90%": (evaluation.mcar, 0.9),
    "MNAR-low 25%": (evaluation.mnar_low, 0.25),
}
#: The grids from which each baseline's best is taken.
BASELINES = {
    "gene mean x depth": [evaluation.gene_mean_x_depth],
    "label mean x depth": [evaluation.label_mean_x_depth],
    "nearest neighbours": [partial(evaluation.nearest_neighbours, n_neighbours=k) for k in (20, 50, 100)],
    "low rank": [partial(evaluation.low_rank, rank=rank) for rank in (4, 8, 16, 32)],
}
METRICS = {"poisson_deviance": evaluation.poisson_deviance, "rmse_log1p": evaluation.rmse_log1p}
N_GENES, TEST_FRACTION, LABELS_KEY = 1000, 0.2, "cell_type"
KEYS = ["data", "mask", "seed", "method"]


def load(name: str) -> anndata.AnnData:
    """The most variable genes of a data set."""
    folder = Path(os.environ.get("COUNTSDIFF_SC_DATA", "../shared/data"))
    adata = anndata.read_h5ad(folder / f"{DATA_SETS[name]}.h5ad")
    if adata.n_vars > N_GENES:
        scanpy.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=N_GENES, subset=True)
    return adata


def scores(truth: np.ndarray, mean: np.ndarray) -> dict[str, float]:
    """Every metric."""
    return {name: metric(truth, mean) for name, metric in METRICS.items()}


def best_baselines(train: anndata.AnnData, test: anndata.AnnData, observed: np.ndarray) -> Iterator[dict]:
    """Scores of each baseline at its best setting for this row."""
    truth = test.X.toarray()
    counts = np.concatenate([train.X.toarray(), np.where(observed, truth, 0.0)])
    mask = np.concatenate([np.ones(train.shape, dtype=bool), observed])
    labels = np.concatenate([train.obs[LABELS_KEY].astype(str), test.obs[LABELS_KEY].astype(str)])
    for name, settings in BASELINES.items():
        imputed = [setting(counts, mask, labels)[train.n_obs :] for setting in settings]
        tried = [scores(truth[~observed], mean[~observed]) for mean in imputed]
        yield {"method": name, **{metric: min(t[metric] for t in tried) for metric in METRICS}}


def run(name: str, seed: int, done: set[tuple]) -> Iterator[dict]:
    """Rows of one data set and seed that are not there yet."""
    ours = {"CountsDiffSC": LABELS_KEY, "CountsDiffSC, no labels": None}
    methods = [*BASELINES, *ours]
    todo = [mask for mask in MASKS if any((name, mask, seed, method) not in done for method in methods)]
    if not todo:
        return
    adata = load(name)
    held_out = np.random.default_rng(seed).random(adata.n_obs) < TEST_FRACTION
    train, test = adata[~held_out].copy(), adata[held_out].copy()
    observed = {mask: MASKS[mask][0](test.X, MASKS[mask][1], seed=seed) for mask in todo}
    truth = test.X.toarray()
    for method, labels_key in ours.items():
        scvi.settings.seed = seed
        CountsDiffSC.setup_anndata(train, labels_key=labels_key)
        model = CountsDiffSC(train)
        model.train(accelerator="cpu", enable_progress_bar=False)
        for mask, visible in observed.items():
            mean = model.get_imputed_counts(test.copy(), observed_mask=visible)
            yield {
                "data": name,
                "mask": mask,
                "seed": seed,
                "method": method,
                **scores(truth[~visible], mean[~visible]),
            }
    for mask, visible in observed.items():
        for row in best_baselines(train, test, visible):
            yield {"data": name, "mask": mask, "seed": seed, **row}


def markdown(results: pd.DataFrame) -> str:
    """One table per metric: means over seeds, the best in bold, and ours over the best baseline."""
    blocks = []
    for metric in METRICS:
        table = results.pivot_table(index=["data", "mask"], columns="method", values=metric, sort=False)
        table = table[[*BASELINES, "CountsDiffSC, no labels", "CountsDiffSC"]]
        lines = ["| data | mask | " + " | ".join(table.columns) + " | ours / best |"]
        lines.append("|---" * (table.shape[1] + 3) + "|")
        for (data, mask), row in table.iterrows():
            cells = [f"**{value:.4f}**" if value == row.min() else f"{value:.4f}" for value in row]
            ratio = row["CountsDiffSC"] / row[list(BASELINES)].min()
            lines.append(f"| {data} | {mask} | " + " | ".join(cells) + f" | {ratio:.3f} |")
        blocks.append(f"### {metric}\n\n" + "\n".join(lines))
    versions = f"countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}, scvi-tools {scvi.__version__}"
    seeds = results["seed"].nunique()
    head = f"Means over {seeds} seeds. {versions}; {platform.machine()}, {torch.get_num_threads()} threads."
    return head + "\n\n" + "\n\n".join(blocks) + "\n"


def main() -> None:
    """Compute what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("imputation.csv"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(DATA_SETS), default=list(DATA_SETS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = pd.read_csv(arguments.csv) if arguments.csv.exists() else pd.DataFrame(columns=KEYS)
    for name, seed in tqdm([(name, seed) for seed in range(arguments.seeds) for name in arguments.data]):
        done = set(results[KEYS].itertuples(index=False, name=None))
        for row in run(name, seed, done):
            results = pd.concat([results, pd.DataFrame([row])], ignore_index=True).drop_duplicates(KEYS, keep="last")
            results.to_csv(arguments.csv, index=False)
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(results))


if __name__ == "__main__":
    main()
