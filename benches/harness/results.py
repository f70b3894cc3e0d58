"""The folder of a run: README.md, the plots, and every measured time."""

import csv
import re
from pathlib import Path

from . import plots, report
from .measure import Measured

CALLS = ["model", "scenario", "contender", "setting", "round", "call", "tokens", "seconds", "floor_flop", "floor_bytes"]
ROUNDS = [
    "model", "scenario", "contender", "round", "peak_rss_mb", "padding", "first_loss", "flop_per_s", "bytes_per_s",
    "failure",
]
WITHOUT_PADDING = ["p50 ms", "p95 ms", "p99 ms", "tokens/s", "time over lorb-engine's", "floor", "peak memory"]
COLUMNS = {
    "throughput": ["tokens/s", "time over lorb-engine's", "floor", "padding", "peak memory", "setting"],
    "latency": [*WITHOUT_PADDING, "padding", "setting"],
    "small": WITHOUT_PADDING,
    "sets": ["tokens/s", "time over the first", "floor", "peak memory"],
}

# Whose lists' scores are compared: those of throughput are among them.
SCORED = ["latency", "small", "sizes", "lengths"]


class Results:
    def __init__(self, out: Path, title: str, environment: dict[str, str], command: str):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.calls, self.rounds, self.lines = out, [], [], []
        self.head = [f"# {title}", "", f"    {command}", ""]
        self.head += [f"- {key}: {value}" for key, value in environment.items()]
        self.head += ["", "[What is measured, and what the columns mean](../../README.md)."]
        # Of each model what was measured of it by now.
        self.found: dict[str, dict] = {}

    def add(self, model: str, key: str, measured) -> None:
        """One more scenario of a model. The files are written anew, so that a run that is cut keeps what it has."""
        self.found.setdefault(model, {})[key] = measured
        self.calls, self.rounds, self.lines = [], [], list(self.head)
        for name, found in self.found.items():
            self.model(name, found)
        self.write()

    def model(self, model: str, found: dict) -> None:
        """The scenarios of one model, in the order of `found`."""
        self.lines += ["", f"## {model}"]
        scored = [found[key] for key in SCORED if key in found]
        if scored:
            self.lines += ["", report.verdict(scored)]
        for key, measured in found.items():
            self.lines += ["", *(report.starts(measured) if key == "start" else self.section(model, key, measured))]
            self.keep(model, key, measured)
        if scored:
            self.lines += ["", *report.scores(scored)]

    def section(self, model: str, key: str, measured: Measured) -> list[str]:
        if key == "step":
            return report.training(measured)
        if key in COLUMNS:
            lines = report.section(measured, COLUMNS[key])
            return [*lines, "", self.plot(model, key, plots.latency, measured)] if key == "latency" else lines
        rows = measured.scenario.lists.rows
        if key == "sizes":
            sizes = [len(row["hyps"]) for row in rows]
            lines = report.scan(measured, "hypotheses", sizes)
            return [*lines, "", self.plot(model, key, plots.scan, measured, "hypotheses of a list", sizes)]
        lengths = [len(row["ref"].split()) + 2 for row in rows]
        lines = [*report.scan(measured, "tokens", lengths), *report.cost(measured, lengths), ""]
        lines.append(self.plot(model, key, plots.scan, measured, "tokens of a hypothesis", lengths))
        return [*lines, "", self.plot(model, "cost", plots.cost, measured, lengths)]

    def plot(self, model: str, name: str, draw, measured: Measured, *more) -> str:
        # A link in Markdown has no spaces.
        file = re.sub(r"[^\w.-]+", "-", f"{name}-{model}.svg")
        draw(measured, *more, self.out / file)
        return f"![{measured.scenario.title}]({file})"

    def keep(self, model: str, key: str, measured) -> None:
        if key == "start":
            for name, seconds in measured.items():
                if isinstance(seconds, str):
                    self.rounds.append(dict(model=model, scenario=key, contender=name, failure=seconds))
                    continue
                for number, s in enumerate(seconds, 1):
                    self.calls.append(dict(model=model, scenario=key, contender=name, round=number, seconds=s))
            return
        for outcome in [*measured.outcomes, measured.peak]:
            row = dict(model=model, scenario=key, contender=outcome.contender, setting=outcome.setting)
            if outcome.failure:
                self.rounds.append(row | {"failure": outcome.failure})
            for number, answer in enumerate(outcome.rounds, 1):
                self.rounds.append(answer | row | {"round": number})
                lists = ["tokens", "seconds", "floor_flop", "floor_bytes"]
                columns = {name: answer[name] for name in lists if name in answer}
                for call, values in enumerate(zip(*columns.values())):
                    self.calls.append(row | {"round": number, "call": call} | dict(zip(columns, values)))

    def write(self) -> None:
        for name, columns, rows in (("calls", CALLS, self.calls), ("rounds", ROUNDS, self.rounds)):
            with open(self.out / f"{name}.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        (self.out / "README.md").write_text("\n".join(self.lines) + "\n")
