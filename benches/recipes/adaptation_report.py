#!/usr/bin/env python3
"""Markdown tables of the runs in a CSV file of adaptation.py: pooled over the outer folds, with paired bootstrap intervals.

    python adaptation_report.py runs.csv [--utterances 480] [--reference init]
    python adaptation_report.py --inner search.csv

An interval is of the 2.5 % and 97.5 % quantiles over 10,000 draws of utterances, which are pooled over folds and drawn
together for both sides of a difference, over the seeds that both sides have. Folds are disjoint, so each utterance was
judged by one seed. With --inner: the expected errors of the inner validation after each epoch, in percent of its words.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

SAMPLES = 10_000


def pooled(rows: list[dict]) -> dict[str, np.ndarray]:
    """Errors of all outer folds' utterances in a fixed order, and what they are measured against."""
    rows = sorted(rows, key=lambda row: int(row["seed"]))
    total = {name: sum(int(row[name]) for row in rows) for name in ["reference_words", "first_pass", "oracle"]}
    errors = np.concatenate([np.array(row["by_utterance"].split(), dtype=float) for row in rows])
    seconds = [float(row["user_seconds"]) for row in rows if row["user_seconds"]]
    epochs = " ".join(row["best_epoch"] for row in rows)
    return {**total, "errors": errors, "seeds": [row["seed"] for row in rows], "seconds": seconds, "epochs": epochs}


def interval(values: np.ndarray, of: dict) -> str:
    """The mean difference in points of WER, with its interval."""
    draws = np.random.default_rng(1).integers(0, len(values), (SAMPLES, len(values)))
    scale = 100 / of["reference_words"]
    low, high = np.quantile(scale * values[draws].sum(axis=1), [0.025, 0.975])
    return f"{scale * values.sum():+.2f} [{low:+.2f}, {high:+.2f}]"


def difference(rows: list[dict], others: list[dict]) -> str:
    """Of two methods, over the seeds that both have."""
    seeds = {row["seed"] for row in rows} & {row["seed"] for row in others}
    if rows is others or not seeds:
        return ""
    mine, theirs = (pooled([row for row in of if row["seed"] in seeds]) for of in [rows, others])
    return interval(mine["errors"] - theirs["errors"], mine)


def table(rows: list[dict], reference: str) -> None:
    systems: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        systems.setdefault((row["method"], row["options"]), []).append(row)
    against = systems.get((reference, ""), [])
    heads = ["", "seeds", "first pass", "oracle", "WER", "gap closed", "against none", f"against {reference}"]
    print("|" + "|".join(f" {head} " for head in [*heads, "best epochs", "CPU s a run"]) + "|")
    print("|---|---|" + "---:|" * 8)
    for (method, options), own in systems.items():
        s = pooled(own)
        words, first_pass, oracle, errors = s["reference_words"], s["first_pass"], s["oracle"], s["errors"].sum()
        cells = [
            f"{method} `{options}`" if options else method,
            " ".join(s["seeds"]),
            f"{100 * first_pass / words:.2f} %",
            f"{100 * oracle / words:.2f} %",
            f"**{100 * errors / words:.2f} %**",
            f"{100 * (first_pass - errors) / (first_pass - oracle):.1f} %",
            difference(own, systems.get(("none", ""), [])),
            difference(own, against),
            s["epochs"],
            f"{np.mean(s['seconds']):.0f}" if s["seconds"] else "",
        ]
        print("|" + "|".join(f" {cell} " for cell in cells) + "|")
    print()


def inner_table(rows: list[dict]) -> None:
    print("| domain, seed | options | steps | first pass | after each epoch | best | CPU s |")
    print("|---|---|---:|---:|---|---:|---:|")
    for row in rows:
        words = int(row["valid_words"])
        percent = [100 * float(expected) / words for expected in [row["valid_first_pass"], *row["valid_expected"].split()]]
        epochs = " ".join(f"{p:.2f}" for p in percent[1:])
        options = f"{row['method']} `{row['options']}`"
        print(
            f"| {row['domain']}, {row['seed']} | {options} | {row['steps']} | {percent[0]:.2f} % | {epochs} | "
            f"**{min(percent[1:]):.2f} %** | {float(row['user_seconds']):.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--utterances", default="480")
    parser.add_argument("--reference", default="init")
    parser.add_argument("--inner", action="store_true")
    args = parser.parse_args()
    with args.csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["utterances"] == args.utterances]
    if args.inner:
        return inner_table(rows)
    for domain in dict.fromkeys(row["domain"] for row in rows):
        print(f"### {domain}, {args.utterances} utterances to train and tune on\n")
        table([row for row in rows if row["domain"] == domain], args.reference)


if __name__ == "__main__":
    main()
