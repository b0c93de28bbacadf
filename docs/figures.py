"""Draw the figures of theory.md into _static; run as ``python docs/figures.py``.

Uses only ``countsdiff_sc.process``: no data, no network.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch

from countsdiff_sc import process

STATIC = Path(__file__).parent / "_static"
SEED = 0
#: The negative binomial of all figures: mean (molecules) and inverse dispersion.
MEAN, DISPERSION = 3.7, 1.11
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]  # distinguishable with colour blindness


def oracle(schedule: process.SurvivalSchedule) -> process.GammaPoissonOracle:
    return process.GammaPoissonOracle(torch.tensor(MEAN), torch.tensor(DISPERSION), schedule)


def draw_schedules() -> plt.Figure:
    figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    t = torch.linspace(0.0, 1.0, 201)
    for name, color, style in zip(("cosine", "blackout", "jump"), COLORS, ("-", "--", "-."), strict=False):
        ax.plot(t, process.get_schedule(name).survival_prob(t), color=color, linestyle=style, label=name)
    ax.set(xlabel="time $t$", ylabel="survival probability $p(t)$", xlim=(0, 1), ylim=(-0.02, 1.02))
    ax.legend(frameon=False)
    return figure


def draw_clocks(*, n_steps: int = 20) -> plt.Figure:
    """Left: p in the clock in which blackout is even. Middle: what equal steps of time make of it. Right: cosine's clock."""
    figure, (logit, steps, angle) = plt.subplots(1, 3, figsize=(9.2, 3.4), width_ratios=(3, 2, 3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08)
    t = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
    for column, (name, color, style) in enumerate(
        zip(("cosine", "blackout", "jump"), COLORS, ("-", "--", "-."), strict=False)
    ):
        survival = process.get_schedule(name).survival_prob(t)
        # No curve has a logit where no molecule, or each one, is gone.
        logit.plot(t[1:-1], torch.logit(survival[1:-1]), color=color, linestyle=style, label=name)
        angle.plot(t, survival.sqrt().arccos() * 2.0 / torch.pi, color=color, linestyle=style)
        p = process.get_schedule(name).survival_prob(process.time_grid(n_steps).double())
        n_middle = int(((p > 0.01) & (p < 0.99)).sum())
        print(
            f"{name}: {n_middle} of the {n_steps - 1} times between {n_steps} equal steps have p between 0.01 and 0.99"
        )
        steps.hlines(torch.logit(p[1:-1]), column - 0.32, column + 0.32, color=color, linewidth=1.1)
    labels = {1e-6: "$10^{-6}$", 1e-4: "$10^{-4}$", 1e-2: "0.01", 0.5: "0.5", 0.99: "0.99"}
    labels |= {1 - 1e-4: "$1-10^{-4}$", 1 - 1e-6: "$1-10^{-6}$"}
    ticks = torch.logit(torch.tensor(list(labels), dtype=torch.float64)).tolist()
    for ax in (logit, steps):
        ax.axhspan(ticks[2], ticks[4], color="0.93", zorder=0)
        ax.set(yticks=ticks, yticklabels=list(labels.values()), ylim=(-16.5, 16.5))
    logit.set(
        xlabel="time $t$", ylabel="$p$, even in logit $p$", xlim=(0, 1), title="Blackout is straight in logit $p$"
    )
    logit.legend(frameon=False, loc="lower left")
    steps.tick_params(axis="y", labelleft=False)
    steps.set(xticks=range(3), xticklabels=["cosine", "blackout", "jump"], title=f"{n_steps} equal steps of time")
    angle.set(xlabel="time $t$", ylabel=r"$(2 / \pi)\, \arccos \sqrt{p}$", xlim=(0, 1), ylim=(0, 1))
    angle.set_title("Cosine is straight in the angle")
    return figure


def draw_trajectories(*, n_paths: int = 5, n_steps: int = 100, x_0: int = 12) -> plt.Figure:
    schedule, generator = process.CosineSchedule(), torch.Generator().manual_seed(SEED)
    times = process.time_grid(n_steps)
    survival = schedule.survival_prob(times)

    def forward() -> torch.Tensor:
        paths = [torch.full((n_paths,), float(x_0))]
        for p_s, p_t in pairwise(survival.flip(0)):
            paths.append(process.thin(paths[-1], p_t / p_s, generator=generator))
        return torch.stack(paths)

    def reverse(attrition: object) -> torch.Tensor:
        denoise, sigma = oracle(schedule), process.get_attrition(attrition)
        paths = [torch.zeros(n_paths)]
        for t, p_t, p_s in zip(times[:-1], survival[:-1], survival[1:], strict=True):
            n_deaths = process.negative_binomial_births(*denoise(paths[-1], t), generator)
            paths.append(
                process.birth_death_step(
                    paths[-1], n_deaths, p_s=p_s, p_t=p_t, attrition=sigma(p_s, p_t), generator=generator
                )
            )
        return torch.stack(paths)

    panels = (
        (f"forward from $x_0 = {x_0}$", times.flip(0), forward()),
        ("reverse, no attrition", times, reverse(None)),
        ("reverse, attrition 0.02 a step", times, reverse(process.capped_attrition(0.02))),
    )
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.0), sharey=True, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    for ax, (title, t, paths) in zip(axes, panels, strict=True):
        for index, color in enumerate(COLORS):
            # Each step up or down happens somewhere inside its interval; a hair's offset keeps paths apart.
            ax.step(t, paths[:, index] + 0.06 * (index - 2), where="post", color=color, linewidth=1.3)
        ax.set(title=title, xlabel="time $t$", xlim=(float(t[0]), float(t[-1])))
    axes[0].set_ylabel("molecules")
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_variance(*, n_draws: int = 40_000) -> plt.Figure:
    schedule = process.CosineSchedule()
    n_steps = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    nowhere = torch.zeros(n_draws, 1)
    rules = {"negative_binomial": ("o", "-"), "poisson": ("s", "--"), "stochastic": ("^", "-."), "nearest": ("v", ":")}
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    for ax, name, truth in zip(axes, ("mean", "variance"), (MEAN, MEAN + MEAN**2 / DISPERSION), strict=True):
        ax.axhline(truth, color="0.4", linewidth=1.0, label="truth")
        ax.set_xscale("log", base=2)
        ax.set_xticks(n_steps, [str(n) for n in n_steps])
        ax.set(xlabel="number of steps", ylabel=f"{name} of the draws", ylim=(0, 1.12 * truth))
    for (births, (marker, style)), color in zip(rules.items(), COLORS, strict=False):
        moments = []
        for n in n_steps:
            draws = process.sample_conditioned(
                oracle(schedule),
                nowhere,
                torch.ones_like(nowhere, dtype=torch.bool),
                schedule,
                n_steps=n,
                births=births,
                generator=torch.Generator().manual_seed(SEED),
            )
            moments.append((float(draws.mean()), float(draws.var())))
        look = {
            "marker": marker,
            "markersize": 4,
            "linestyle": style,
            "color": color,
            "label": births.replace("_", " "),
        }
        for ax, name, values in zip(axes, ("mean", "variance"), zip(*moments, strict=True), strict=True):
            print(births, name, dict(zip(n_steps, [round(v, 2) for v in values], strict=True)))
            ax.plot(n_steps, values, **look)
    axes[0].legend(frameon=False, loc="lower left")
    return figure


def main() -> None:
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130})
    STATIC.mkdir(exist_ok=True)
    for draw in (draw_schedules, draw_clocks, draw_trajectories, draw_variance):
        figure, name = draw(), draw.__name__.removeprefix("draw_")
        figure.savefig(STATIC / f"{name}.png", metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
