"""Masked diffusion keeps its marginals and what was observed, and learns.

5 statistical tests at a false-alarm rate of 1e-4: 0.05% in all, once.
"""

import numpy as np
import pytest
import torch
from helpers import TINY, make_counts
from hypothesis import given
from hypothesis import strategies as st
from laws import ALPHA, LAW, assert_law, generator, p_value
from scipy import stats

from countsdiff_sc import evaluation
from countsdiff_sc.evaluation._categorical import CategoricalDenoiser, CountClasses
from countsdiff_sc.evaluation._masked_diffusion import (
    PUBLISHED_ETA,
    remdm_sample,
    step_probabilities,
)

COUNTS = make_counts(n_obs=300)
OBSERVED = evaluation.mcar(COUNTS, 0.4, seed=0)
PROBABILITY = st.floats(0.0, 1.0)


@pytest.fixture(scope="module")
def imputer():
    return evaluation.MaskedDiffusion(max_epochs=60, n_classes=16, **TINY).fit(COUNTS, OBSERVED)


# ---------------------------------------------------------------------- sampler


@LAW
@given(st.tuples(PROBABILITY, PROBABILITY), PROBABILITY, st.sampled_from(sorted(PUBLISHED_ETA)))
def test_the_expected_decoded_fraction_does_not_depend_on_remasking(alphas, eta, strategy):
    alpha_t, alpha_s = sorted(alphas)
    if alpha_t < 1.0:
        unmask, remask = step_probabilities(alpha_t, alpha_s, strategy=strategy, eta=eta)
        assert -1e-12 <= unmask <= 1 + 1e-6
        assert 0 <= remask <= 1
        assert alpha_t * (1 - remask) + (1 - alpha_t) * unmask == pytest.approx(alpha_s, abs=1e-9)


def test_without_remasking_the_step_is_that_of_mdlm():
    assert step_probabilities(0.5, 0.75, strategy="cap", eta=0.0) == (0.5, 0.0)
    assert step_probabilities(0.5, 0.75, strategy="rescale", eta=1.0) == (1.0, 0.5)
    assert step_probabilities(0.5, 0.75, strategy="cap", eta=0.9) == (1.0, 0.5)


RATES = (1.0, 9.0)


class SumOfTwo:
    """Law of the sum of two counts, Poisson of one rate that is either of ``RATES``."""

    laws = tuple(stats.poisson(2 * rate) for rate in RATES)

    def pmf(self, x):
        return sum(law.pmf(x) for law in self.laws) / 2

    def cdf(self, x):
        return sum(law.cdf(x) for law in self.laws) / 2

    def ppf(self, q):
        return max(law.ppf(q) for law in self.laws)

    def mean(self):
        return sum(RATES)


def posterior_draw(rng):
    """Exact posterior of masked counts that share a rate, given the visible ones."""

    def draw(x, visible, entries):
        log_odds = (x * np.log(RATES[1] / RATES[0]) - visible * (RATES[1] - RATES[0])).sum(1)
        high = torch.rand(len(entries[0]), generator=rng) < torch.sigmoid(log_odds)[entries[0]]
        return torch.poisson(torch.where(high, RATES[1], RATES[0]), generator=rng)

    return draw


def sums(n_steps, **kwargs):
    rng = generator()
    x, missing = torch.full((4000, 3), 777.0), torch.tensor([True, True, False]).expand(4000, 3)
    x = torch.where(missing, x, 0.0)  # the third entry is observed, but tells nothing: see below
    draw = posterior_draw(rng)
    drawn = remdm_sample(
        lambda x, visible, entries: draw(x[:, :2], visible[:, :2], entries),
        x,
        missing,
        n_steps=n_steps,
        generator=rng,
        **kwargs,
    )
    return drawn[:, :2].sum(1)


@pytest.mark.parametrize("kwargs", [{"strategy": "cap", "eta": 0.0}, {"strategy": "cap"}, {"strategy": "rescale"}])
def test_with_the_exact_posterior_draws_follow_the_joint_law(kwargs):
    assert_law(sums(1000, **kwargs), SumOfTwo())


def test_in_one_step_the_joint_law_is_lost():
    assert p_value(sums(1), SumOfTwo()) < ALPHA


def test_every_missing_entry_is_decoded_and_no_observed_one_changes():
    known = torch.arange(200.0).view(40, 5)
    missing = torch.rand(40, 5, generator=generator(1)) < 0.5
    seen = []

    def draw(x, visible, entries):
        assert (x[~visible] == 0).all()
        assert torch.equal(x[~missing], known[~missing])
        assert not visible[entries].any()
        seen.append(len(entries[0]))
        return torch.full((len(entries[0]),), -1.0)

    drawn = remdm_sample(draw, known, missing, n_steps=10, strategy="rescale", eta=0.5, generator=generator())
    assert torch.equal(drawn, torch.where(missing, -1.0, known))
    assert len(seen) == 10
    assert sum(seen) > missing.sum()  # some were decoded again
    assert known.max() == 199  # and the input is not written to


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"n_steps": 0}, ValueError, "n_steps=0 is out of range"),
        (
            {"n_steps": 2, "strategy": "loop"},
            ValueError,
            r"strategy='loop' is not known\. .* \['cap', 'rescale'\]\. Pass one",
        ),
        ({"n_steps": 2, "eta": 1.5}, ValueError, "eta=1.5 is out of range"),
    ],
)
def test_sampler_refuses(kwargs, error, match):
    with pytest.raises(error, match=match):
        remdm_sample(None, torch.zeros(2, 2), torch.ones(2, 2, dtype=bool), **kwargs)


# ---------------------------------------------------------------------- classes


@pytest.mark.parametrize("largest", [0, 1, 14, 15, 16, 100, 5000])
def test_classes_cover_all_counts_in_order_and_small_counts_have_their_own(largest):
    counts = np.minimum(np.arange(6000, dtype=np.float32), largest).reshape(-1, 2)
    classes = CountClasses(counts, np.ones(counts.shape, dtype=bool), 16)
    codes = classes.encode(torch.arange(largest + 10.0))
    assert 2 <= classes.n <= 16
    assert codes[0] == 0
    assert codes[-1] == classes.n - 1
    assert set(codes.diff().tolist()) <= {0, 1}
    assert torch.equal(codes[: min(largest + 1, 8)], torch.arange(min(largest + 1, 8)))
    torch.testing.assert_close(classes.log_frequency.exp().sum(1), torch.ones(2))


def test_a_class_stands_for_the_counts_of_its_gene_that_are_known():
    counts = np.array([[100.0, 90.0], [108.0, 0.0], [1.0, 0.0], [5000.0, 0.0], [104.0, 0.0]], dtype=np.float32)
    known = np.ones(counts.shape, dtype=bool)
    known[4] = False
    classes = CountClasses(np.where(known, counts, 0), known, 8)
    code = classes.encode(torch.tensor([100.0])).item()
    assert classes.encode(torch.tensor([108.0])).item() == code
    assert classes.mean[0, code] == 104
    assert classes.mean[1, 1] == 1  # not seen in this gene: as in the others
    genes = torch.tensor([0, 1]).repeat_interleave(100)
    drawn = classes.draw(genes, torch.full((200,), code), generator())
    assert set(drawn[:100].tolist()) == {100.0, 108.0}
    other = classes.encode(torch.tensor([90.0])).item()
    assert set(drawn[100:].tolist()) == {90.0 if other == code else 104.0}


def test_training_starts_from_the_frequencies_of_a_gene():
    known = np.ones(COUNTS.shape, dtype=bool)
    classes = CountClasses(COUNTS, known, 64)
    net = CategoricalDenoiser(np.ones(300), COUNTS.mean(0), classes, rank=3, **TINY).eval()
    entries = (torch.zeros(20, dtype=torch.long), torch.arange(20))
    law = net(torch.zeros(1, 20), torch.zeros(1, 20, dtype=bool), entries).softmax(1)
    expected = (law * classes.mean).sum(1).detach().numpy()
    np.testing.assert_allclose(expected, COUNTS.mean(0), rtol=0.2)


# ---------------------------------------------------------------------- imputer


def test_it_learns_and_draws_agree_with_means(imputer):
    hidden = ~OBSERVED
    mean, draws = imputer.impute(COUNTS, OBSERVED), imputer.draw(COUNTS, OBSERVED, n_samples=20, n_steps=10)
    simple = evaluation.gene_mean_x_depth(COUNTS, OBSERVED)
    deviance = [evaluation.poisson_deviance(COUNTS[hidden], of[hidden]) for of in (mean, draws.mean(0), simple)]
    assert deviance[0] < 0.95 * deviance[2]
    assert deviance[1] < deviance[2]
    assert draws[:, hidden].mean() == pytest.approx(mean[hidden].mean(), rel=0.05)
    assert draws[:, hidden].mean() == pytest.approx(COUNTS[hidden].mean(), rel=0.1)


def test_observed_counts_are_kept_and_draws_are_whole(imputer):
    large = np.where(OBSERVED, COUNTS + 1000, 0)  # beyond every class
    draws = imputer.draw(large, OBSERVED, n_samples=2, n_steps=3, strategy="rescale", eta=0.5)
    assert draws.shape == (2, *COUNTS.shape)
    assert (draws == np.rint(draws)).all()
    assert (draws >= 0).all()
    for imputed in (*draws, imputer.impute(large, OBSERVED)):
        np.testing.assert_array_equal(imputed[OBSERVED], large[OBSERVED])
        assert np.isfinite(imputed).all()
    everything = np.ones(COUNTS.shape, dtype=bool)
    np.testing.assert_array_equal(imputer.impute(COUNTS, everything), COUNTS)
    np.testing.assert_array_equal(imputer.draw(COUNTS, everything, n_steps=2)[0], COUNTS)
    assert np.isfinite(imputer.impute(COUNTS, ~everything)).all()


def test_hidden_counts_are_never_read(imputer):
    other = np.where(OBSERVED, COUNTS, np.nan)
    again = evaluation.MaskedDiffusion(max_epochs=60, n_classes=16, **TINY).fit(other, OBSERVED)
    np.testing.assert_array_equal(again.impute(other, OBSERVED), imputer.impute(COUNTS, OBSERVED))
    draws = [i.draw(c, OBSERVED, n_steps=3, seed=1) for i, c in ((again, other), (imputer, COUNTS))]
    np.testing.assert_array_equal(*draws)


def test_seeds_decide_and_random_states_are_left_alone(imputer):
    torch.manual_seed(1)
    fits = [evaluation.MaskedDiffusion(max_epochs=1, seed=s, **TINY).fit(COUNTS, OBSERVED) for s in (3, 3, 4)]
    means = [fit.impute(COUNTS, OBSERVED) for fit in fits]
    np.testing.assert_array_equal(means[0], means[1])
    assert (means[0] != means[2]).any()
    draws = [imputer.draw(COUNTS, OBSERVED, n_steps=2, seed=s) for s in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(1))


def test_blocks_do_not_matter(imputer, monkeypatch):
    expected = imputer.impute(COUNTS, OBSERVED)
    monkeypatch.setattr("countsdiff_sc.evaluation._masked_diffusion.BLOCK_ENTRIES", 1)
    np.testing.assert_allclose(imputer.impute(COUNTS, OBSERVED), expected, rtol=1e-4)


@pytest.mark.parametrize("n_obs", [1, 9, 19])
def test_few_cells_and_cells_in_which_nothing_is_known(n_obs):
    counts, observed = COUNTS[:n_obs], OBSERVED[:n_obs].copy()
    observed[1:2] = False
    imputer = evaluation.MaskedDiffusion(max_epochs=9, **TINY).fit(counts, observed)  # nine steps in all
    assert np.isfinite(imputer.impute(counts, observed)).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"n_classes": 1}, ValueError, "n_classes=1 is out of range"),
        ({"rank": 0}, ValueError, "rank=0 is out of range"),
        ({"batch_size": 1.5}, TypeError, "batch_size=1.5 is a float"),
        ({"max_epochs": 0}, ValueError, "max_epochs=0 is out of range"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, error, match):
    with pytest.raises(error, match=match):
        evaluation.MaskedDiffusion(**kwargs)


def test_what_cannot_be_fitted_or_imputed_is_refused(imputer):
    empty = np.zeros(COUNTS.shape, dtype=bool)
    with pytest.raises(ValueError, match="300 cells with 0 observed counts. Fitting needs .* hide fewer"):
        evaluation.MaskedDiffusion().fit(COUNTS, empty)
    with pytest.raises(RuntimeError, match=r"This MaskedDiffusion was not fitted\. .* Call fit"):
        evaluation.MaskedDiffusion().impute(COUNTS, OBSERVED)
    with pytest.raises(ValueError, match=r"counts has 19 genes\. .* fitted to 20\. Pass"):
        imputer.impute(COUNTS[:, 1:], OBSERVED[:, 1:])
    with pytest.raises(ValueError, match=r"counts has shape \(300, 20\) and observed_mask \(300, 19\), of bool\. Both"):
        imputer.impute(COUNTS, OBSERVED[:, 1:])
    with pytest.raises(ValueError, match=r"of float64\. .* \(mask > 0\)"):
        imputer.impute(COUNTS, OBSERVED.astype(float))
    for value in (np.nan, np.inf, -1.0):
        counts = COUNTS.copy()
        counts[2, 3] = value
        with pytest.raises(ValueError, match=r"counts\[2, 3\]=.* is marked as observed\. .* Set the mask to False"):
            imputer.impute(counts, np.ones(COUNTS.shape, dtype=bool))
    with pytest.raises(ValueError, match="n_samples=0 is out of range"):
        imputer.draw(COUNTS, OBSERVED, n_samples=0)
