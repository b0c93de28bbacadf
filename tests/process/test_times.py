"""Laws of the training time leave the objective as it is, and have exactly the times they say.

12 statistical tests at a false-alarm rate of 1e-4: 0.12% in all, once.
"""

import math

import numpy as np
import pytest
import torch
from laws import assert_mean, generator
from scipy import stats

from countsdiff_sc.process import (
    DiscreteTimes,
    ImportanceTimes,
    UniformTimes,
    get_loss_weighting,
    get_schedule,
    get_time_distribution,
)
from countsdiff_sc.process._times import times_at

SCHEDULES = ["cosine", "blackout", "jump"]
#: Midpoints of a fine partition of [0, 1]: quadrature of smooth integrands.
QUANTILES = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000


def loss(p):
    """Expected Poisson loss of a denoiser that is wrong by a factor 2, for a negative binomial count of mean 3.7."""
    y = (1 - p) * 3.7
    return 2 * y - y * torch.log(2 * y.clamp(min=1e-300))


def objective(times, schedule, loss_weighting, u=QUANTILES):
    """Average weighted loss at the quantiles ``u`` of a law of times, for a loss that vanishes as ``1 - p``."""
    t = times.at(schedule, u)
    return times.weighting(loss_weighting)(schedule, t) * loss(schedule.survival_prob(t))


# --- the objective ---


@pytest.mark.parametrize("loss_weighting", ["uniform", "paper", "likelihood", lambda schedule, t: 1 + t])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_importance_does_not_change_the_objective(schedule, loss_weighting):
    schedule = get_schedule(schedule)
    uniform, importance = (
        objective(times, schedule, loss_weighting).mean().item() for times in (UniformTimes(), ImportanceTimes())
    )
    assert importance == pytest.approx(uniform, rel=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_random_importance_times_are_unbiased(schedule):
    schedule = get_schedule(schedule)
    u = torch.rand(200_000, generator=generator(1)).double()
    exact = objective(UniformTimes(), schedule, "likelihood").mean().item()
    assert_mean(objective(ImportanceTimes(), schedule, "likelihood", u), exact)


def test_importance_has_less_variance_under_the_likelihood_weighting():
    """Of the loss of one molecule: lost with probability 1 - p, and then weighing 1 / (1 - p)."""
    schedule = get_schedule("blackout")
    second = {}
    for times in (UniformTimes(), ImportanceTimes()):
        t = times.at(schedule, QUANTILES)
        weight = times.weighting("likelihood")(schedule, t)
        second[type(times)] = ((1 - schedule.survival_prob(t)) * weight**2).mean().item()
    assert second[ImportanceTimes] < 0.5 * second[UniformTimes]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weight_of_the_likelihood_does_not_depend_on_the_schedule(schedule):
    schedule, u = get_schedule(schedule), torch.linspace(0.002, 0.99, 200, dtype=torch.float64)
    times = ImportanceTimes()
    weight = times.weighting("likelihood")(schedule, times.at(schedule, u))
    torch.testing.assert_close(weight, math.pi / torch.tan(0.5 * math.pi * u), rtol=1e-4, atol=1e-6)


def test_importance_of_cosine_is_uniform():
    u = torch.rand(1000, generator=generator(0))
    torch.testing.assert_close(ImportanceTimes().at(get_schedule("cosine"), u), u)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("loss_weighting", ["paper", "likelihood"])
def test_discrete_times_tend_to_continuous_ones_at_first_order(schedule, loss_weighting):
    schedule = get_schedule(schedule)
    continuous = objective(UniformTimes(), schedule, loss_weighting).mean().item()
    error = [
        abs(objective(DiscreteTimes(n), schedule, loss_weighting).mean().item() / continuous - 1) for n in (100, 1000)
    ]
    assert error[0] < 0.1
    assert error[1] == pytest.approx(error[0] / 10, rel=0.1)


def test_discrete_likelihood_is_the_birth_probability_and_paper_that_of_blackouts_own_clock():
    schedule, n_times = get_schedule("blackout"), 50
    k = torch.arange(1, n_times + 1, dtype=torch.float64)
    earlier, p = schedule.survival_prob((k - 1) / n_times), schedule.survival_prob(k / n_times)
    likelihood = get_loss_weighting("likelihood", n_times=n_times)(schedule, k / n_times)
    torch.testing.assert_close(likelihood, n_times * (earlier - p) / (1 - p))
    assert likelihood[0] == n_times  # the last step gives birth to everything
    clock, earlier_clock = -p[:-1].log(), -earlier[:-1].log()
    paper = get_loss_weighting("paper", n_times=n_times)(schedule, k / n_times)
    torch.testing.assert_close(paper[:-1], n_times * (-clock).exp() * (clock - earlier_clock))
    assert paper[-1] == 0.0
    assert torch.equal(get_loss_weighting("uniform", n_times=n_times)(schedule, k), torch.ones(n_times).double())


def test_discrete_likelihood_is_the_chains_bound():
    """-log P of the births of a chain with Poisson births, by enumeration, differs from the loss by a constant."""
    schedule, n_times, x_0 = get_schedule("cosine"), 4, 3
    p = schedule.survival_prob(torch.arange(n_times + 1, dtype=torch.float64) / n_times).numpy()
    t = torch.arange(1, n_times + 1, dtype=torch.float64) / n_times
    weight = get_loss_weighting("likelihood", n_times=n_times)(schedule, t).numpy() / n_times
    support, gaps = np.arange(x_0 + 1), []
    for factor in (0.3, 1.0, 2.5):
        chain = loss_sum = 0.0
        for k in range(1, n_times + 1):
            beta = (p[k - 1] - p[k]) / (1 - p[k])
            for x_t, prob in enumerate(stats.binom.pmf(support, x_0, p[k])):
                y, expected = x_0 - x_t, factor * (1 + x_t) * (1 - p[k])
                births = np.arange(y + 1)
                cross_entropy = -stats.poisson.logpmf(births, beta * expected) @ stats.binom.pmf(births, y, beta)
                chain += prob * cross_entropy
                loss_sum += prob * weight[k - 1] * (expected - y * np.log(expected))
        gaps.append(chain - loss_sum)
    assert max(gaps) - min(gaps) == pytest.approx(0.0, abs=1e-9)


# --- the times ---


@pytest.mark.parametrize("n_times", [1, 7, 511, 1000, 2**20])
def test_discrete_times_are_all_of_k_over_t_and_no_others(n_times):
    edges = torch.arange(n_times, dtype=torch.float64) / n_times
    inside = torch.cat([edges + 0.25 / n_times, edges + 0.75 / n_times])
    t = DiscreteTimes(n_times).at(None, inside)
    exact = torch.arange(1, n_times + 1, dtype=torch.float64) / n_times
    assert torch.equal(t, torch.cat([exact, exact]))  # from 1/T, not 0, to 1: each as often as any other
    extremes = torch.tensor([0.0, 1.0 - 2.0**-24])  # the least and the largest number that torch.rand gives
    assert DiscreteTimes(n_times).at(None, extremes).tolist() == [torch.tensor(1 / n_times).item(), 1.0]


@pytest.mark.parametrize("n_times", [7, 1000, 2**20])
def test_single_precision_does_not_shift_a_step(n_times):
    schedule = get_schedule("blackout")
    exact = torch.arange(1, n_times + 1, dtype=torch.float64) / n_times
    for name in ("paper", "likelihood"):
        weighting = get_loss_weighting(name, n_times=n_times)
        torch.testing.assert_close(weighting(schedule, exact.float()), weighting(schedule, exact).float())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_importance_times_have_an_arcsine_survival_probability(schedule):
    schedule = get_schedule(schedule)
    t = ImportanceTimes().at(schedule, torch.rand(20_000, generator=generator(3)).double())
    p = schedule.survival_prob(t).numpy()
    assert stats.kstest(p, stats.arcsine.cdf).pvalue > 1e-4


@pytest.mark.parametrize("times", ["uniform", "importance", 10])
@pytest.mark.parametrize("loss_weighting", ["uniform", "paper", "likelihood"])
@pytest.mark.parametrize("schedule", [*SCHEDULES, lambda t: 1 - t])
def test_weights_are_finite_at_every_time_that_can_be_drawn_and_at_one(schedule, loss_weighting, times):
    schedule, times = get_schedule(schedule), get_time_distribution(times)
    u = torch.cat([torch.arange(1000) * 2.0**-24, torch.linspace(0, 1 - 2.0**-24, 1000)])
    t = torch.cat([times.at(schedule, u), torch.ones(1)])
    weight = times.weighting(loss_weighting)(schedule, t)
    assert (t.dtype, weight.dtype) == (u.dtype, u.dtype)
    assert ((t >= 0) & (t <= 1)).all()
    assert torch.isfinite(weight).all()
    assert (weight >= -1e-6).all()


def test_times_at_inverts_the_schedule():
    schedule, p = get_schedule("cosine"), torch.tensor([1e-6, 0.3, 1 - 1e-6], dtype=torch.float64)
    torch.testing.assert_close(schedule.survival_prob(times_at(schedule, p)), p, rtol=1e-8, atol=0)


# --- names ---


def test_get_time_distribution():
    assert isinstance(get_time_distribution("uniform"), UniformTimes)
    assert isinstance(get_time_distribution("importance"), ImportanceTimes)
    assert get_time_distribution(np.int64(12)).n_times == 12
    own = DiscreteTimes(3)
    assert get_time_distribution(own) is own


@pytest.mark.parametrize("value", ["discrete", None, 10.0, True])
def test_unknown_time_distribution(value):
    with pytest.raises(ValueError, match=r"is not known. It must be 'uniform', 'importance' or a number .* Pass one"):
        get_time_distribution(value)


@pytest.mark.parametrize("n_times", [0, -5, 2**20 + 1])
def test_number_of_times_out_of_range(n_times):
    with pytest.raises(ValueError, match="out of range. A number of discrete times must be between 1 and 2"):
        get_time_distribution(n_times)
