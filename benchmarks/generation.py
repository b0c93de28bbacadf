"""Generated cells beside held-out real ones, and beside what simpler generators make.

A fifth of the cells is held out. Every method learns from the rest, by its default settings, and makes as many cells as are
held out, with their labels where it knows labels. The first row is real: training cells with those labels, drawn with
replacement, which no generator should beat by more than noise.

    pip install ".[benchmarks]"
    COUNTSDIFF_SC_DATA=folder python benchmarks/generation.py --csv generation.csv --markdown generation.md --figure out.png
"""

from __future__ import annotations

import argparse
import logging
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import imputation
import matplotlib as mpl
import numpy as np
import pandas as pd
import scvi
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from tqdm import tqdm

import countsdiff_sc
from countsdiff_sc import CountsDiffSC, evaluation

LABELS_KEY = imputation.LABELS_KEY
#: The encoder of scFID learns its training cells by heart, and then no other cells look like them: few epochs are fairer.
ENCODER_EPOCHS = {"scFID": 50, "scFID, 5 epochs": 5}
CLASSIFIERS = {
    "AUC, linear": LogisticRegression(C=0.01, max_iter=1000),
    "AUC, boosted": HistGradientBoostingClassifier(max_iter=50, random_state=0),
}

#: Share of training cells that serve one-pass means, where cells are to be generated; the default serves imputation.
FOR_GENERATION = 0.3

#: Counts, cells x genes, of new cells with the given labels.
Generator = Callable[[np.ndarray], np.ndarray]


def real_cells(train: anndata.AnnData, seed: int) -> Generator:
    """Training cells of the same labels."""
    rng, counts = np.random.default_rng(seed), train.X.toarray()
    return lambda labels: counts[_same_label(train, labels, rng)]


def label_negative_binomial(train: anndata.AnnData, seed: int) -> Generator:
    """Independent genes: mean and inverse dispersion of each gene and label by moments, at the depth of a training cell."""
    rng, counts = np.random.default_rng(seed), train.X.toarray().astype(np.float64)
    names = train.obs[LABELS_KEY].astype(str).to_numpy()
    depth = counts.sum(1) / counts.sum(1).mean()
    law = {}
    for name in np.unique(names):
        x, d = counts[names == name], depth[names == name][:, None]
        profile = x.sum(0) / d.sum()
        excess = (np.square(x - d * profile) - d * profile).sum(0) / np.maximum(np.square(d * profile).sum(0), 1e-12)
        law[name] = profile, 1.0 / np.maximum(excess, 1e-6)

    def generate(labels: np.ndarray) -> np.ndarray:
        d = depth[_same_label(train, labels, rng)][:, None]
        profile, dispersion = (np.stack([law[name][i] for name in labels]) for i in range(2))
        return rng.poisson(d * profile * rng.gamma(dispersion, 1.0 / dispersion))

    return generate


def scvi_prior(train: anndata.AnnData, seed: int) -> Generator:
    """scVI: latent variables from the prior, decoded at the library sizes of training cells; it knows no labels."""
    scvi.settings.seed = seed
    data = anndata.AnnData(train.X.copy())
    scvi.model.SCVI.setup_anndata(data)
    model = scvi.model.SCVI(data)
    model.train(accelerator="cpu", enable_progress_bar=False)
    module, totals = model.module.eval(), np.asarray(train.X.sum(1)).ravel()

    @torch.no_grad()
    def generate(labels: np.ndarray) -> np.ndarray:
        totals_drawn = np.random.default_rng(seed).choice(totals[totals > 0], len(labels))
        library = torch.log(torch.as_tensor(totals_drawn, dtype=torch.float32)).unsqueeze(1)
        z = torch.randn(len(labels), module.n_latent, generator=torch.Generator().manual_seed(seed))
        return module.generative(z, library, torch.zeros(len(labels), 1))["px"].sample().numpy()

    return generate


def ours(train: anndata.AnnData, seed: int) -> dict[str, Generator]:
    """Our cells with the depths that they get by themselves, and at the library sizes of training cells."""
    totals, rng = np.asarray(train.X.sum(1)).ravel(), np.random.default_rng(seed)

    def trained(**kwargs) -> Callable[..., np.ndarray]:
        scvi.settings.seed = seed
        CountsDiffSC.setup_anndata(train, labels_key=LABELS_KEY)
        model = CountsDiffSC(train, **kwargs)
        model.train(accelerator="cpu", enable_progress_bar=False)
        return lambda labels, **options: model.sample(len(labels), labels=labels, seed=seed, **options).X.toarray()

    default, for_generation = trained(), trained(one_pass_fraction=FOR_GENERATION)
    return {
        "CountsDiffSC": default,
        "CountsDiffSC, 5 steps": lambda labels: default(labels, n_steps=5),
        "CountsDiffSC, trained for it": for_generation,
        "CountsDiffSC, trained for it, library sizes given": lambda labels: for_generation(
            labels, library_size=totals[_same_label(train, labels, rng)]
        ),
    }


def _same_label(train: anndata.AnnData, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random training cell of each label."""
    names = train.obs[LABELS_KEY].astype(str).to_numpy()
    return np.array([rng.choice(np.flatnonzero(names == label)) for label in labels])


def score(
    real: np.ndarray, generated: np.ndarray, encoders: dict[str, evaluation.ScFID], seed: int
) -> dict[str, float]:
    """How generated cells differ from real ones; a classifier that cannot tell them apart has an AUC of 0.5."""
    x, is_real = np.log1p(np.concatenate([real, generated])), np.repeat([1, 0], len(real))
    total = generated.sum(1)
    return {
        "energy distance": evaluation.energy_distance(real, generated, seed=seed),
        "MMD": evaluation.mmd(real, generated, seed=seed),
        **{name: encoder.distance(real, generated) for name, encoder in encoders.items()},
        **{
            name: cross_val_score(classifier, x, is_real, cv=5, scoring="roc_auc").mean()
            for name, classifier in CLASSIFIERS.items()
        },
        "library size": total.mean(),
        "its CV": total.std() / total.mean(),
        "zeros": np.mean(generated == 0),
    }


def run(name: str, seed: int) -> Iterator[tuple[dict, anndata.AnnData, np.ndarray]]:
    """Scores of every method on one split, with the held-out cells and those it made."""
    train, test = imputation.split(imputation.load(name), seed)
    real, labels = test.X.toarray(), test.obs[LABELS_KEY].astype(str).to_numpy()
    encoders = {key: evaluation.ScFID(train.X, max_epochs=n, seed=seed) for key, n in ENCODER_EPOCHS.items()}
    generators = {
        "training cells": real_cells(train, seed),
        "label negative binomial": label_negative_binomial(train, seed),
        "scVI prior": scvi_prior(train, seed),
        **ours(train.copy(), seed),
    }
    held_out = {"library size": real.sum(1).mean(), "its CV": real.sum(1).std() / real.sum(1).mean()}
    yield {"method": "held-out cells", **held_out, "zeros": np.mean(real == 0)}, test, real
    for method, generate in generators.items():
        generated = generate(labels)
        yield {"method": method, **score(real, generated, encoders, seed)}, test, generated


def markdown(results: pd.DataFrame) -> str:
    """Means over seeds, a table per data set."""
    blocks = []
    for name, rows in results.groupby("data", sort=False):
        table = rows.drop(columns=["data", "seed"]).groupby("method", sort=False).mean()
        lines = ["| method | " + " | ".join(table.columns) + " |", "|---" * (table.shape[1] + 1) + "|"]
        for method, row in table.iterrows():
            digits = [0 if column == "library size" else 4 for column in table.columns]
            cells = ["" if np.isnan(value) else f"{value:.{n}f}" for value, n in zip(row, digits, strict=True)]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        blocks.append(f"### {name}\n\n" + "\n".join(lines))
    versions = f"countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}, scvi-tools {scvi.__version__}"
    head = f"Means over {results['seed'].nunique()} splits. {versions}; {platform.machine()}."
    return head + "\n\n" + "\n\n".join(blocks) + "\n"


def main() -> None:
    """Score every method, then write the table and the picture of the first split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("generation.csv"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--figure", type=Path, help="picture of our cells beside the held-out ones")
    parser.add_argument("--data", nargs="+", choices=list(imputation.DATA_SETS), default=["pbmc3k"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    mpl.use("Agg")
    rows = []
    for name, seed in tqdm([(name, seed) for seed in range(arguments.seeds) for name in arguments.data]):
        for row, test, generated in run(name, seed):
            rows.append({"data": name, "seed": seed, **row})
            pd.DataFrame(rows).to_csv(arguments.csv, index=False)
            if arguments.figure is not None and row["method"] == "CountsDiffSC" and not seed:
                cells = anndata.AnnData(generated, var=test.var[[]])
                countsdiff_sc.pl.generated(test, cells).savefig(arguments.figure, dpi=100)
    table = markdown(pd.DataFrame(rows))
    tqdm.write(table)
    if arguments.markdown is not None:
        arguments.markdown.write_text(table)


if __name__ == "__main__":
    main()
