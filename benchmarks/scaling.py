"""How time and memory grow with cells and genes, and imputation of counts that stay on disk.

Every point is measured in a process of its own, on synthetic counts of which about 90% are zeros. Memory is the peak of
the resident memory over that of the imported package, the data included. Run with

    python benchmarks/scaling.py --threads 2 --json scaling.json --markdown scaling.md --figure docs/_static/scaling.png
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import torch
from anndata.io import sparse_dataset, write_elem
from speed import QUIET, Clock, keep_quiet, markdown, seconds, synthetic_counts

from countsdiff_sc import CountsDiffSC

CELLS, GENES = (1_000, 3_000, 10_000, 30_000, 100_000), (500, 1_000, 2_000, 4_000, 8_000, 16_000)
#: Genes where cells vary, cells where genes vary, and the size of the data on disk.
FIXED_GENES, FIXED_CELLS, BACKED = 1_000, 2_000, (100_000, 2_000)
#: Cells that are shown to the network at least while training is timed.
MIN_CELLS = 8_000
#: The exponent of time in genes is fitted from here on: with fewer, what does not depend on them shows.
FIT_FROM = 1_000


# ---------------------------------------------------------------------- in a process of its own


def resident_mb(which: str) -> float:
    """Resident memory of this process, now (``VmRSS``) or at its peak (``VmHWM``)."""
    return int(re.search(rf"{which}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure_point(n_obs: int, n_genes: int) -> dict[str, float]:
    """Time per cell of training and of imputing one draw of half of the genes, and peak memory."""
    imported = resident_mb("VmRSS")
    adata = synthetic_counts(n_obs, n_genes)
    model = CountsDiffSC(adata)
    model.train(1, train_size=1.0, limit_train_batches=2, **QUIET)
    n_epochs = -(-MIN_CELLS // n_obs)
    train = seconds(lambda: model.train(n_epochs, train_size=1.0, **QUIET)) / (n_epochs * n_obs)
    panel = np.broadcast_to(np.arange(n_genes) % 2 == 0, adata.shape)
    draw = [seconds(lambda: model.get_imputed_counts(observed_mask=panel, estimate="sample")) for _ in range(2)]
    return {"train_us": 1e6 * train, "draw_us": 1e6 * min(draw) / n_obs, "memory_mb": resident_mb("VmHWM") - imported}


def measure_imputation(folder: str, backed: str) -> dict[str, object]:
    """Impute one draw of the data in the folder, backed or not; memory, time, and a digest of the result."""
    imported = resident_mb("VmRSS")
    model = CountsDiffSC.load(Path(folder) / "model", accelerator="cpu")
    adata = anndata.read_h5ad(Path(folder) / "data.h5ad", backed="r" if backed == "backed" else None)
    taken = seconds(lambda: model.impute(adata, estimate="sample", seed=0))
    drawn = adata.layers["imputed"]
    digest = hashlib.sha256()
    for part in (drawn.data, drawn.indices, drawn.indptr):
        digest.update(str(part.dtype).encode())
        digest.update(part)
    memory = resident_mb("VmHWM") - imported
    result_mb = sum(part.nbytes for part in (drawn.data, drawn.indices, drawn.indptr)) / 2**20
    return {"memory_mb": memory, "result_mb": result_mb, "seconds": taken, "digest": digest.hexdigest()}


def prepare(folder: str, n_obs: str, n_genes: str) -> dict[str, object]:
    """Write counts block by block, and a model that has seen some of them."""
    some = synthetic_counts(2_000, int(n_genes))
    some.write_h5ad(Path(folder) / "data.h5ad")
    model = CountsDiffSC(some)
    model.train(1, **QUIET)
    model.save(Path(folder) / "model")
    with h5py.File(Path(folder) / "data.h5ad", "a") as file:
        counts = sparse_dataset(file["X"])
        for seed in range(1, int(n_obs) // some.n_obs):
            counts.append(synthetic_counts(some.n_obs, some.n_vars, seed=seed).X)
        obs = anndata.AnnData(np.zeros((counts.shape[0], 1), np.float32)).obs
        write_elem(file, "obs", obs)
    return {}


TASKS = {"point": measure_point, "impute": measure_imputation, "prepare": prepare}


def in_process(options: argparse.Namespace, task: str, *arguments: object) -> dict:
    """Result of a task, run in a fresh process."""
    settings = [f"--threads={options.threads}", *(["--cpu-time"] if options.cpu_time else [])]
    command = [sys.executable, __file__, *settings, "--task", task, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout.splitlines()[-1])


# ---------------------------------------------------------------------- points, fits, figure


def points(options: argparse.Namespace) -> list[dict]:
    """All points; where a size has been measured it is not measured again."""
    sizes = [(n, FIXED_GENES) for n in CELLS] + [(FIXED_CELLS, n) for n in GENES]
    found = []
    for n_obs, n_genes in sizes:
        found.append({"cells": n_obs, "genes": n_genes, **in_process(options, "point", n_obs, n_genes)})
        print(found[-1], flush=True)
    return found


def along(found: list[dict], axis: str) -> list[dict]:
    """The points at which only ``axis`` varies, in its order."""
    other, fixed = ("genes", FIXED_GENES) if axis == "cells" else ("cells", FIXED_CELLS)
    return sorted((point for point in found if point[other] == fixed), key=lambda point: point[axis])


def exponent(found: list[dict], axis: str, quantity: str) -> float:
    """Slope of a straight line through the logarithms."""
    fitted = [(p[axis], p[quantity]) for p in along(found, axis) if axis == "cells" or p[axis] >= FIT_FROM]
    return float(np.polyfit(*np.log(np.array(fitted, dtype=float)).T, 1)[0])


def rows(found: list[dict], disk: dict[str, dict]) -> list[tuple[str, float, str, float | None]]:
    result = []
    for axis, bar in (("genes", -1.05), ("cells", None)) if found else ():
        for quantity, name in (("train_us", "training"), ("draw_us", "imputation")):
            result.append((f"{name}, exponent of time per cell in {axis}", exponent(found, axis, quantity), "", bar))
    for axis in ("cells", "genes"):
        for point in along(found, axis):
            size = f"{point['cells']:,} cells, {point['genes']:,} genes"
            result.append((f"{size}: training", point["train_us"], "us/cell", None))
            result.append((f"{size}: imputation, 1 draw", point["draw_us"], "us/cell", None))
            result.append((f"{size}: peak memory", point["memory_mb"], "MB", None))
    if disk:
        size = f"{BACKED[0]:,} x {BACKED[1]:,}"
        equal = disk["backed"]["digest"] == disk["memory"]["digest"]
        result.append((f"{size} backed, 1 draw: peak memory", disk["backed"]["memory_mb"], "MB", -1000.0))
        result.append((f"{size} backed, 1 draw: the result in it", disk["backed"]["result_mb"], "MB", None))
        result.append((f"{size} backed, 1 draw", disk["backed"]["seconds"], "s", None))
        result.append((f"{size} in memory, 1 draw: peak memory", disk["memory"]["memory_mb"], "MB", None))
        result.append((f"{size}: backed and in memory equal bit for bit", float(equal), "", 1.0))
    return result


def on_disk(options: argparse.Namespace) -> dict[str, dict]:
    """Imputation of counts that are on disk, and of the same counts in memory."""
    with tempfile.TemporaryDirectory() as folder:
        in_process(options, "prepare", folder, *BACKED)
        found = {kind: in_process(options, "impute", folder, kind) for kind in ("backed", "memory")}
    print(found, flush=True)
    return found


def draw_figure(found: list[dict], path: Path) -> None:
    """Time per cell along genes and cells, and memory along cells."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), layout="constrained")
    for ax, axis in zip(axes, ("genes", "cells"), strict=False):
        for quantity, name, color in (("train_us", "training", "#0072B2"), ("draw_us", "one draw", "#D55E00")):
            sizes = [point[axis] for point in along(found, axis)]
            label = f"{name}: exponent {exponent(found, axis, quantity):.2f}"
            ax.loglog(sizes, [point[quantity] for point in along(found, axis)], "o-", color=color, label=label)
        ax.set(xlabel=axis, ylabel="time per cell (us)", title=_fixed(axis), ylim=(10, 2e4))
        ax.legend(frameon=False, loc="upper left", fontsize="small")
    for axis, color in (("cells", "#009E73"), ("genes", "#CC79A7")):
        kept = along(found, axis)
        entries = [1e-6 * point["cells"] * point["genes"] for point in kept]
        axes[2].loglog(entries, [point["memory_mb"] for point in kept], "o-", color=color, label=f"{axis} vary")
    axes[2].set(
        xlabel="millions of entries", ylabel="memory over the package (MB)", title="peak memory", ylim=(100, 1e4)
    )
    axes[2].legend(frameon=False, loc="upper left", fontsize="small")
    figure.savefig(path, dpi=150)


def _fixed(axis: str) -> str:
    return f"{FIXED_CELLS:,} cells" if axis == "genes" else f"{FIXED_GENES:,} genes"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=["growth", "backed"], default=["growth", "backed"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu-time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    Clock.read = staticmethod(time.process_time if options.cpu_time else time.perf_counter)
    torch.set_num_threads(options.threads)
    keep_quiet()
    if options.task:
        name, *arguments = options.task
        arguments = [int(a) if a.isdecimal() else a for a in arguments]
        print(json.dumps(TASKS[name](*arguments)))
        return
    found = points(options) if "growth" in options.sections else []
    disk = on_disk(options) if "backed" in options.sections else {}
    if options.json is not None:
        options.json.write_text(json.dumps({"points": found, "backed": disk}, indent=1) + "\n")
    if found and options.figure is not None:
        draw_figure(found, options.figure)
    text = markdown(rows(found, disk), f"{options.threads} threads, torch {torch.__version__}")
    if options.markdown is not None:
        options.markdown.write_text(text)
    print("\n" + text)


if __name__ == "__main__":
    main()
