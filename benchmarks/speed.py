"""Speed of training, imputation and thinning beside full attention, scVI and MAGIC, in one process.

What is compared runs in turns, so that a slow minute slows all of it alike, and ratios carry over to other machines
better than cells per second do. Run with

    python benchmarks/speed.py --threads 2 --json speed.json --markdown speed.md

or name some ``--sections``: training, imputation, thinning, accuracy. The last needs the data of
``benchmarks/imputation.py``. On a machine that others use too, ``--cpu-time`` with one thread is less noisy. With
``--accelerator gpu`` all of it but thinning is done there, scVI's part too; MAGIC has no such version.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import scvi
import torch
from scipy import sparse
from torch.utils.flop_counter import FlopCounterMode

import countsdiff_sc
from countsdiff_sc import CountsDiffSC, evaluation
from countsdiff_sc._counts import estimate_reference
from countsdiff_sc._cuda_graph import RecordedGradients
from countsdiff_sc._model import logger as model_logger
from countsdiff_sc._training_plan import MAX_GRADIENT, scale_to_norm
from countsdiff_sc.kernels import thin_counts

#: Network passes of the paper's procedure for one imputed cell: steps x (conditional, unconditional) x repeats.
PAPER_PASSES = 20 * 2 * 3
QUIET = {"enable_progress_bar": False}
#: One measurement: what, its value, its unit, and the bar, which a value must reach, or must not exceed where negative.
Row = tuple[str, float, str, float | None]


def synthetic_counts(n_obs: int, n_genes: int, *, seed: int = 0) -> anndata.AnnData:
    """Negative binomial counts with about 90% zeros, made in blocks of about a million entries."""
    rng = np.random.default_rng(seed)
    profile = rng.lognormal(-3.0, 1.5, n_genes)
    blocks, size = [], max(1, 2**20 // n_genes)
    for first in range(0, n_obs, size):
        shape = (min(size, n_obs - first), n_genes)
        depth = rng.lognormal(0.0, 0.5, (shape[0], 1))
        blocks.append(sparse.csr_matrix(rng.poisson(depth * profile * rng.gamma(2.0, 0.5, shape)).astype(np.float32)))
    return anndata.AnnData(sparse.vstack(blocks, format="csr"))


# ---------------------------------------------------------------------- clocks


class Clock:
    """Wall time, after all that a GPU was given to do, or processor time of this process."""

    read = staticmethod(time.perf_counter)


def wall_time_of_gpu() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function: Callable[[], object]) -> float:
    start = Clock.read()
    function()
    return Clock.read() - start


def rates(functions: dict[str, tuple[Callable[[], object], int]], n_rounds: int) -> dict[str, float]:
    """Units per second of functions that each work off so many units, called in turns: medians over rounds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(n_rounds):
        for name, (function, _) in functions.items():
            times[name].append(seconds(function))
    return {name: n_units / float(np.median(times[name])) for name, (_, n_units) in functions.items()}


def gemm_peak(device: torch.device, *, n_rounds: int = 50) -> float:
    """Best measured matrix-product rate in GFLOP/s, single precision."""
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.rand(size, size, device=device) for _ in range(2))
    return max(2e-9 * size**3 / seconds(lambda: a @ b) for _ in range(n_rounds))


# ---------------------------------------------------------------------- training


def optimiser_step(
    adata: anndata.AnnData, device: torch.device, *, batch_size: int, records: bool, **model_kwargs
) -> tuple[Callable[[], None], int]:
    """One step as in training (loss, gradients, clipping, AdamW, moving average) and the cells it works off.

    With ``records`` loss and gradients are those of a CUDA graph, as in training on a GPU.
    """
    model = CountsDiffSC(adata, **model_kwargs)
    model._set_reference([estimate_reference(matrix) for matrix in model._count_matrices(adata)])
    module, key = model.module.train().to(device), model.module.count_keys[0]
    n_cells = batch_size * module.net.n_members
    optimizer = torch.optim.AdamW(module.net.parameters(), lr=1e-3, fused=True)
    counts = torch.as_tensor(adata.X[:n_cells].toarray(), device=device)
    zeros = torch.zeros(n_cells, 1, device=device)
    batch = {key: counts, "batch": zeros, "labels": zeros}
    recorded = RecordedGradients(module, batch) if records else None

    def step() -> None:
        optimizer.zero_grad()
        if recorded is None:
            module(batch).loss.backward()
        else:
            recorded.loss(batch)
            recorded.give_gradients()
        scale_to_norm(optimizer, MAX_GRADIENT)
        optimizer.step()
        module.ema.update_parameters(module.net)

    step()  # compilation and first allocations
    return step, n_cells


def repeat(function: Callable[[], object], n_times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(n_times):
            function()

    return repeated


def gigaflop(function: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products in a call, two for a multiply-add."""
    with FlopCounterMode(display=False) as counter:
        function()
    return 1e-9 * counter.get_total_flops()


def training(options: argparse.Namespace) -> Iterator[Row]:
    """Optimiser steps beside full attention over genes, train loops beside scVI's, and the share of the GEMM peak."""
    adata = synthetic_counts(options.cells, options.genes)
    sizes = {"device": options.device, "batch_size": options.batch_size}
    on_gpu = options.device.type == "cuda"
    step, n_cells = optimiser_step(adata, **sizes, records=on_gpu)
    attention = optimiser_step(adata, **sizes, records=on_gpu, denoiser="full_attention", n_members=1)
    found = rates({"ours": (repeat(step, 30), 30 * n_cells), "attention": attention}, options.rounds)
    yield "training, optimiser steps", found["ours"], "cells/s", None
    yield "training, optimiser steps, full attention", found["attention"], "cells/s", None
    yield "training, over full attention", found["ours"] / found["attention"], "x", 1000.0
    peak, work = gemm_peak(options.device), gigaflop(optimiser_step(adata, **sizes, records=False)[0])
    yield "matrix products, peak", peak, "GFLOP/s", None
    yield "matrix products of a step", work, "GFLOP", None
    yield "matrix products of training, of the peak", found["ours"] / n_cells * work / peak, "", 0.35
    loops = {"ours": train_loop(CountsDiffSC, adata, options), "scVI": train_loop(scvi.model.SCVI, adata, options)}
    found = rates(loops, options.rounds)
    yield "training, model.train", found["ours"], "cells/s", None
    yield "training, model.train, scVI", found["scVI"], "cells/s", None
    yield "training, over scVI", found["ours"] / found["scVI"], "x", 0.5


def train_loop(model_class: type, adata: anndata.AnnData, options: argparse.Namespace) -> tuple[Callable, int]:
    """Some epochs of a model's own train loop, as its users call it, and the cells shown to it in them."""
    own, n_epochs = adata.copy(), 6
    model_class.setup_anndata(own)
    model = model_class(own)
    model.train(1, options.accelerator, batch_size=options.batch_size, **QUIET)
    n_cells = n_epochs * len(model.train_indices)
    return lambda: model.train(n_epochs, options.accelerator, batch_size=options.batch_size, **QUIET), n_cells


# ---------------------------------------------------------------------- imputation


def imputation(options: argparse.Namespace) -> Iterator[Row]:
    """Means beside MAGIC, five draws beside scVI, and one draw beside the procedure of the paper."""
    adata = synthetic_counts(options.cells, options.genes)
    observed = np.random.default_rng(0).random(adata.shape) < 0.5
    adata.X = sparse.csr_matrix(adata.X.multiply(observed))
    adata.layers["observed"] = observed
    ours, rival = trained_pair(adata, options)
    functions = {
        "mean": (ours.get_imputed_counts, adata.n_obs),
        "draw": (lambda: ours.get_imputed_counts(estimate="sample"), adata.n_obs),
        "draws": (lambda: ours.get_imputed_counts(estimate="sample", n_samples=5), adata.n_obs),
        "scVI": (lambda: rival.posterior_predictive_sample(n_samples=5), adata.n_obs),
        "pass": attention_pass(adata, options.device, n_cells=64),
    }
    magic = magic_run(adata)
    found = rates(functions | ({"MAGIC": (magic, adata.n_obs)} if magic else {}), options.rounds)
    yield "imputation, mean", found["mean"], "cells/s", 1e4
    if magic:
        yield "imputation, MAGIC", found["MAGIC"], "cells/s", None
        yield "imputation, mean, over MAGIC", found["mean"] / found["MAGIC"], "x", 15.0
    yield "imputation, 5 draws", found["draws"], "cells/s", None
    yield "imputation, 5 draws, scVI", found["scVI"], "cells/s", None
    yield "imputation, 5 draws, over scVI", found["draws"] / found["scVI"], "x", 10.0
    yield "imputation, 1 draw", found["draw"], "cells/s", None
    yield f"one pass of full attention, of the paper's {PAPER_PASSES}", found["pass"], "cells/s", None
    yield "imputation, 1 draw, over the paper's procedure", found["draw"] / found["pass"] * PAPER_PASSES, "x", 1000.0


def trained_pair(adata: anndata.AnnData, options: argparse.Namespace) -> tuple[CountsDiffSC, scvi.model.SCVI]:
    """Our default model and scVI's, trained for an epoch: more would not change how long imputation takes."""
    models = []
    for model_class, setup in ((CountsDiffSC, {"observed_mask_layer": "observed"}), (scvi.model.SCVI, {})):
        own = adata.copy()
        model_class.setup_anndata(own, **setup)
        models.append(model_class(own))
        models[-1].train(1, options.accelerator, **QUIET)
    return tuple(models)


@torch.inference_mode()
def attention_pass(adata: anndata.AnnData, device: torch.device, *, n_cells: int) -> tuple[Callable[[], object], int]:
    """One network pass of full attention over genes."""
    module = CountsDiffSC(adata.copy(), denoiser="full_attention", n_members=1).module.eval().to(device)
    counts = torch.as_tensor(adata.X[:n_cells].toarray(), device=device)
    zeros = torch.zeros(n_cells, 1, device=device)
    observed = torch.as_tensor(adata.layers["observed"][:n_cells], device=device)
    conditions = module.conditions({module.count_keys[0]: counts, "batch": zeros, "labels": zeros})
    denoise = torch.inference_mode()(module.bind(observed, conditions))
    return lambda: denoise(counts, torch.ones((), device=device)), n_cells


def magic_run(adata: anndata.AnnData) -> Callable[[], object] | None:
    """MAGIC with its defaults on square roots at one library size, where it is installed."""
    try:
        import magic
    except ImportError:
        return None
    counts = adata.X.toarray()
    roots = np.sqrt(1e4 * counts / np.maximum(counts.sum(1, keepdims=True), 1.0))
    return lambda: magic.MAGIC(verbose=0, n_jobs=torch.get_num_threads(), random_state=0).fit_transform(roots)


# ---------------------------------------------------------------------- thinning, accuracy


def thinning(options: argparse.Namespace) -> Iterator[Row]:
    """The kernel beside torch.binomial, on a dense matrix of which nine tenths are zeros."""
    counts = torch.as_tensor(synthetic_counts(1024, options.genes).X.toarray())
    prob = torch.rand(counts.shape)

    def kernel() -> np.ndarray:
        return thin_counts(counts.numpy(), prob.numpy(), seed=0, n_threads=options.threads)

    kernel()  # compilation
    found = rates(
        {
            "kernel": (kernel, counts.numel()),
            "torch": (lambda: torch.binomial(counts, prob), counts.numel()),
        },
        10 * options.rounds,
    )
    yield "thinning, zeros among the counts", float((counts == 0).double().mean()), "", None
    yield "thinning", found["kernel"], "entries/s", None
    yield "thinning, torch.binomial", found["torch"], "entries/s", None
    yield "thinning, over torch.binomial", found["kernel"] / found["torch"], "x", 5.0


def accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """The shortest training, of doubling lengths, that beats label mean x depth on held-out cells of pbmc3k."""
    from imputation import LABELS_KEY, load, split

    try:
        train, test = split(load("pbmc3k"), seed=0)
    except FileNotFoundError:
        return
    truth, observed = test.X.toarray(), evaluation.mcar(test.X, 0.5, seed=0)
    hidden = ~observed
    labels = np.concatenate([part.obs[LABELS_KEY].astype(str) for part in (train, test)])
    counts = np.concatenate([train.X.toarray(), np.where(observed, truth, 0.0)])
    mask = np.concatenate([np.ones(train.shape, dtype=bool), observed])
    baseline = evaluation.label_mean_x_depth(counts, mask, labels)[train.n_obs :]
    to_beat = evaluation.poisson_deviance(truth[hidden], baseline[hidden])
    CountsDiffSC.setup_anndata(train, labels_key=LABELS_KEY)
    for n_epochs in 3 * 2 ** np.arange(9):
        scvi.settings.seed = 0
        model = CountsDiffSC(train)
        time_to_beat = seconds(lambda: model.train(int(n_epochs), options.accelerator, **QUIET))  # noqa: B023  (called at once)
        mean = model.get_imputed_counts(test.copy(), observed_mask=observed)
        deviance = evaluation.poisson_deviance(truth[hidden], mean[hidden])
        if deviance < to_beat:
            break
    yield "pbmc3k, deviance of label mean x depth", to_beat, "nats", None
    yield f"pbmc3k, deviance after {n_epochs} epochs", deviance, "nats", None
    yield "pbmc3k, seconds to beat it", time_to_beat, "s", None
    rival = scvi_default_seconds(train.copy(), options.accelerator)
    yield "pbmc3k, seconds of scVI's default training", rival, "s", None
    yield "pbmc3k, time to beat it over scVI's", time_to_beat / rival, "x", -1.0 / 3.0


def scvi_default_seconds(adata: anndata.AnnData, accelerator: str, *, n_epochs: int = 20) -> float:
    """Time that scVI's default training takes, from some of its epochs."""
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata)
    model.train(1, accelerator, **QUIET)
    return (
        seconds(lambda: model.train(n_epochs, accelerator, **QUIET))
        / n_epochs
        * min(400, round(20_000 / adata.n_obs * 400))
    )


# ---------------------------------------------------------------------- report

SECTIONS = {function.__name__: function for function in (training, imputation, thinning, accuracy)}


def holds(value: float, bar: float | None) -> bool | None:
    if bar is None:
        return None
    return value >= bar if bar > 0 else value <= -bar


def machine(options: argparse.Namespace) -> str:
    clock = "processor time" if options.cpu_time else "wall time"
    name = torch.cuda.get_device_name() if options.accelerator == "gpu" else platform.machine()
    return (
        f"{name}, {options.threads} threads, {clock}, countsdiff_sc {countsdiff_sc.__version__}, "
        f"torch {torch.__version__}, scvi-tools {scvi.__version__}; {options.genes} genes, {options.cells} cells, "
        f"minibatches of {options.batch_size}"
    )


def markdown(rows: list[Row], head: str) -> str:
    lines = [head, "", "| measure | value | bar | holds |", "|---|---:|---:|---|"]
    for measure, value, unit, bar in rows:
        rule = "" if bar is None else f"{'at least' if bar > 0 else 'at most'} {abs(bar):,.4g} {unit}".strip()
        lines.append(f"| {measure} | {value:,.4g} {unit} | {rule} | {['', 'no', 'yes'][_verdict(value, bar)]} |")
    return "\n".join(lines) + "\n"


def _verdict(value: float, bar: float | None) -> int:
    return 0 if bar is None else 1 + bool(holds(value, bar))


def keep_quiet() -> None:
    warnings.filterwarnings("ignore")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model_logger.setLevel("ERROR")  # the data are set up with the defaults, as is said otherwise


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    options.device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    clock = time.perf_counter if options.accelerator == "cpu" else wall_time_of_gpu
    Clock.read = staticmethod(time.process_time if options.cpu_time else clock)
    torch.set_num_threads(options.threads)
    keep_quiet()
    rows = []
    for name in options.sections:
        for row in SECTIONS[name](options):
            rows.append(row)
            print(f"{row[0]}: {row[1]:,.4g} {row[2]}", flush=True)
    keys = ("measure", "value", "unit", "bar")
    if options.json is not None:
        records = [{**dict(zip(keys, row, strict=True)), "holds": holds(row[1], row[3])} for row in rows]
        options.json.write_text(json.dumps({"machine": machine(options), "rows": records}, indent=1) + "\n")
    text = markdown(rows, machine(options))
    if options.markdown is not None:
        options.markdown.write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
