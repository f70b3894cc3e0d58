#!/usr/bin/env python3
"""The learning curve of the runs in a CSV file of adaptation.py, as SVG: the share of the gap between first pass and
oracle that is closed, over the utterances to train and tune on. Needs matplotlib.

    python adaptation_plot.py runs.csv curve.svg
"""

import argparse
import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.plots import save


def closed(rows: list[dict]) -> float:
    """Of all rows' outer folds together, in percent."""
    first_pass, oracle, errors = (sum(int(row[name]) for row in rows) for name in ["first_pass", "oracle", "errors"])
    return 100 * (first_pass - errors) / (first_pass - oracle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("svg", type=Path)
    args = parser.parse_args()
    with args.csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["options"] == "" and row["errors"]]
    figure, axes = plt.subplots(figsize=(7, 4.5))
    systems = {(row["domain"], row["method"]) for row in rows if row["method"] != "none"}
    for domain, method in sorted(systems):
        own = [row for row in rows if (row["domain"], row["method"]) == (domain, method)]
        sizes = sorted({int(row["utterances"]) for row in own})
        # Only the seeds that have every size: points of other folds are no curve, and two points are none either.
        seeds = set.intersection(*({row["seed"] for row in own if row["utterances"] == str(n)} for n in sizes))
        if len(sizes) > 2 and seeds:
            points = [closed([r for r in own if r["utterances"] == str(n) and r["seed"] in seeds]) for n in sizes]
            axes.plot(sizes, points, marker="o", label=f"{domain}, {method} (seeds {' '.join(sorted(seeds))})")
    axes.axhline(0, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="utterances to train and tune on", ylabel="% of the gap closed")
    ticks = sorted({int(row["utterances"]) for row in rows})
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.legend()
    save(figure, args.svg)


if __name__ == "__main__":
    main()
