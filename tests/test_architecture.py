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
    "evaluation": ("countsdiff_sc._model", "countsdiff_sc._module", "scvi", "torch"),
    "pl": ("countsdiff_sc._model", "scvi", "torch"),
}


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("part", FORBIDDEN)
def test_arrows_point_one_way(part):
    for path in (ROOT / part).rglob("*.py"):
        for name in imported_names(path):
            assert not name.startswith(FORBIDDEN[part]), f"{path.relative_to(ROOT)} imports {name}"


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
    code = "import sys, countsdiff_sc; print([m for m in ('diffusers', 'torchvision', 'magic', 'ray') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
