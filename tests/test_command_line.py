"""The main job from the command line."""

from functools import partial

import anndata as ad
import numpy as np
import pytest
import torch
from helpers import make_adata

from countsdiff_sc.__main__ import main


def test_imputes_a_file(tmp_path, capsys):
    make_adata().write_h5ad(tmp_path / "in.h5ad")
    arguments = ["impute", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad"), "--labels-key", "cell_type"]
    assert main([*arguments, "--epochs", "2", "--estimate", "sample", "--n-samples", "2"]) == 0
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    counts = out.X.toarray()
    for name in ("imputed_0", "imputed_1"):
        np.testing.assert_array_equal(out.layers[name].toarray()[counts > 0], counts[counts > 0])
    assert (tmp_path / "out.png").stat().st_size > 0
    printed = capsys.readouterr().out
    assert "it/s" not in printed  # progress goes to the other stream
    for row in ("zeros", "gene mean x depth", "label mean x depth", "CountsDiffSC"):
        assert row in printed


def test_without_input_the_bundled_cells_are_used(tmp_path, capsys):
    assert main(["impute", "-o", str(tmp_path / "out.h5ad"), "--epochs", "1"]) == 0
    assert ad.read_h5ad(tmp_path / "out.h5ad").shape == (700, 765)
    assert "700 PBMCs" in capsys.readouterr().out


def test_a_mask_layer_is_respected(tmp_path):
    adata = make_adata()
    adata.layers["seen"] = np.random.default_rng(0).random(adata.shape) < 0.6
    adata.write_h5ad(tmp_path / "in.h5ad")
    arguments = ["impute", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad"), "--mask-layer", "seen"]
    assert main([*arguments, "--epochs", "1"]) == 0
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    seen = out.layers["seen"]
    np.testing.assert_array_equal(out.layers["imputed"][seen], out.X.toarray()[seen])
    assert (out.layers["imputed"][~seen] > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels-key", "celltype"], "cell_type"),
        (["--layer", "raw"], "layer='raw'"),
        (["-o", "nowhere/out.h5ad"], "there is no folder nowhere"),
    ],
)
def test_mistakes_end_with_a_message_and_no_file(tmp_path, capsys, arguments, message):
    make_adata().write_h5ad(tmp_path / "in.h5ad")
    assert main(["impute", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.h5ad").exists()


def test_a_folder_that_cannot_be_written_to_is_found_before_training(tmp_path, capsys, monkeypatch):
    make_adata().write_h5ad(tmp_path / "in.h5ad")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # rights do not bind the superuser
    assert main(["impute", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad")]) == 1
    assert f"{tmp_path} cannot be written to" in capsys.readouterr().err


def test_advice_is_that_of_the_command_line(tmp_path, capsys):
    adata = make_adata()
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.37
    adata.write_h5ad(tmp_path / "in.h5ad")
    command = ["impute", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad")]
    assert main(command) == 1
    assert "Pass the layer with raw counts: --layer NAME; layers: ['counts']." in capsys.readouterr().err
    assert main([*command, "--layer", "counts", "--output-layer", "counts"]) == 1
    assert "for example --output-layer imputed." in capsys.readouterr().err


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch, capsys):
    make_adata().write_h5ad(tmp_path / "in.h5ad")
    (tmp_path / "out.h5ad").write_text("an earlier result")

    def full(adata, path):
        path.write_text("half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", full)
    assert main(["impute", str(tmp_path / "in.h5ad"), "-o", str(tmp_path / "out.h5ad"), "--epochs", "1"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "out.h5ad").read_text() == "an earlier result"
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seeds_are_those_that_scvi_tools_takes(seed, capsys):
    with pytest.raises(SystemExit):
        main(["impute", "--seed", seed])
    assert "--seed must be at least 0" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["impute", str(tmp_path / "nowhere.h5ad")]) == 1
    assert "error:" in capsys.readouterr().err


def test_what_was_imputed_is_said(tmp_path, capsys, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    adata = make_adata()
    adata.layers["seen"] = np.ones(adata.shape, dtype=bool)
    adata.write_h5ad(tmp_path / "in.h5ad")
    arguments = [
        "impute",
        str(tmp_path / "in.h5ad"),
        "-o",
        str(tmp_path / "out.h5ad"),
        "--epochs",
        "1",
        "--threads",
        "1",
    ]
    assert main([*arguments, "--batch-key", "batch"]) == 0
    n_zeros = int((adata.X.toarray() == 0).sum())
    said = f"Imputed {n_zeros:,} entries of 60 cells x 20 genes: all zeros, since there is no NaN, nor --mask-layer, for which there is"
    assert f"{said} ['seen']." in capsys.readouterr().out


def test_a_file_that_is_not_complete_and_a_folder(tmp_path, capsys):
    (tmp_path / "in.h5ad").write_bytes(b"")
    assert main(["impute", str(tmp_path / "in.h5ad")]) == 1
    assert "in.h5ad cannot be read" in capsys.readouterr().err
    (tmp_path / "in.zarr").mkdir()
    assert main(["impute", str(tmp_path / "in.zarr")]) == 1
    assert "in.zarr is a folder" in capsys.readouterr().err
