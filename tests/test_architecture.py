"""The shape of the package: which part may import which, what is public, what is documented."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import countsdiff_sc

ROOT = Path(countsdiff_sc.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: What each part must not import. Arrows point one way: process <- nn <- _module <- _model.
FORBIDDEN = {
    "kernels": (
        "anndata",
        "scvi",
        "scanpy",
        "lightning",
        "torch",
        "countsdiff_sc.process",
        "countsdiff_sc.nn",
        "countsdiff_sc._",
    ),
    "process": (
        "anndata",
        "scvi",
        "scanpy",
        "lightning",
        "countsdiff_sc.nn",
        "countsdiff_sc._",
        "countsdiff_sc.evaluation",
    ),
    "nn": ("anndata", "scvi", "scanpy", "lightning", "countsdiff_sc._", "countsdiff_sc.evaluation"),
    "evaluation": ("countsdiff_sc._model", "countsdiff_sc._module", "countsdiff_sc._training_plan"),
    "pl": ("countsdiff_sc._model", "scvi", "torch"),
    # What images check is `process`.
    "image": (
        "anndata",
        "scvi",
        "scanpy",
        "lightning",
        "countsdiff_sc.nn",
        "countsdiff_sc.kernels",
        "countsdiff_sc.evaluation",
        "countsdiff_sc._model",
        "countsdiff_sc._module",
        "countsdiff_sc._training_plan",
    ),
}


def imported_names(path):
    """Full names of what a file imports, relative and aliased imports included."""
    package = ["countsdiff_sc", *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_imports_are_found_however_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "process").mkdir()
    path = tmp_path / "process" / "file.py"
    path.write_text("from countsdiff_sc import _model\nfrom .. import _module\nfrom ._thinning import thin\n")
    found = set(imported_names(path))
    assert {"countsdiff_sc._model", "countsdiff_sc._module", "countsdiff_sc.process._thinning.thin"} <= found


def test_the_module_knows_nothing_of_the_model():
    for name in imported_names(ROOT / "_module.py"):
        assert not name.startswith(("countsdiff_sc._model", "anndata", "scanpy", "mudata")), name


@pytest.mark.parametrize("part", FORBIDDEN)
def test_arrows_point_one_way(part):
    for path in (ROOT / part).rglob("*.py"):
        for name in imported_names(path):
            assert not name.startswith(FORBIDDEN[part]), f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_else_imports_the_image_experiments():
    for path in FILES:
        if ROOT / "image" not in path.parents:
            assert not any(name.startswith("countsdiff_sc.image") for name in imported_names(path)), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_assert_and_no_print_outside_the_command_line(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            assert path.name == "__main__.py", f"line {node.lineno}"


def public_modules():
    yield countsdiff_sc
    for info in pkgutil.walk_packages([str(ROOT)], "countsdiff_sc."):
        if not any(part.startswith("_") for part in info.name.split(".")[1:]):
            yield importlib.import_module(info.name)


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_public_names_exist_and_are_documented(module):
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert (thing.__doc__ or "").strip(), name


@pytest.mark.parametrize("name", ["setup_anndata", "setup_mudata", "train", "impute", "get_imputed_counts"])
def test_docstrings_have_no_leftover_placeholders_and_name_every_argument(name):
    method = getattr(countsdiff_sc.CountsDiffSC, name)
    assert "%(" not in method.__doc__
    for argument in list(inspect.signature(method).parameters):
        if argument not in {"self", "kwargs"}:
            assert argument in method.__doc__, argument


def test_import_is_free_of_heavy_optional_packages():
    heavy = ("diffusers", "torchvision", "magic", "ray", "countsdiff_sc.image")
    code = f"import sys, countsdiff_sc; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
