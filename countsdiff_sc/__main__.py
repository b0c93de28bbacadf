"""The main job for pipelines: ``python -m countsdiff_sc impute [IN.h5ad] [-o OUT.h5ad]``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import anndata
import scvi
import torch

from countsdiff_sc import CountsDiffSC, _registration, _validation, _writing, datasets, evaluation, pl
from countsdiff_sc._constants import UNS_KEY

#: Fraction of the entries that is hidden to show whether the model helps on the data at hand.
HIDDEN_FRACTION = 0.1
#: Scores that are printed.
SHOWN = ["poisson_deviance", "rmse_log1p"]
#: Advice in messages, and what it is called here.
OPTIONS = {
    "CountsDiffSC.setup_anndata(adata, layer=...)": "--layer NAME",
    "for example layer='imputed'": "for example --output-layer imputed",
    "Choose another name, or delete it first": "Choose another name, --output-layer NAME, or delete it first",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, show the error on hidden entries, impute, write; return the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.n_samples < 1:
        parser.error("--n-samples must be at least 1")
    if not 0 <= arguments.seed < 2**32:
        parser.error("--seed must be at least 0 and below 2^32")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error("--threads must be at least 1")
    if arguments.n_samples > 1 and arguments.estimate != "sample":
        parser.error("--n-samples above 1 needs --estimate sample")
    try:
        _impute(arguments)
    except (KeyError, TypeError, ValueError, OSError) as error:
        message = str(error.args[0] if isinstance(error, KeyError) else error)
        for advice, option in OPTIONS.items():
            message = message.replace(advice, option)
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


def _impute(arguments: argparse.Namespace) -> None:
    _keep_quiet()
    _check_files(arguments)
    scvi.settings.seed = arguments.seed
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.input is None:
        adata, arguments.labels_key = datasets.pbmc68k_counts(), arguments.labels_key or "bulk_labels"
        print("No input given: using the 700 PBMCs that come with scanpy.")
    else:
        adata = _read(arguments.input)
    setup = {
        "layer": arguments.layer,
        "labels_key": arguments.labels_key,
        "observed_mask_layer": arguments.mask_layer,
    }

    def fit(data: anndata.AnnData) -> CountsDiffSC:
        CountsDiffSC.setup_anndata(data, **setup, batch_key=arguments.batch_key)
        model = CountsDiffSC(data)
        model.train(max_epochs=arguments.epochs)
        return model

    # Before anything costs time.
    CountsDiffSC.setup_anndata(adata, **setup, batch_key=arguments.batch_key)
    names = _writing.layer_names(arguments.output_layer, arguments.n_samples)
    (matrix,) = _registration.count_matrices(adata, setup)
    for name in names:
        _validation.check_output_layer(name, matrix, written_before=_writing.was_imputed(matrix, name))
    with redirect_stdout(sys.stderr):  # where scvi-tools' progress bars belong
        holdout = evaluation.hold_out(adata, fit, **setup, fraction=HIDDEN_FRACTION, seed=arguments.seed)
    print(
        f"\nError on {len(holdout.truth):,} entries ({HIDDEN_FRACTION:.0%}) that were hidden in training; lower is better:\n"
    )
    print(holdout.table[SHOWN].round(4).to_string(), end="\n\n")
    # Gaps of the training data were made here, and zeros are what is asked for.
    warnings.filterwarnings("ignore", message="The new data have no NaN", category=UserWarning)
    with redirect_stdout(sys.stderr):
        holdout.model.impute(
            adata,
            layer=arguments.output_layer,
            estimate=arguments.estimate,
            n_samples=arguments.n_samples,
            seed=arguments.seed,
        )
    _write(adata, arguments.output)
    picture = arguments.output.with_suffix(".png")
    pl.report(holdout).savefig(picture, dpi=120)
    record = adata.uns[UNS_KEY][names[0]]
    print(
        f"Imputed {record['n_imputed']:,} entries of {adata.n_obs:,} cells x {adata.n_vars:,} genes: {_rule(adata, record)}."
    )
    print(f"Wrote layers {names} to {arguments.output} and the picture {picture}.")


def _rule(adata: anndata.AnnData, record: Mapping[str, object]) -> str:
    """Which entries were taken for missing, in words."""
    if record["observed_mask"] == "nan":
        return "those that are NaN"
    if record["observed_mask"] == "registered layer":
        return "those that --mask-layer has as False"
    masks = [name for name, values in adata.layers.items() if values.dtype == bool]
    unused = f", nor --mask-layer, for which there is {masks}" if masks else ", nor --mask-layer"
    return f"all zeros, since there is no NaN{unused}"


def _read(source: Path) -> anndata.AnnData:
    try:
        return anndata.read_h5ad(source)
    except OSError as error:
        msg = f"{source} cannot be read: {error}. It must be a complete .h5ad file. Download or write it again."
        raise ValueError(msg) from error


def _write(adata: anndata.AnnData, target: Path) -> None:
    """Write the file, or leave what is there as it is: a disk may be full."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        adata.write_h5ad(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise ``ValueError`` for files that cannot be read or written, before anything is computed."""
    source, target = arguments.input, arguments.output
    if source is not None and source.is_dir():
        problem = (
            f"{source} is a folder. The input must be an .h5ad file. Read it in Python, by anndata.read_zarr or scanpy.read_10x_mtx, and "
            "write that with write_h5ad."
        )
    elif source is not None and not source.is_file():
        problem = f"There is no file {source}. The input must be an .h5ad file. Check the path."
    elif source is not None and source.suffix != ".h5ad":
        problem = (
            f"{source} is not an .h5ad file. The command reads nothing else. Read it in Python, and write it with write_h5ad; for "
            "MuData use CountsDiffSC there."
        )
    elif target.suffix != ".h5ad":
        problem = f"--output={target} does not end in .h5ad. The result is written in that format. Choose such a name."
    elif not target.parent.is_dir():
        problem = f"--output={target}: there is no folder {target.parent}. The folder must exist. Create it first."
    elif not os.access(target.parent, os.W_OK):
        problem = f"--output={target}: {target.parent} cannot be written to. Results are written there. Choose another folder."
    elif source is not None and target.resolve() == source.resolve():
        problem = f"--output={target} is the input. Input files are never overwritten. Choose another name."
    else:
        return
    raise ValueError(problem)


def _keep_quiet() -> None:
    """Leave the terminal to the progress bar, the table and our own warnings."""
    scvi.settings.verbosity = logging.WARNING
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m countsdiff_sc", description="Impute single-cell counts.")
    commands = parser.add_subparsers(dest="command", required=True)
    impute = commands.add_parser(
        "impute",
        help="train on an .h5ad file and write it with an imputed layer",
        description=f"Hide {HIDDEN_FRACTION:.0%} of the entries, train on the others, show the error on the hidden ones, and "
        "write the file with a layer imputed by that model, and a picture beside it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    impute.add_argument("input", nargs="?", type=Path, help="file with raw counts; without it, 700 bundled PBMCs")
    impute.add_argument("-o", "--output", type=Path, default=Path("imputed.h5ad"), help="file to write")
    impute.add_argument("--layer", help="layer with raw counts; X by default")
    impute.add_argument("--labels-key", help="column of obs with cell types")
    impute.add_argument("--batch-key", help="column of obs with batches or donors")
    impute.add_argument(
        "--mask-layer",
        help="boolean layer, True where a count was observed; without it, and without NaN, zeros are imputed",
    )
    impute.add_argument("--output-layer", default="imputed", help="layer to write")
    impute.add_argument("--estimate", choices=["mean", "median", "sample"], default="mean", help="what to write")
    impute.add_argument("--n-samples", type=int, default=1, help="number of layers of draws; needs --estimate sample")
    impute.add_argument(
        "--epochs", type=int, help="passes over the cells; by default they depend on the number of molecules"
    )
    impute.add_argument("--threads", type=int, help="threads to use; by default as many as there are cores")
    impute.add_argument("--seed", type=int, default=0, help="seed of everything random")
    return parser


if __name__ == "__main__":
    sys.exit(main())
