#!/usr/bin/env python3
"""The loss curves of training runs, as SVG: MWER of each step as a running mean, from their metrics. Needs matplotlib.

    python loss_curves.py --svg curves.svg f32=adapter-f32 bf16=adapter-bf16
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.plots import save

# Steps that a point is the mean of.
WINDOW = 20


def steps(adapter: Path) -> np.ndarray:
    """How far MWER lies below the first pass's, by step."""
    lines = map(json.loads, (adapter / "metrics.jsonl").read_text().splitlines())
    return np.array([line["mwer"] - line["mwer_without"] for line in lines if line["kind"] == "step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=DIR, an adapter's folder")
    parser.add_argument("--title", default="")
    parser.add_argument("--svg", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for run in args.runs:
        name, folder = run.split("=", 1)
        losses = steps(Path(folder))
        mean = np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")
        axes.plot(np.arange(len(mean)) + WINDOW, mean, label=name)
    axes.set(xlabel="step", ylabel=f"MWER less the first pass's, mean of {WINDOW} steps", title=args.title)
    axes.legend()
    save(figure, args.svg)


if __name__ == "__main__":
    main()
