"""Ways to condition on observed counts, at equal network passes.

``conditioning="observed"`` shows the network the observed counts in full; ``"remask"`` generates everything and puts thinned
observed counts back at every step, with fresh or coherent paths and with windows that are run several times. One model of
default settings, or with another number of networks, imputes half of the entries of held-out cells in every way, and every way gets
as many runs.

    pip install ".[benchmarks]"
    COUNTSDIFF_SC_DATA=folder python benchmarks/conditioning.py --csv conditioning.csv --markdown conditioning.md
"""

from __future__ import annotations

import argparse
import logging
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import imputation
import numpy as np
import pandas as pd
import scvi
import torch
from tqdm import tqdm

import countsdiff_sc
from countsdiff_sc import CountsDiffSC, evaluation

DATA_SETS = ["pbmc3k", "kang"]
#: Network passes of a run: one more than a multiple of 4, so that all ways can have exactly as many.
N_PASSES = [1, 5, 9, 21, 41]
#: Arguments of each way; with ``n_resample`` runs of each window there are ``1 + (n_steps - 1) * n_resample`` passes.
METHODS = {
    "observed": {},
    "fresh": {"conditioning": "remask"},
    "fresh, 2 runs": {"conditioning": "remask", "n_resample": 2},
    "fresh, 4 runs": {"conditioning": "remask", "n_resample": 4},
    "fresh, 4 runs of 5 steps": {"conditioning": "remask", "n_resample": 4, "resample_window": 5},
    "coherent": {"conditioning": "remask", "known_path": "coherent"},
    "coherent, 2 runs": {"conditioning": "remask", "known_path": "coherent", "n_resample": 2},
    "coherent, 4 runs": {"conditioning": "remask", "known_path": "coherent", "n_resample": 4},
    "coherent, 4 runs of 5 steps": {
        "conditioning": "remask",
        "known_path": "coherent",
        "n_resample": 4,
        "resample_window": 5,
    },
}
HIDDEN_FRACTION, N_RUNS, MAX_CELLS = 0.5, 5, 300
METRICS = {
    "rmse_log1p": "RMSE in log1p of the mean of infinitely many draws",
    "poisson_deviance": f"deviance of the mean of {N_RUNS} runs, the last step of each by its mean (nats per entry)",
    "zero_fraction_error": "zero-fraction error of a draw",
    "variance_ratio": "variance ratio of a draw",
    "energy_distance": "energy distance of a draw",
}
KEYS = ["data", "seed", "n_members", "method", "n_passes"]


def n_steps(n_passes: int, n_resample: int) -> int | None:
    """Steps that make so many passes; None where no whole number does, or where nothing would be run again."""
    steps, rest = divmod(n_passes - 1, n_resample)
    return None if rest or (n_resample > 1 and steps == 0) else steps + 1


def settings() -> Iterator[tuple[str, int, dict]]:
    """Every way at every number of passes, with its arguments."""
    for n_passes in N_PASSES:
        for method, arguments in METHODS.items():
            steps = n_steps(n_passes, arguments.get("n_resample", 1))
            if steps is not None:
                yield method, n_passes, {**arguments, "n_steps": steps}


def rmse_of_the_mean(truth: np.ndarray, draws: np.ndarray) -> float:
    """Root mean squared error in ``log1p`` of the mean that ``k`` draws estimate, without bias by their noise.

    The mean of ``k`` draws has the squared error of the true mean and a ``k``-th of the variance of the draws more.
    """
    truth, draws = np.log1p(truth), np.log1p(draws)
    squared = np.square(draws.mean(0) - truth) - draws.var(0, ddof=1) / len(draws)
    return float(np.sqrt(squared.mean()))


def run(name: str, seed: int, n_members: int, done: set[tuple]) -> Iterator[dict]:
    """Rows of one data set and seed that are not there yet."""
    todo = [setting for setting in settings() if (name, seed, n_members, *setting[:2]) not in done]
    if not todo:
        return
    train, test = imputation.split(imputation.load(name), seed)
    test = test[:MAX_CELLS].copy()
    observed = evaluation.mcar(test.X, HIDDEN_FRACTION, seed=seed)
    truth, hidden = test.X.toarray(), ~observed
    scvi.settings.seed = seed
    CountsDiffSC.setup_anndata(train, labels_key=imputation.LABELS_KEY)
    model = CountsDiffSC(train, n_members=n_members)
    model.train(accelerator="cpu", enable_progress_bar=False)
    for method, n_passes, arguments in tqdm(todo, desc=name):
        shared = {"observed_mask": observed, "seed": seed, **arguments}
        mean = model.get_imputed_counts(test.copy(), n_samples=N_RUNS, **shared)
        draws = model.get_imputed_counts(test.copy(), estimate="sample", n_samples=N_RUNS, **shared)
        draws = [draw.toarray() for draw in draws]
        scores = evaluation.compare_draws(truth, {method: draws}, hidden, seed=seed).loc[method]
        yield {
            **dict(zip(KEYS, (name, seed, n_members, method, n_passes), strict=True)),
            "rmse_log1p": rmse_of_the_mean(truth[hidden], np.stack([draw[hidden] for draw in draws])),
            "poisson_deviance": evaluation.poisson_deviance(truth[hidden], mean[hidden]),
            **{metric: scores[metric] for metric in METRICS if metric in scores},
        }


def markdown(results: pd.DataFrame) -> str:
    """A table for each score: rows are the ways, columns the passes."""
    versions = f"countsdiff_sc {countsdiff_sc.__version__}, torch {torch.__version__}"
    n_seeds = results["seed"].nunique()
    n_members = "/".join(map(str, results["n_members"].unique()))
    blocks = [f"{versions}; {platform.machine()}; seeds: {n_seeds}; networks of the model: {n_members}."]
    for metric, title in METRICS.items():
        table = results.pivot_table(index=["data", "method"], columns="n_passes", values=metric, sort=False)
        header = "| data | way | " + " | ".join(f"{n} pass{'es' if n > 1 else ''}" for n in table.columns) + " |"
        lines = [header, "|---|---|" + "---:|" * table.shape[1]]
        for (data, method), row in table.iterrows():
            cells = ["" if np.isnan(value) else f"{value:.4f}" for value in row]
            lines.append(f"| {data} | {method} | " + " | ".join(cells) + " |")
        blocks.append(f"{title[0].upper()}{title[1:]}:\n\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    """Compute what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, default=Path("conditioning.csv"))
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=DATA_SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n-members", type=int, default=3, help="networks of the model")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = pd.read_csv(arguments.csv) if arguments.csv.exists() else pd.DataFrame(columns=KEYS)
    for name, seed in [(name, seed) for seed in range(arguments.seeds) for name in arguments.data]:
        done = set(results[KEYS].itertuples(index=False, name=None))
        for row in run(name, seed, arguments.n_members, done):
            results = pd.concat([results, pd.DataFrame([row])], ignore_index=True)
            results.to_csv(arguments.csv, index=False)
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(results))


if __name__ == "__main__":
    main()
