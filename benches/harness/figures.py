"""What rounds come to: rates, ratios, floors, and how far scores agree."""

import statistics
from dataclasses import dataclass

import numpy as np

from .measure import Measured, Outcome

# Of f32 scores of one model by two programs: what sums in another order may differ by.
AGREE = 1e-5


def rate(outcome: Outcome) -> float:
    """Tokens a second: the median of the rounds."""
    return statistics.median(sum(r["tokens"]) / sum(r["seconds"]) for r in outcome.rounds)


def milliseconds(outcome: Outcome, percent: float) -> float:
    """A percentile of all calls of all rounds."""
    return 1e3 * float(np.percentile([s for r in outcome.rounds for s in r["seconds"]], percent))


def memory_mb(outcome: Outcome) -> float:
    return max(r["peak_rss_mb"] for r in outcome.rounds)


def seconds(outcome: Outcome, calls: slice) -> list[float]:
    """Of some of the calls, round by round."""
    return [sum(r["seconds"][calls]) for r in outcome.rounds]


def ratio(outcome: Outcome, to: Outcome) -> float:
    """How many times as long `outcome` takes for the calls that both made: the median over the rounds of both."""
    both = slice(min(outcome.calls, to.calls))
    pairs = zip(seconds(outcome, both), seconds(to, both))
    return statistics.median(a / b for a, b in pairs)


def floor_seconds(measured: Measured) -> list[float]:
    """Of each call, what cannot be avoided at the rates measured between the rounds."""
    flop_per_s, bytes_per_s = rates(measured)
    engine = measured.outcomes[0].rounds[0]
    return [max(f / flop_per_s, b / bytes_per_s) for f, b in zip(engine["floor_flop"], engine["floor_bytes"])]


def rates(measured: Measured) -> tuple[float, float]:
    """FLOP and bytes a second."""
    rounds = measured.peak.rounds
    return tuple(statistics.median(r[key] for r in rounds) for key in ("flop_per_s", "bytes_per_s"))


def floor_rate(measured: Measured, outcome: Outcome) -> float:
    """Tokens a second at the floor, of the calls that `outcome` made."""
    return sum(outcome.rounds[0]["tokens"]) / sum(floor_seconds(measured)[: outcome.calls])


@dataclass
class Cost:
    """Seconds = token * tokens + pair * tokens * length, fitted."""

    token: float
    pair: float
    # The largest relative distance of a measured time.
    apart: float
    hypotheses: float


class Scan:
    """Calls in groups of one size: `sizes` is that of each call, in rising order."""

    def __init__(self, measured: Measured, sizes: list[int]):
        self.measured = measured
        self.points = sorted(set(sizes))
        self.groups = [slice(sizes.index(p), sizes.index(p) + sizes.count(p)) for p in self.points]
        engine = measured.outcomes[0].rounds[0]
        self.tokens = [sum(engine["tokens"][g]) for g in self.groups]

    def times(self, outcome: Outcome) -> list[float | None]:
        """Seconds of a call of each size, the median of the rounds; `None` where not all were made."""
        made = outcome.calls if outcome.rounds else 0
        return [
            statistics.median(seconds(outcome, g)) / (g.stop - g.start) if g.stop <= made else None
            for g in self.groups
        ]

    def rates(self, outcome: Outcome) -> list[float | None]:
        """Tokens a second."""
        calls = [g.stop - g.start for g in self.groups]
        return [tokens / n / t if t else None for tokens, n, t in zip(self.tokens, calls, self.times(outcome))]

    def floor_rates(self) -> list[float]:
        floors = floor_seconds(self.measured)
        return [tokens / sum(floors[g]) for tokens, g in zip(self.tokens, self.groups)]

    def cost(self) -> Cost:
        """Of the engine, where the sizes are lengths of sequences: least squares of relative errors."""
        times = np.array(self.times(self.measured.outcomes[0]))
        tokens = np.array([t / (g.stop - g.start) for t, g in zip(self.tokens, self.groups)])
        lengths = np.array(self.points)
        terms = np.stack([tokens, tokens * lengths], axis=1) / times[:, None]
        (token, pair), *_ = np.linalg.lstsq(terms, np.ones(len(times)), rcond=None)
        apart = float(np.abs(terms @ [token, pair] - 1).max())
        return Cost(float(token), float(pair), apart, float((tokens / lengths).mean()))


@dataclass
class Agreement:
    """Scores of one contender beside the engine's."""

    contender: str
    precision: str
    hypotheses: int
    largest: float
    mean: float
    # Lists whose best hypothesis by this score is the engine's, or scores within AGREE of it.
    same_best: int
    lists: int
    # Standard deviation of the engine's scores.
    spread: float


def agreements(scenarios: list[Measured]) -> list[Agreement]:
    """Of all scores that were written, with those of the engine's first contender."""
    found = []
    for i, first in enumerate(scenarios[0].outcomes):
        pairs = []
        for measured in scenarios:
            engine, other = measured.outcomes[0], measured.outcomes[i]
            if other.rounds and engine is not other:
                pairs += zip(read(engine), read(other))
        if pairs:
            difference = np.abs(np.concatenate([a - b for a, b in pairs]))
            # NaN is no agreement, and stays.
            same = sum(bool(a[np.argmax(b)] >= a.max() - AGREE) for a, b in pairs)
            spread = float(np.std(np.concatenate([a for a, _ in pairs])))
            largest, mean = float(difference.max()), float(difference.mean())
            found.append(
                Agreement(
                    first.contender, first.precision, len(difference), largest, mean, same, len(pairs), spread
                )
            )
    return found


def read(outcome: Outcome) -> list[np.ndarray]:
    return [np.array(line.split(), dtype=float) for line in outcome.scores.read_text().splitlines()]
