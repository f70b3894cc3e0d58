"""The Markdown of a run."""

import statistics

from . import figures
from .measure import Measured, Outcome


def table(head: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * left + "---:|" * (len(head) - left)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def about(measured: Measured) -> str:
    """One sentence of what was measured."""
    flop_per_s, bytes_per_s = figures.rates(measured)
    engine = measured.outcomes[0]
    tokens, threads = sum(engine.rounds[0]["tokens"]), measured.scenario.threads
    return (
        f"{engine.calls} calls, {tokens:,} tokens, {threads} thread{'s' if threads > 1 else ''}; "
        f"the floor at {flop_per_s / 1e9:.0f} GFLOP/s and {bytes_per_s / 1e9:.1f} GB/s."
    )


def times_column(outcome: Outcome, engine: Outcome) -> str:
    return "" if outcome is engine else f"{figures.ratio(outcome, engine):.2f}x"


def common_cells(measured: Measured, outcome: Outcome) -> dict[str, str]:
    """The columns that most tables choose from."""
    engine = measured.outcomes[0]
    rate, floor = figures.rate(outcome), figures.floor_rate(measured, outcome)
    cells = {
        "tokens/s": number(rate),
        "p50 ms": number(figures.milliseconds(outcome, 50)),
        "p95 ms": number(figures.milliseconds(outcome, 95)),
        "p99 ms": number(figures.milliseconds(outcome, 99)),
        "time over lorb-engine's": times_column(outcome, engine),
        "time over the first": times_column(outcome, engine),
        "floor": f"{number(floor)} tokens/s: {rate / floor:.0%}",
        "padding": f"{outcome.rounds[0].get('padding', 0):.1%}",
        "peak memory": f"{figures.memory_mb(outcome):,.0f} MB",
        "setting": outcome.setting,
    }
    if outcome.calls < engine.calls or len(outcome.rounds) < len(engine.rounds):
        cells["setting"] += f" (slow: {outcome.calls} calls, {len(outcome.rounds)} rounds)"
    return cells


def section(measured: Measured, columns: list[str]) -> list[str]:
    """A scenario's table, and those that did not run."""
    head, rows = ["contender", *columns], []
    for outcome in measured.outcomes:
        if outcome.rounds:
            cells = common_cells(measured, outcome)
            rows.append([outcome.contender, *(cells[c] for c in columns)])
    lines = [f"### {measured.scenario.title}", "", about(measured), "", *table(head, rows)]
    return lines + failures([(o.contender, o.failure) for o in measured.outcomes if o.failure])


def failures(failed: list[tuple[str, str]]) -> list[str]:
    return ["", *(f"- **{name} did not run**: {why}" for name, why in failed)] if failed else []


def scan(measured: Measured, unit: str, sizes: list[int]) -> list[str]:
    """Tokens a second at each size, `sizes` being that of each call."""
    found = figures.Scan(measured, sizes)
    ran = [o for o in measured.outcomes if o.rounds]
    columns = [found.floor_rates(), *(found.rates(o) for o in ran)]
    rows = [
        [str(point), *(number(rate) if rate else "" for rate in rates)]
        for point, *rates in zip(found.points, *columns)
    ]
    lines = [f"### {measured.scenario.title}", "", "Tokens a second. " + about(measured), ""]
    lines += table([unit, "floor", *(o.contender for o in ran)], rows, left=0)
    return lines + failures([(o.contender, o.failure) for o in measured.outcomes if o.failure])


def cost(measured: Measured, lengths: list[int]) -> list[str]:
    fit = figures.Scan(measured, lengths).cost()
    return [
        "",
        f"lorb-engine's time is {1e6 * fit.token:.1f} us a token and {1e9 * fit.pair:.1f} ns for each pair of tokens of a "
        f"hypothesis, which is attention's square; no length is more than {fit.apart:.0%} from that.",
    ]


def training(measured: Measured) -> list[str]:
    columns = ["p50 ms", "p95 ms", "tokens/s", "time over lorb-engine's", "floor", "padding", "peak memory", "setting"]
    lines = section(measured, columns)
    by_name = {o.contender: o for o in measured.outcomes if o.rounds}
    engine, peft, full = (by_name.get(name) for name in ("lorb-engine", "torch-peft", "torch-full"))
    if peft and full:
        within, against = figures.ratio(full, peft), figures.ratio(peft, engine)
        of = {o.contender: figures.memory_mb(o) for o in (engine, peft, full)}
        saved = of["torch-full"] / of["torch-peft"], of["torch-peft"] / of["lorb-engine"]
        rows = [
            ["within PyTorch: full fine-tuning to LoRA", f"{within:.2f}x", f"{saved[0]:.2f}x"],
            ["LoRA: PyTorch + PEFT to lorb-engine", f"{against:.2f}x", f"{saved[1]:.2f}x"],
            ["their product", f"{within * against:.2f}x", f"{saved[0] * saved[1]:.2f}x"],
        ]
        lines += ["", *table(["a step", "time", "peak memory"], rows)]
    losses = {o.contender: o.rounds[0]["first_loss"] for o in by_name.values()}
    exact = [losses[o.contender] for o in by_name.values() if o.precision == "fp32"]
    said = ", ".join(f"{name} {loss:.7f}" for name, loss in losses.items())
    apart = max(exact) - min(exact)
    verdict = "those in fp32 agree" if apart <= figures.AGREE else "**those in fp32 do not agree**"
    return [*lines, "", f"Loss of the first step, before anything moved: {said}; {verdict} (at most {apart:.1e} apart)."]


def starts(found: dict[str, list[float] | str]) -> list[str]:
    medians = {name: 1e3 * statistics.median(s) for name, s in found.items() if not isinstance(s, str)}
    engine = medians.get("lorb-engine")
    rows = [
        [name, number(ms), "" if name == "lorb-engine" or not engine else f"{ms / engine:.2f}x"]
        for name, ms in medians.items()
    ]
    head = ["contender", "p50 ms", "time over lorb-engine's"]
    lines = ["### Start to first score", "", "From the start of the program to the score of one text of 8 words.", ""]
    failed = [(name, why) for name, why in found.items() if isinstance(why, str)]
    return [*lines, *table(head, rows), *failures(failed)]


def verdict(scenarios: list[Measured]) -> str:
    """Whether those agree that should."""
    exact = [a for a in figures.agreements(scenarios) if a.precision == "fp32"]
    if not exact:
        return "No other fp32 contender ran: no scores to compare."
    worst = max(exact, key=lambda a: a.largest)
    agree = "agree" if all(a.largest <= figures.AGREE for a in exact) else "**do not agree**"
    return (
        f"The scores of {', '.join(a.contender for a in exact)} {agree} with lorb-engine's, which have a standard "
        f"deviation of {worst.spread:.2g}: they are at most {worst.largest:.1e} apart ({worst.contender})."
    )


def scores(scenarios: list[Measured]) -> list[str]:
    rows = [
        [
            a.contender,
            a.precision,
            f"{a.hypotheses:,}",
            f"{a.largest:.1e}",
            f"{a.mean:.1e}",
            f"{a.same_best} of {a.lists}",
        ]
        for a in figures.agreements(scenarios)
    ]
    head = ["contender", "precision", "hypotheses", "largest difference", "mean difference", "same best of a list"]
    return ["### Scores beside lorb-engine's", "", *table(head, rows, left=2)]
