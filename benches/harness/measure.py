"""Measures one scenario: chooses each contender's best setting and how much it can do, then lets them alternate."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from alternate import Run, play

from .contenders import Contender, Job, Setting
from .data import Lists

# Of padded batches, where many lists are there at once.
BATCH_TOKENS = [1024, 4096, 16384]
PIECES = [1, 2, 4]
# A contender this many times slower than a round should take does fewer calls, and, if that is not enough, one round.
PATIENCE = 4
LIMIT_S = 900


@dataclass
class Effort:
    """How much is measured."""

    rounds: int
    # Of the engine's rounds.
    seconds: float
    quick: bool


@dataclass
class Scenario:
    key: str
    title: str
    lists: Lists
    threads: int
    # Lists of a call.
    together: int = 1
    # What is there to try; where there is one setting, that.
    settings: list[Setting] = field(default_factory=lambda: [Setting()])
    # All of the lists are measured, however long it takes: they are of different sizes.
    whole: bool = False
    # Utterances of a step, where it is training.
    utterances: int = 0

    @property
    def tokens(self) -> list[int]:
        """Of each call, about."""
        of_lists = self.lists.tokens
        if self.utterances:
            eight = [sum(len(h["text"].split()) + 2 for h in row["hyps"][:8]) for row in self.lists.rows]
            return [sum(eight[i : i + self.utterances]) for i in range(0, len(eight), self.utterances)]
        return [sum(of_lists[i : i + self.together]) for i in range(0, len(of_lists), self.together)]

    def job(self, calls: int, scores: Path | None = None) -> Job:
        count = calls if self.utterances else calls * self.together
        return Job(self.lists.path, count, self.together, self.threads, scores)


def choices(threads: int, together: bool) -> list[Setting]:
    """Of contenders that pad: all threads at one batch, or each at its own."""
    workers = [1, threads] if threads > 1 else [1]
    limits = BATCH_TOKENS if together else [None]
    return [Setting(w, limit) for w, limit in itertools.product(workers, limits)]


@dataclass
class Outcome:
    """What a contender did in a scenario."""

    contender: str
    precision: str
    setting: str = ""
    rounds: list[dict] = field(default_factory=list)
    failure: str = ""
    scores: Path | None = None

    @property
    def calls(self) -> int:
        return len(self.rounds[0]["seconds"])


@dataclass
class Measured:
    """A scenario's outcomes, the engine's first, and the rates of its floor."""

    scenario: Scenario
    outcomes: list[Outcome]
    peak: Outcome


class Session:
    """The contenders on one model, and what was learned of them."""

    def __init__(self, peak: Contender, effort: Effort, work: Path):
        self.peak, self.effort, self.work = peak, effort, work
        # Of each contender and kind of work: the best setting, and tokens a second.
        self.best: dict[tuple[str, str], tuple[Setting, float]] = {}
        self.failed: dict[tuple[str, str], str] = {}

    def tune(self, scenario: Scenario, contender: Contender, kind: str) -> None:
        """Tries the settings of a contender on a few calls, in alternation."""
        key = (contender.name, kind)
        if key in self.best or key in self.failed:
            return
        if contender.missing:
            self.failed[key] = contender.missing
            return
        settings = scenario.settings if contender.settings else [Setting()]
        if contender.setting_of:
            settings = [self.best.get((contender.setting_of, kind), (settings[0], 0.0))[0]]
        calls = 1 if scenario.together > 1 else 2 if self.effort.quick else 6
        job = scenario.job(min(calls, len(scenario.tokens)))
        if scenario.together > 1:
            # A part of a call is enough to choose by.
            job.count = min(job.count, 4 if self.effort.quick else 8)
        rounds = 1 if self.effort.quick else 2
        runs = [Run(contender.command(job, s), rounds, contender.variables(job, s)) for s in settings]
        say(f"  {contender.name}: {len(settings)} setting{'s' if len(settings) > 1 else ''}")
        rates = {}
        for setting, found in zip(settings, play(runs, LIMIT_S)):
            if isinstance(found, str):
                self.failed[key] = found
            else:
                rates[setting] = max(sum(r["tokens"]) / sum(r["seconds"]) for r in found)
        if rates:
            self.failed.pop(key, None)
            setting = max(rates, key=rates.get)
            self.best[key] = (setting, rates[setting])

    def run(self, scenario: Scenario, contenders: list[Contender], kind: str) -> Measured:
        """`kind`: what is like enough for its settings to be the same."""
        say(f"{scenario.title}")
        for contender in contenders:
            self.tune(scenario, contender, kind)
        engine = contenders[0].name
        if (engine, kind) not in self.best:
            raise SystemExit(f"{engine}: {self.failed[(engine, kind)]}")
        _, rate = self.best[(engine, kind)]
        calls = len(scenario.tokens) if scenario.whole else self.calls(scenario, rate * self.effort.seconds)

        outcomes, runs, running = [], [], []
        for contender in contenders:
            key = (contender.name, kind)
            outcome = Outcome(contender.name, contender.precision)
            outcomes.append(outcome)
            if key not in self.best:
                outcome.failure = self.failed[key]
                continue
            setting, rate = self.best[key]
            if scenario.threads == 1:
                setting = Setting()
            budget = PATIENCE * self.effort.seconds * rate
            count = min(calls, self.calls(scenario, budget))
            rounds = self.effort.rounds if sum(scenario.tokens[:count]) <= budget else 1
            told = [setting.name(scenario.threads)] if contender.settings else []
            outcome.setting = "; ".join([*told, *filter(None, [contender.note])])
            outcome.scores = self.work / f"scores-{scenario.key}-{contender.name.replace(' ', '-')}"
            job = scenario.job(count, outcome.scores)
            runs.append(Run(contender.command(job, setting), rounds, contender.variables(job, setting)))
            running.append(outcome)

        peak = Outcome(self.peak.name, "fp32")
        job = scenario.job(1)
        variables = self.peak.variables(job, Setting())
        runs.append(Run(self.peak.command(job, Setting()), self.effort.rounds, variables))
        say(f"  {len(runs) - 1} contenders, {calls} calls, {self.effort.rounds} rounds")
        for outcome, found in zip([*running, peak], play(runs, LIMIT_S)):
            if isinstance(found, str):
                outcome.failure = found
            else:
                outcome.rounds = found
        for outcome in (outcomes[0], peak):
            if outcome.failure:
                raise SystemExit(f"{outcome.contender}: {outcome.failure}")
        for outcome in outcomes:
            if outcome.failure:
                say(f"  {outcome.contender} did not run: {outcome.failure}")
        return Measured(scenario, outcomes, peak)

    @staticmethod
    def calls(scenario: Scenario, tokens: float) -> int:
        """The first calls that have about so many tokens; two at least, so that one is no accident."""
        sums = itertools.accumulate(scenario.tokens)
        return max(min(2, len(scenario.tokens)), sum(total <= tokens for total in sums))


def first_scores(commands: dict[str, list[str]], rounds: int, threads: int) -> dict[str, list[float] | str]:
    """Seconds from the start of each program to its first line, in alternation; the first of each is not counted, so
    that its files are in memory. Or why there is no line."""
    say("start to first score")
    found: dict[str, list[float] | str] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            if isinstance(found[name], str):
                continue
            environment = {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
            with tempfile.TemporaryFile("w+", errors="replace") as errors:
                start = time.perf_counter()
                ran = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment
                )
                line = ran.stdout.readline()
                seconds = time.perf_counter() - start
                ran.communicate()
                errors.seek(0)
                if not line or ran.returncode:
                    found[name] = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
                elif number:
                    found[name].append(seconds)
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
