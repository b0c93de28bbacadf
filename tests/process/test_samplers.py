"""With the exact denoiser the samplers return the exact law, at any number of steps.

58 statistical tests at a false-alarm rate of 1e-4: 0.6% in all, once.
"""

from functools import partial

import numpy as np
import pytest
import torch
from laws import ALPHA, assert_law, assert_mean, generator, nb, p_value
from scipy import stats

from countsdiff_sc.process import GammaPoissonOracle, get_schedule, sample_conditioned, sample_remasked, time_grid

MEAN, DISPERSION = 3.7, 1.11
VARIANCE = MEAN + MEAN**2 / DISPERSION  # 16.03
SCHEDULE = get_schedule("cosine")
SAMPLERS = {
    "conditioned": sample_conditioned,
    "remasked": sample_remasked,
    "coherent": partial(sample_remasked, known_path="coherent"),
}
every_path = pytest.mark.parametrize("known_path", ["fresh", "coherent"])
every_sampler = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS)


def oracle(schedule=SCHEDULE):
    return GammaPoissonOracle(torch.tensor(MEAN), torch.tensor(DISPERSION), schedule)


def generate(sample, shape=(5000, 4), *, schedule=SCHEDULE, seed=1, **kwargs):
    """Draws of every entry, from nothing."""
    missing = torch.ones(shape, dtype=torch.bool)
    return sample(oracle(schedule), torch.zeros(shape), missing, schedule, generator=generator(seed), **kwargs)


def half_known(shape=(40, 6)):
    """Large counts, half of them missing, and what stands for a missing one is NaN."""
    x_known = torch.poisson(torch.full(shape, 300.0), generator=generator(7))
    missing_mask = torch.rand(shape, generator=generator(8)) < 0.5
    return x_known.masked_fill(missing_mask, float("nan")), missing_mask


class Recorder:
    """The oracle, and what it was asked."""

    def __init__(self):
        self.times, self.states = [], []

    def __call__(self, x_t, t):
        self.times.append(t.item())
        self.states.append(x_t.clone())
        return oracle()(x_t, t)


# --- the law ---


@pytest.mark.parametrize("attrition", [None, "max", 0.5])
@pytest.mark.parametrize("n_steps", [1, 2, 10, 200])
@every_sampler
def test_exact_denoiser_gives_the_exact_law(sample, n_steps, attrition):
    assert_law(generate(sample, n_steps=n_steps, attrition=attrition), nb(MEAN, DISPERSION))


@pytest.mark.parametrize("schedule", ["blackout", "jump", lambda t: 1 - t], ids=["blackout", "jump", "callable"])
@every_sampler
def test_exact_law_whatever_the_schedule(sample, schedule):
    draws = generate(sample, n_steps=7, schedule=get_schedule(schedule), attrition=0.5)
    assert_law(draws, nb(MEAN, DISPERSION))


@pytest.mark.parametrize("window", [1, 4])
@every_path
def test_resampling_keeps_the_law(window, known_path):
    options = {"n_resample": 3, "resample_window": window, "known_path": known_path}
    assert_law(generate(sample_remasked, n_steps=6, **options), nb(MEAN, DISPERSION))


@pytest.mark.parametrize("by", ["gene", "entry", "callable"])
@every_sampler
def test_exact_law_whatever_the_attrition_of_each_entry(sample, by):
    """One entry of four has none, one all, and a third of the rows are observed, so entries must not be mixed up."""
    fractions = torch.tensor([0.0, 0.3, 0.6, 1.0])
    by_entry = torch.where(torch.arange(6000).unsqueeze(1) % 2 == 0, fractions, fractions.flip(0))
    attrition = {
        "gene": fractions,
        "entry": by_entry,
        "callable": lambda p_s, p_t: by_entry * 0.5 * (1 - p_s),
    }[by]
    missing = (torch.arange(6000) % 3 > 0).unsqueeze(1).expand(6000, 4)
    x_known = torch.full((6000, 4), 7.0)
    draws = sample(oracle(), x_known, missing, SCHEDULE, n_steps=6, attrition=attrition, generator=generator(6))
    assert_law(draws[missing], nb(MEAN, DISPERSION))
    assert (draws[~missing] == 7).all()


def test_each_entry_dies_by_its_own_attrition():
    """Between the times of two steps, with births that never come: what is left is thinned by 1 - sigma."""
    fractions = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    missing = torch.tensor([[True, False], [True, True]])  # the entries that are gathered are not those of a rectangle
    states = []

    def denoise(x_t, t):
        states.append(x_t.clone())
        return torch.full((2, 2), 1000.0 if len(states) == 1 else 0.0), torch.full((2, 2), 1e8)

    options = {"n_steps": 10, "attrition": fractions, "births": "nearest", "generator": generator(3)}
    sample_conditioned(denoise, torch.full((2, 2), 5.0), missing, SCHEDULE, **options)
    assert states[9][0, 0] == states[1][0, 0] > 0  # nothing dies
    assert states[9][1, 1] == states[1][1, 1] > 0
    assert states[9][1, 0] == 0 < states[1][1, 0]  # the largest attrition early on is 1


@pytest.mark.parametrize("attrition", [None, "max"])
def test_conditioned_sampler_gives_the_conditional_law(attrition):
    """Two genes of a cell share one Gamma rate, so what one shows tells of the other."""

    def denoise(x_t, t):
        prob = SCHEDULE.survival_prob(t)
        shape = DISPERSION + x_t.sum(1, keepdim=True)  # the observed gene in full, the missing one at p
        mean = (1 - prob) * shape / (DISPERSION / MEAN + 1 + prob)
        return mean.expand(-1, 2), shape.expand(-1, 2)

    x_known = torch.tensor([[9.0, float("nan")]]).expand(20_000, 2)
    draws = sample_conditioned(
        denoise, x_known, x_known.isnan(), SCHEDULE, n_steps=5, attrition=attrition, generator=generator(2)
    )
    shape = DISPERSION + 9
    assert_law(draws[:, 1], nb(shape / (DISPERSION / MEAN + 1), shape))


@pytest.mark.parametrize(("births", "variance"), [("stochastic", 11.1505), ("poisson", 13.2234)])  # by enumeration
@every_sampler
def test_other_births_lose_the_posteriors_variance_but_not_its_mean(sample, births, variance):
    draws = generate(sample, n_steps=10, births=births)
    assert_mean(draws, MEAN)
    assert_mean((draws - MEAN) ** 2, variance)
    assert draws.var() < VARIANCE - 2


# --- the last step's mean ---


@every_sampler
def test_final_mean_averages_to_the_mean_with_less_noise(sample):
    """By the variance of the births in the last of two steps."""
    means = generate(sample, n_steps=2, final_mean=True)
    p = float(SCHEDULE.survival_prob(torch.tensor(0.5)))
    lost = (1 - p) * MEAN  # on average; given x, of variance m + m^2 / (r + x), where m = lost (r + x) / (r + p MEAN)
    assert_mean(means, MEAN)
    assert_mean((means - MEAN) ** 2, VARIANCE - lost - lost**2 / (DISPERSION + p * MEAN))
    assert (means != means.floor()).any()


@every_sampler
def test_final_mean_of_one_step_is_the_mean_itself(sample):
    torch.testing.assert_close(generate(sample, n_steps=1, final_mean=True), torch.full((5000, 4), MEAN))


def test_final_mean_is_taken_in_the_very_last_transition_only():
    """A fractional mean on the way would be truncated when it is thinned again: births would be lost."""
    assert_mean(generate(sample_remasked, n_steps=4, n_resample=3, resample_window=1, final_mean=True), MEAN)


# --- what is observed ---


@pytest.mark.parametrize("final_mean", [False, True])
@pytest.mark.parametrize("n_steps", [1, 5])
@every_sampler
def test_observed_entries_come_back_bit_for_bit_and_missing_ones_filled(sample, n_steps, final_mean):
    x_known, missing = half_known()
    given = x_known.clone()
    x_0 = sample(oracle(), x_known, missing, SCHEDULE, n_steps=n_steps, final_mean=final_mean, generator=generator())
    assert torch.equal(x_0[~missing], given[~missing])
    assert torch.equal(x_known.nan_to_num(-1.0), given.nan_to_num(-1.0))  # the input is left alone
    assert torch.isfinite(x_0).all()
    assert (x_0 >= 0).all()
    assert (x_0.shape, x_0.dtype) == (x_known.shape, x_known.dtype)
    assert torch.equal(x_0, x_0.floor()) != final_mean


@every_sampler
def test_missing_entries_of_x_known_are_never_read(sample):
    x_known, missing = half_known()
    draws = [
        sample(oracle(), x_known.masked_fill(missing, filler), missing, SCHEDULE, n_steps=5, generator=generator(3))
        for filler in (float("nan"), 0.0, -5.0, 1e9)
    ]
    assert all(torch.equal(draws[0], other) for other in draws[1:])


@every_sampler
def test_nothing_missing(sample):
    x_known = torch.arange(12.0).reshape(3, 4)
    missing = torch.zeros(3, 4, dtype=torch.bool)
    assert torch.equal(sample(oracle(), x_known, missing, SCHEDULE, n_steps=3), x_known)


def test_conditioned_denoiser_sees_observed_entries_in_full():
    x_known, missing = half_known()
    denoise = Recorder()
    sample_conditioned(denoise, x_known, missing, SCHEDULE, n_steps=5, generator=generator())
    assert all(torch.equal(x_t[~missing], x_known[~missing]) for x_t in denoise.states)
    assert not denoise.states[0][missing].any()


@every_path
def test_remasked_denoiser_sees_observed_entries_thinned_to_its_time(known_path):
    x_known, missing = torch.full((20_000, 2), 12.0), torch.tensor([False, True]).expand(20_000, 2)
    denoise = Recorder()
    options = {"n_steps": 4, "n_resample": 2, "resample_window": 2, "known_path": known_path, "attrition": 0.5}
    x_0 = sample_remasked(denoise, x_known, missing, SCHEDULE, generator=generator(4), **options)
    assert not denoise.states[0].any()
    for t, x_t in zip(denoise.times[1:], denoise.states[1:], strict=True):
        prob = SCHEDULE.survival_prob(torch.tensor(t)).item()
        assert_law(x_t[:, 0], stats.binom(12, prob))
    assert (x_0[:, 0] == 12).all()


def joint_draws(known_path, *, later, earlier, **options):
    """Observed count of 5 at two calls of the denoiser, as one number: 6 times the later time's plus the earlier's."""
    x_known = torch.full((40_000, 1), 5.0)
    denoise = Recorder()
    sample_remasked(
        denoise, x_known, x_known < 0, SCHEDULE, n_steps=4, known_path=known_path, generator=generator(9), **options
    )
    t = [denoise.times[later], denoise.times[earlier]]
    return (6 * denoise.states[later] + denoise.states[earlier]).numpy().ravel(), SCHEDULE.survival_prob(
        torch.tensor(t, dtype=torch.float64)
    ).numpy()


def joint_law(p_t, p_s, *, independent):
    """Law of that number: of one trajectory that dies from s to t, or of two draws."""
    x_s, x_t = np.meshgrid(np.arange(6), np.arange(6))
    of_x_t = stats.binom.pmf(x_t, 5, p_t) if independent else stats.binom.pmf(x_t, x_s, p_t / p_s)
    pmf = (of_x_t * stats.binom.pmf(x_s, 5, p_s)).ravel()
    return stats.rv_discrete(values=(np.arange(36)[pmf > 0], pmf[pmf > 0] / pmf.sum()))


@pytest.mark.parametrize("resampled", [False, True])
@every_path
def test_coherent_path_is_one_trajectory_and_fresh_paths_are_independent(known_path, resampled):
    """Joint law at two times, going back, and going forward again before a window's second run."""
    options = {"n_resample": 2, "resample_window": 3} if resampled else {}
    # Calls without resampling: t = 1, 3/4, 1/2, 1/4. With it the window 3/4, 1/2, 1/4 is run again.
    draws, (p_t, p_s) = joint_draws(known_path, later=4 if resampled else 1, earlier=3, **options)
    assert_law(draws, joint_law(p_t, p_s, independent=known_path == "fresh" or resampled))
    if not resampled:
        assert p_value(draws, joint_law(p_t, p_s, independent=known_path == "coherent")) < ALPHA


def test_a_second_run_starts_from_the_trajectory_thinned_forward():
    """A window of one step: back to p_s, and thinned to p_t again, the first molecules are still mostly there."""
    draws, (p_t, _) = joint_draws("coherent", later=1, earlier=2, n_resample=2)
    first, second = draws // 6, draws % 6
    p_s = SCHEDULE.survival_prob(torch.tensor(0.5)).item()
    keep, revive = p_t / p_s, (p_s - p_t) / (1 - p_t) * p_t / p_s
    covariance = 5 * p_t * (1 - p_t) * (keep - revive)  # of one molecule, times 5: alive then, and alive again
    assert_mean((first - 5 * p_t) * (second - 5 * p_t), covariance)
    assert_law(second, stats.binom(5, p_t))


@every_sampler
def test_missing_entries_follow_the_forward_law_on_the_way(sample):
    """At each time the state has the law of a thinned count: NB with mean p(t) mu."""
    denoise = Recorder()
    missing = torch.ones(5000, 4, dtype=torch.bool)
    sample(denoise, torch.zeros(5000, 4), missing, SCHEDULE, n_steps=3, attrition=0.5, generator=generator(5))
    for t, x_t in zip(denoise.times[1:], denoise.states[1:], strict=True):
        assert_law(x_t, nb(MEAN * SCHEDULE.survival_prob(torch.tensor(t)).item(), DISPERSION))


# --- time ---


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_time_grid_runs_evenly_from_one_to_zero(n_steps):
    torch.testing.assert_close(time_grid(n_steps), 1 - torch.arange(n_steps + 1) / n_steps)
    assert time_grid(n_steps)[[0, -1]].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("n_steps", [1, 2, 7])
def test_conditioned_denoiser_is_called_once_at_each_time_but_the_last(n_steps):
    denoise = Recorder()
    sample_conditioned(denoise, *half_known(), SCHEDULE, n_steps=n_steps)
    assert denoise.times == time_grid(n_steps)[:-1].tolist()


@pytest.mark.parametrize(
    ("n_steps", "n_resample", "window", "visits"),
    [
        (1, 1, 1, [0]),
        (1, 5, 2, [0]),
        (4, 1, 1, [0, 1, 2, 3]),
        (4, 1, 3, [0, 1, 2, 3]),
        (4, 2, 1, [0, 1, 1, 2, 2, 3, 3]),
        (4, 2, 2, [0, 1, 2, 1, 2, 3, 3]),
        (4, 3, 9, [0, 1, 2, 3, 1, 2, 3, 1, 2, 3]),
    ],
)
def test_remasked_denoiser_visits_each_window_n_resample_times(n_steps, n_resample, window, visits):
    denoise = Recorder()
    sample_remasked(denoise, *half_known(), SCHEDULE, n_steps=n_steps, n_resample=n_resample, resample_window=window)
    assert denoise.times == time_grid(n_steps)[visits].tolist()
    assert len(visits) == 1 + (n_steps - 1) * n_resample


# --- chance and errors ---


@every_sampler
def test_generator_decides_everything(sample):
    def draw(seed):
        options = {"n_steps": 4, "attrition": "max", "generator": generator(seed)}
        return sample(oracle(), *half_known(), SCHEDULE, **options)

    state = torch.get_rng_state()
    assert torch.equal(draw(5), draw(5))
    assert not torch.equal(draw(5), draw(6))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("n_steps", [0, -3])
def test_no_transition(n_steps):
    with pytest.raises(ValueError, match=f"n_steps={n_steps} leaves no transition"):
        time_grid(n_steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "n_steps=0 leaves no transition"),
        ({"births": "nb"}, "births='nb' is not known"),
        ({"attrition": 1.5}, "attrition=1.5 is not an attrition schedule"),
        ({"attrition": torch.tensor([0.5, 2.0])}, "is not an attrition schedule"),
    ],
)
@every_sampler
def test_wrong_options(sample, options, message):
    with pytest.raises(ValueError, match=message):
        generate(sample, (2, 2), **{"n_steps": 2, **options})


@pytest.mark.parametrize(
    "options", [{"n_resample": 0}, {"resample_window": 0}, {"n_resample": -1, "resample_window": 2}]
)
def test_wrong_resampling(options):
    with pytest.raises(ValueError, match="must both be at least 1"):
        generate(sample_remasked, (2, 2), n_steps=3, **options)
