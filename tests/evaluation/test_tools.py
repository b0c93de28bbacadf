"""Other packages' tools see visible counts only, and their results are at the scale of the counts."""

import sys

import numpy as np
import pytest
import torch

from countsdiff_sc import evaluation
from countsdiff_sc.evaluation._tools import match_visible_totals

RNG = np.random.default_rng(0)
PROFILES = RNG.gamma(0.5, 4.0, (3, 120))
LABELS = np.arange(180) % 3
COUNTS = RNG.poisson(RNG.lognormal(0, 0.4, (180, 1)) * PROFILES[LABELS]).astype(np.float32)
OBSERVED = evaluation.mcar(COUNTS, 0.4, seed=0)
TOOLS = {"magic": {"knn": 15}, "halra": {"matrix_rank": 3}}


@pytest.fixture(params=TOOLS)
def tool(request):
    pytest.importorskip(request.param)
    return lambda counts, observed, **settings: getattr(evaluation, request.param)(
        counts, observed, LABELS[: len(counts)], **{**TOOLS[request.param], **settings}
    )


def test_the_scale_is_right_and_cells_are_told_apart(tool):
    hidden, imputed = ~OBSERVED, tool(COUNTS, OBSERVED)
    assert imputed.shape == COUNTS.shape
    assert imputed.dtype == np.float32
    assert (imputed >= 0).all()
    # Visible counts are followed more closely than hidden ones, so what fits the former is somewhat low for the latter.
    assert imputed[hidden].mean() == pytest.approx(COUNTS[hidden].mean(), rel=0.15)
    simple = evaluation.gene_mean_x_depth(COUNTS, OBSERVED)
    errors = [evaluation.rmse_log1p(COUNTS[hidden], of[hidden]) for of in (imputed, simple)]
    assert errors[0] < 0.9 * errors[1]


def test_genes_and_cells_hidden_more_often_are_not_taken_for_poorer(tool):
    observed = np.ones(COUNTS.shape, dtype=bool)
    observed[:90, :40] = evaluation.mcar(COUNTS[:90, :40], 0.8, seed=0)
    hidden = ~observed
    assert tool(COUNTS, observed)[hidden].mean() == pytest.approx(COUNTS[hidden].mean(), rel=0.1)


def test_hidden_counts_are_never_read_and_nothing_is_left_behind(tool, capsys, recwarn):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = COUNTS.copy()
    imputed = tool(COUNTS, OBSERVED)
    np.testing.assert_array_equal(tool(np.where(OBSERVED, COUNTS, np.nan), OBSERVED), imputed)
    np.testing.assert_array_equal(COUNTS, before)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1))
    assert np.random.rand() == np.random.RandomState(1).rand()  # noqa: NPY002
    assert capsys.readouterr() == ("", "")
    assert not recwarn.list


def test_cells_and_genes_without_visible_molecules_keep_their_places(tool):
    counts, observed = COUNTS.copy(), OBSERVED.copy()
    counts[3], counts[:, 5], observed[7], observed[:, 9] = 0, 0, False, False
    imputed = tool(counts, observed)
    assert imputed.shape == counts.shape
    assert np.isfinite(imputed).all()
    assert imputed[7].sum() > 10  # of which nothing is known: an average cell
    assert imputed[3].sum() < 10
    assert imputed[:, 5].max() < 0.1
    rest = ~observed
    rest[[3, 7]], rest[:, [5, 9]] = False, False
    assert np.corrcoef(imputed[rest], counts[rest])[0, 1] > 0.7


@pytest.mark.parametrize(("name", "setting"), [("magic", "t"), ("magic", "knn"), ("halra", "matrix_rank")])
def test_settings_reach_the_package(name, setting):
    pytest.importorskip(name)
    one, other = (getattr(evaluation, name)(COUNTS, OBSERVED, **{**TOOLS[name], setting: value}) for value in (2, 6))
    assert (one != other).any()


def test_background_is_the_gene_mean_x_depth(tool):
    simple = evaluation.gene_mean_x_depth(COUNTS, OBSERVED)
    alone, mixed, all_of_it = (tool(COUNTS, OBSERVED, background=weight) for weight in (0, 0.25, 1))
    np.testing.assert_allclose(all_of_it, simple)
    np.testing.assert_allclose(mixed, 0.25 * simple + 0.75 * alone, rtol=1e-4, atol=1e-6)


def test_wrong_data_are_refused(tool):
    with pytest.raises(ValueError, match="background=2 is out of range"):
        tool(COUNTS, OBSERVED, background=2)
    with pytest.raises(ValueError, match="counts has shape .* Both must be"):
        tool(COUNTS, OBSERVED[1:])
    with pytest.raises(ValueError, match="observed counts. Fitting needs"):
        tool(COUNTS, np.zeros(COUNTS.shape, dtype=bool))


def test_magic_needs_a_number_of_steps():
    pytest.importorskip("magic")
    with pytest.raises(TypeError, match="t='auto' is a str. It must be an integer"):
        evaluation.magic(COUNTS, OBSERVED, t="auto")


def test_magic_needs_more_cells_than_it_looks_for():
    pytest.importorskip("magic")
    with pytest.raises(ValueError, match=r"15 cells with visible molecules\. MAGIC needs more than 3 knn=15\. Pass"):
        evaluation.magic(COUNTS[:15], OBSERVED[:15])
    assert np.isfinite(evaluation.magic(COUNTS[:16, :2], OBSERVED[:16, :2], knn=3)).all()


def test_halra_chooses_a_rank_only_from_many_cells_and_genes():
    pytest.importorskip("halra")
    with pytest.raises(ValueError, match=r"180 cells and 90 genes .* more than 100 of each\. Pass it.* matrix_rank"):
        evaluation.halra(COUNTS[:, :90], OBSERVED[:, :90])
    assert np.isfinite(evaluation.halra(COUNTS, OBSERVED)).all()


@pytest.mark.parametrize(("name", "package"), [("magic", "magic-impute"), ("halra", "halra")])
def test_a_missing_package_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    match = rf'The package {package} is not installed\. .* needs it\. Run pip install "countsdiff_sc\[benchmarks\]"'
    with pytest.raises(ImportError, match=match):
        getattr(evaluation, name)(COUNTS, OBSERVED)


def test_visible_totals_are_matched():
    depth, profile = RNG.gamma(2, 1, (60, 1)), RNG.gamma(1, 20, (1, 40))
    counts = RNG.poisson(depth * profile).astype(float)
    observed = evaluation.mcar(counts, 0.5, seed=0)
    visible = np.where(observed, counts, 0)
    for wrong in (np.ones_like(counts), depth**2 * profile, 7 * profile / depth):
        matched = match_visible_totals(wrong, visible, observed)
        for axis in (0, 1):
            np.testing.assert_allclose((matched * observed).sum(axis), visible.sum(axis), rtol=0.05, atol=2)
