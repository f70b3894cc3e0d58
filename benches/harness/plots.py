"""The SVG plots of a run."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
# The same numbers make the same file.
matplotlib.rcParams |= {"svg.hashsalt": "lorb-engine", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.3}

import matplotlib.pyplot as plt

from . import figures
from .measure import Measured


def save(figure, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def latency(measured: Measured, path: Path) -> None:
    """The share of lists that were done in a time, of those who did all of them."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    engine = measured.outcomes[0]
    for outcome in measured.outcomes:
        if outcome.rounds and outcome.calls == engine.calls:
            times = np.sort([1e3 * s for r in outcome.rounds for s in r["seconds"]])
            axes.plot(times, np.arange(1, len(times) + 1) / len(times), label=outcome.contender)
    floors = np.sort(1e3 * np.array(figures.floor_seconds(measured)))
    axes.plot(floors, np.arange(1, len(floors) + 1) / len(floors), "k--", label="floor")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="ms, one list", ylabel="share of lists", ylim=(0, 1.01))
    axes.set_title(measured.scenario.title)
    axes.legend()
    save(figure, path)


def scan(measured: Measured, unit: str, sizes: list[int], path: Path) -> None:
    """Tokens a second at each size."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    scan = figures.Scan(measured, sizes)
    for outcome in measured.outcomes:
        done = [(p, rate) for p, rate in zip(scan.points, scan.rates(outcome)) if rate]
        if done:
            axes.plot(*zip(*done), marker="o", label=outcome.contender)
    axes.plot(scan.points, scan.floor_rates(), "k--", marker=".", label="floor")
    axes.set(xscale="log", xlabel=unit, ylabel="tokens/s", ylim=(0, None))
    axes.set_xticks(scan.points, list(map(str, scan.points)))
    axes.minorticks_off()
    axes.set_title(measured.scenario.title)
    axes.legend()
    save(figure, path)


def cost(measured: Measured, lengths: list[int], path: Path) -> None:
    """Time against length, and the engine's as a part linear in tokens and one that is attention's square."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    scan = figures.Scan(measured, lengths)
    for outcome in measured.outcomes:
        done = [(p, 1e3 * t) for p, t in zip(scan.points, scan.times(outcome)) if t]
        if done:
            axes.plot(*zip(*done), marker="o", label=outcome.contender)
    fit = scan.cost()
    x = np.linspace(scan.points[0], scan.points[-1], 100)
    tokens = fit.hypotheses * x
    axes.plot(x, 1e3 * (fit.token * tokens + fit.pair * tokens * x), "k:", label="lorb-engine, fitted")
    axes.plot(x, 1e3 * fit.token * tokens, "k--", label="of that, linear in tokens")
    axes.set(xlabel="tokens of a hypothesis", ylabel="ms, one list", xlim=(0, None), ylim=(0, None))
    axes.set_title(measured.scenario.title)
    axes.legend()
    save(figure, path)
