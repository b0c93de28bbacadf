"""Training speed of the default denoiser beside full attention over genes, in one process.

Prints a Markdown table; ratios carry over to other machines better than cells per second. Run with
``python benchmarks/speed.py``.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import anndata
import numpy as np
import torch
from scipy import sparse

from countsdiff_sc import CountsDiffSC
from countsdiff_sc._counts import estimate_reference
from countsdiff_sc._model import logger as model_logger


def synthetic_counts(n_obs: int, n_genes: int, *, seed: int = 0) -> anndata.AnnData:
    """Negative binomial counts with about 90% zeros."""
    rng = np.random.default_rng(seed)
    profile = rng.lognormal(-3.0, 1.5, n_genes)
    depth = rng.lognormal(0.0, 0.5, (n_obs, 1))
    counts = rng.poisson(depth * profile * rng.gamma(2.0, 0.5, (n_obs, n_genes)))
    return anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)))


def gemm_peak(*, size: int = 1024, n_rounds: int = 10) -> float:
    """Best measured matrix-product rate in GFLOP/s, single precision."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return max(2e-9 * size**3 / seconds(lambda: a @ b) for _ in range(n_rounds))


def seconds(function) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def optimiser_step(adata: anndata.AnnData, denoiser: str, *, batch_size: int) -> Callable[[], None]:
    """One step as in training: loss, gradients, clipping, AdamW, moving average."""
    model = CountsDiffSC(adata, denoiser=denoiser)
    model._set_reference([estimate_reference(matrix) for matrix in model._count_matrices(adata)])
    module, key = model.module.train(), model.module.count_keys[0]
    optimizer = torch.optim.AdamW(module.net.parameters(), lr=1e-3, fused=True)
    counts, zeros = torch.as_tensor(adata.X[:batch_size].toarray()), torch.zeros(batch_size, 1)

    def step() -> None:
        optimizer.zero_grad()
        module({key: counts, "batch": zeros, "labels": zeros}).loss.backward()
        torch.nn.utils.clip_grad_norm_(module.net.parameters(), 1.0)
        optimizer.step()
        module.ema.update_parameters(module.net)

    step()  # compilation and first allocations
    return step


def interleaved_rates(adata: anndata.AnnData, *, batch_size: int, n_rounds: int) -> dict[str, float]:
    """Median training cells per second of each denoiser, in turns, so that a slow minute slows both alike."""
    steps = {
        name: optimiser_step(adata, name, batch_size=batch_size) for name in ("full_attention", "gene_set_transformer")
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(n_rounds):
        times["full_attention"].append(seconds(steps["full_attention"]))
        times["gene_set_transformer"].extend(seconds(steps["gene_set_transformer"]) for _ in range(30))
    return {name: batch_size / float(np.median(values)) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model_logger.setLevel("ERROR")  # the data are set up with the defaults, as is said otherwise
    adata = synthetic_counts(4 * arguments.batch_size, arguments.genes)
    rates = interleaved_rates(adata, batch_size=arguments.batch_size, n_rounds=arguments.rounds)
    print(
        f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}, "
        f"single-precision GEMM {gemm_peak():.0f} GFLOP/s; {arguments.genes} genes, batches of {arguments.batch_size}\n"
    )
    print("| denoiser | training cells/s | ratio |\n|---|---:|---:|")
    for name, rate in rates.items():
        print(f"| `{name}` | {rate:,.1f} | {rate / rates['full_attention']:,.0f} |")


if __name__ == "__main__":
    main()
