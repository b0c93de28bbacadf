"""The guard keeps quiet where nothing is invented, and speaks where something is."""

import numpy as np
import pytest
from helpers import QUIET, TINY, make_adata, train_tiny
from scipy.stats import mannwhitneyu

from countsdiff_sc import CountsDiffSC, evaluation
from countsdiff_sc.evaluation._null_check import _positives, _warning, null_table, permute_within
from countsdiff_sc.nn import GeneSetTransformer

RNG = np.random.default_rng(0)
N, G = 600, 12
LABELS = np.repeat(["a", "b"], N // 2)
COUNTS = RNG.poisson(2.0, (N, G)).astype(float)
KNOWN = RNG.random((N, G)) < 0.9
HIDDEN = KNOWN & (RNG.random((N, G)) < 0.5)
DEPTH = RNG.gamma(5.0, 1.0, N)
SCORES = {"depth": DEPTH, "other_genes": RNG.normal(size=N)}


def table(imputed):
    filled = np.where(HIDDEN, imputed, COUNTS)
    return null_table(COUNTS, {"mean": filled}, KNOWN, HIDDEN, LABELS, SCORES)


def test_permutation_keeps_the_counts_of_each_label_and_moves_nothing_else():
    genes = np.array([1, 5])
    permuted = permute_within(COUNTS, KNOWN, genes, LABELS, np.random.default_rng(1))
    others = np.setdiff1d(np.arange(G), genes)
    np.testing.assert_array_equal(permuted[:, others], COUNTS[:, others])
    np.testing.assert_array_equal(permuted[~KNOWN], COUNTS[~KNOWN])
    for gene in genes:
        assert (permuted[:, gene] != COUNTS[:, gene]).any()
        for label in "ab":
            cells = (LABELS == label) & KNOWN[:, gene]
            np.testing.assert_array_equal(np.sort(permuted[cells, gene]), np.sort(COUNTS[cells, gene]))


def test_independent_draws_are_at_the_null_level():
    found = table(RNG.poisson(2.0, (N, G)))
    # |r| of independent genes has mean sqrt(2 / pi n); of 66 pairs the mean is known to a tenth.
    level = np.sqrt(2 / np.pi / (N * 0.9**2))
    np.testing.assert_allclose(found["mean_abs_correlation"], level, rtol=0.3)
    assert abs(found.loc["mean", "rise"]) < 0.01
    assert (found["false_positives"] < 0.15).all()  # 20 halves x 12 genes, correlated: expected 0.05
    assert _warning(found, G) == ""


def test_a_factor_that_all_imputed_genes_share_is_found():
    found = table(2.0 * RNG.gamma(5.0, 0.2, (N, 1)) * np.ones(G))
    assert found.loc["mean", "rise"] > 0.02
    assert found.loc["mean", "among_imputed"] > 0.9
    assert found.loc["observed", "rise"] == 0
    assert "mean: genes without any correlation" in _warning(found, G)


def test_imputation_by_depth_is_found():
    found = table(0.4 * DEPTH[:, None] * np.ones(G))
    assert found.loc["mean", "false_positives_by_depth"] > 0.9
    assert found.loc["observed", "false_positives_by_depth"] < 0.5
    assert "differ between deep and shallow cells" in _warning(found, G)


def test_unknown_counts_are_not_read():
    def scores(unknown):
        values = np.where(KNOWN, COUNTS, unknown)
        return null_table(values, {"mean": values}, KNOWN, HIDDEN, LABELS, SCORES)

    assert scores(np.nan).equals(scores(77.0))


def test_the_stratified_test_agrees_with_scipy_and_has_its_level():
    half = RNG.random(N) < 0.5
    one_label, all_known = np.zeros(N, int), np.ones((N, G), bool)
    shifted = COUNTS + 0.3 * half[:, None] * (np.arange(G) % 3)
    found = [_positives(shifted[:, [g]], all_known[:, [g]], half, one_label) for g in range(G)]
    expected = [mannwhitneyu(shifted[half, g], shifted[~half, g], use_continuity=False).pvalue < 0.05 for g in range(G)]
    assert found == expected
    assert 0 < np.mean(found) < 1
    # Labels of other means neither hide a difference nor make one.
    offset = COUNTS + 100.0 * (LABELS == "b")[:, None]
    level = np.mean([_positives(offset, KNOWN, RNG.random(N) < 0.5, LABELS) for _ in range(200)])
    assert abs(level - 0.05) < 5 * np.sqrt(0.05 * 0.95 / (200 * G))  # false alarm below 1e-6


def test_a_model_is_checked_and_the_data_left_alone():
    adata = make_adata(n_vars=40)
    model = train_tiny(adata, max_epochs=1)
    before = adata.copy()
    checks = [evaluation.null_check(model, fraction=0.3, max_epochs=1, accelerator="cpu", **QUIET) for _ in range(2)]
    assert list(checks[0].table.index) == ["observed", "mean", "sample"]
    assert list(checks[0].table.columns) == [
        "mean_abs_correlation",
        "rise",
        "among_imputed",
        "false_positives",
        "false_positives_by_depth",
        "false_positives_by_other_genes",
    ]
    assert np.isfinite(checks[0].table.to_numpy()).all()
    assert checks[0].table.loc["observed"].equals(checks[1].table.loc["observed"])
    assert isinstance(checks[0].warning, str)
    assert (adata.X != before.X).nnz == 0
    assert list(adata.layers) == list(before.layers)


def test_too_few_genes_are_refused():
    model = CountsDiffSC(make_adata(n_vars=8), **TINY)
    with pytest.raises(ValueError, match=r"adata has 8 genes.* must be permuted\. Pass data with more genes"):
        evaluation.null_check(model)
    with pytest.raises(ValueError, match="n_genes"):
        evaluation.null_check(model, n_genes=1)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_nothing_or_everything_hidden_is_refused(fraction):
    with pytest.raises(ValueError, match="Some must be hidden"):
        evaluation.null_check(CountsDiffSC(make_adata(n_vars=40), **TINY), fraction=fraction)


def test_what_cannot_be_trained_again_is_refused(mdata):
    denoiser = GeneSetTransformer(40, n_tokens=2, width=8, n_layers=1)
    model = CountsDiffSC(make_adata(n_vars=40), denoiser=denoiser)
    with pytest.raises(TypeError, match="null_check trains a new model and needs a new denoiser"):
        evaluation.null_check(model)
    with pytest.raises(TypeError, match="null_check was given a MuData"):
        evaluation.null_check(train_tiny(make_adata(n_vars=40), max_epochs=1), mdata)
