"""Imputation of held-out cells, beside every baseline, over data sets, masks and seeds.

A fifth of the cells is held out. Models that are trained see the rest; then entries of the held-out cells are hidden and
imputed. The other methods see the training cells in full and the visible entries of the held-out ones; of their settings
the best on each row is taken, which flatters them. Results are appended to a CSV file as they come, and what is already
there is not computed again.

    pip install ".[benchmarks]"
    COUNTSDIFF_SC_DATA=folder python benchmarks/imputation.py --csv results.csv --markdown results.md
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator
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
    "low rank": [
        partial(evaluation.low_rank, rank=rank, prior=prior, shrinkage=shrinkage)
        for rank in (4, 8, 16, 32)
        for prior, shrinkage in ((0.5, 0.0), (2.0, 0.0), (0.0, (rank - 1) / 2))
    ],
    "MAGIC": [
        partial(evaluation.magic, knn=knn, t=t, background=background)
        for knn, t, background in ((5, 1, 0.0), (5, 3, 0.0), (5, 3, 0.1), (15, 3, 0.1), (15, 6, 0.1))
    ],
    "halra": [
        evaluation.halra,
        partial(evaluation.halra, background=0.0),
        partial(evaluation.halra, matrix_rank=8),
    ],
}
OURS = {"CountsDiffSC, no labels": None, "CountsDiffSC": "cell_type"}
#: Models that are trained, each with its draws.
TRAINED = [*OURS, "scVI", "masked diffusion"]
MEAN_METRICS = ["poisson_deviance", "rmse_log1p"]
DRAW_METRICS = ["zero_fraction_error", "variance_ratio", "energy_distance", "coverage_90"]
N_GENES, TEST_FRACTION, N_SAMPLES, LABELS_KEY = 1000, 0.2, 10, "cell_type"
KEYS = ["data", "mask", "seed", "method"]

#: Mean and draws, cells x genes, of held-out cells of which only some entries are visible.
Imputer = Callable[[anndata.AnnData, np.ndarray], tuple[np.ndarray, list[np.ndarray]]]


def load(name: str) -> anndata.AnnData:
    """The most variable genes of a data set."""
    folder = Path(os.environ.get("COUNTSDIFF_SC_DATA", "../shared/data"))
    adata = anndata.read_h5ad(folder / f"{DATA_SETS[name]}.h5ad")
    if adata.n_vars > N_GENES:
        n_threads = torch.get_num_threads()
        scanpy.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=N_GENES, subset=True)
        torch.set_num_threads(n_threads)  # which that sets back to all cores
    return adata


def split(adata: anndata.AnnData, seed: int) -> tuple[anndata.AnnData, anndata.AnnData]:
    """Training cells and held-out cells."""
    held_out = np.random.default_rng(seed).random(adata.n_obs) < TEST_FRACTION
    return adata[~held_out].copy(), adata[held_out].copy()


def trained(method: str, train: anndata.AnnData, seed: int) -> Imputer:
    """Train a model with its default settings; return how it imputes."""
    scvi.settings.seed = seed
    if method in OURS:
        CountsDiffSC.setup_anndata(train, labels_key=OURS[method])
        model = CountsDiffSC(train)
        model.train(accelerator="cpu", enable_progress_bar=False)

        def impute(test: anndata.AnnData, observed: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
            arguments = {"observed_mask": observed, "seed": seed}
            draws = model.get_imputed_counts(test.copy(), estimate="sample", n_samples=N_SAMPLES, **arguments)
            return model.get_imputed_counts(test.copy(), **arguments), [draw.toarray() for draw in draws]

        return impute
    rival = {"scVI": evaluation.ScviImputer, "masked diffusion": evaluation.MaskedDiffusion}[method](seed=seed)
    rival.fit(train.X.toarray(), np.ones(train.shape, dtype=bool))

    def impute_rival(test: anndata.AnnData, observed: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        visible = np.where(observed, test.X.toarray(), 0.0)
        return rival.impute(visible, observed), list(rival.draw(visible, observed, n_samples=N_SAMPLES, seed=seed))

    return impute_rival


def score_trained(imputer: Imputer, test: anndata.AnnData, observed: np.ndarray, seed: int) -> dict[str, float]:
    """Every score of a trained model."""
    truth, hidden = test.X.toarray(), ~observed
    mean, draws = imputer(test, observed)
    of_means = evaluation.compare(truth[hidden], {"": mean[hidden]}, entries=np.nonzero(hidden))
    # Observed entries are the same in all, whatever a method makes of them.
    draws = [np.where(observed, truth, draw) for draw in draws]
    of_draws = evaluation.compare_draws(truth, {"": draws}, hidden, seed=seed)
    return {**of_means.iloc[0], **of_draws.iloc[0]}


def score_baseline(
    method: str, train: anndata.AnnData, test: anndata.AnnData, observed: np.ndarray
) -> dict[str, float]:
    """Scores of a baseline at its best setting for each."""
    truth = test.X.toarray()
    counts = np.concatenate([train.X.toarray(), np.where(observed, truth, 0.0)])
    mask = np.concatenate([np.ones(train.shape, dtype=bool), observed])
    labels = np.concatenate([train.obs[LABELS_KEY].astype(str), test.obs[LABELS_KEY].astype(str)])
    means = {str(i): setting(counts, mask, labels)[train.n_obs :] for i, setting in enumerate(BASELINES[method])}
    tried = evaluation.compare(truth[~observed], {name: mean[~observed] for name, mean in means.items()})
    return dict(tried[MEAN_METRICS].min())


def run(name: str, seed: int, methods: list[str], done: set[tuple]) -> Iterator[dict]:
    """Rows of one data set and seed that are not there yet."""
    todo = {
        method: masks
        for method in methods
        if (masks := [mask for mask in MASKS if (name, mask, seed, method) not in done])
    }
    if not todo:
        return
    train, test = split(load(name), seed)
    observed = {mask: hide(test.X, fraction, seed=seed) for mask, (hide, fraction) in MASKS.items()}
    for method, masks in todo.items():
        imputer = trained(method, train, seed) if method in TRAINED else None
        for mask in masks:
            found = (
                score_trained(imputer, test, observed[mask], seed)
                if imputer is not None
                else score_baseline(method, train, test, observed[mask])
            )
            yield {"data": name, "mask": mask, "seed": seed, "method": method, **found}


def markdown(results: pd.DataFrame) -> str:
    """Tables of the baselines and of the trained rivals, each over the seeds that all of its methods have."""
    versions = f"countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}, scvi-tools {scvi.__version__}"
    blocks = [f"{versions}; {platform.machine()}, {torch.get_num_threads()} threads."]
    parts = {
        "Baselines": (list(BASELINES), MEAN_METRICS, []),
        "Trained models": ([method for method in TRAINED if method not in OURS], MEAN_METRICS, DRAW_METRICS),
    }
    for title, (rivals, mean_metrics, draw_metrics) in parts.items():
        chosen = results[results["method"].isin([*rivals, *OURS])]
        n_seeds = chosen.groupby("method")["seed"].nunique().min()
        chosen = chosen[chosen["seed"] < n_seeds]
        blocks.append(f"### {title} ({n_seeds} seed{'s' if n_seeds > 1 else ''})")
        for metric in [*mean_metrics, *draw_metrics]:
            table = chosen.pivot_table(index=["data", "mask"], columns="method", values=metric, sort=False)
            table = table[[*rivals, *OURS]]
            compared = list(table.columns) if metric in mean_metrics else []
            if compared:
                table["ours / best"] = table["CountsDiffSC"] / table[rivals].min(axis=1)
            blocks.append(f"`{metric}`:\n\n{_rows(table, compared)}")
    return "\n\n".join(blocks) + "\n"


def _rows(table: pd.DataFrame, compared: list[str]) -> str:
    """A Markdown table with the least of the compared columns in bold."""
    lines = ["| data | mask | " + " | ".join(table.columns) + " |", "|---" * (table.shape[1] + 2) + "|"]
    for (data, mask), row in table.iterrows():
        least = row[compared].min() if compared else None
        cells = [f"**{value:.4f}**" if value == least else f"{value:.4f}" for value in row]
        lines.append(f"| {data} | {mask} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compute what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("imputation.csv"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--data", nargs="+", choices=list(DATA_SETS), default=list(DATA_SETS))
    methods = [*BASELINES, *TRAINED]
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = pd.read_csv(arguments.csv) if arguments.csv.exists() else pd.DataFrame(columns=KEYS)
    for name, seed in tqdm([(name, seed) for seed in range(arguments.seeds) for name in arguments.data]):
        done = set(results[KEYS].itertuples(index=False, name=None))
        for row in run(name, seed, arguments.methods, done):
            results = pd.concat([results, pd.DataFrame([row])], ignore_index=True)
            results.to_csv(arguments.csv, index=False)
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(results))


if __name__ == "__main__":
    main()
