#!/usr/bin/env python3
"""The roofline plot of traces that `lorb-engine rescore --profile` or `train --profile` wrote: each operation's rate over
its arithmetic intensity, beneath what the machine's multipliers and its memory could give. Needs matplotlib.

    lorb-engine bench --model MODEL --threads 1     # says the peak, in GFLOP/s of f32, and the bandwidth, in GB/s
    lorb-engine rescore … --threads 1 --profile f32.json
    python roofline.py --peak 118 --bandwidth 97 --svg roofline.svg f32.json bf16.json int8.json

The name of a trace is the type of its weights: bf16 multiplies twice as fast as f32 where the CPU can, and int8 four
times.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.plots import save

TIMES_PEAK = {"f32": 1, "bf16": 2, "int8": 4}
# Less of the time than this is no point of the plot.
LEAST_SHARE = 0.002


def operations(trace: Path) -> dict[str, tuple[float, float, float]]:
    """FLOP, bytes and seconds of each operation that multiplies, with the share of the time that is worth a point."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for event in json.loads(trace.read_text()):
        if event.get("cat") == "operation":
            args = event.get("args", {})
            for i, value in enumerate([args.get("flop", 0), args.get("bytes", 0), event["dur"] / 1e6]):
                sums[event["name"]][i] += value
    seconds = sum(s for _, _, s in sums.values())
    return {name: (f, b, s) for name, (f, b, s) in sums.items() if f and b and s > LEAST_SHARE * seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="+", type=Path, help="f32.json, bf16.json or int8.json")
    parser.add_argument("--peak", type=float, required=True, help="GFLOP/s of f32")
    parser.add_argument("--bandwidth", type=float, required=True, help="GB/s")
    parser.add_argument("--title", default="")
    parser.add_argument("--svg", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = plt.subplots(figsize=(8, 5))
    markers = dict(zip(["linear", "linear, GELU", "linear, residual", "attention", "pooler"], "osD^v"))
    intensities = [1, 1000]
    for i, trace in enumerate(args.traces):
        color, peak = f"C{i}", args.peak * TIMES_PEAK[trace.stem]
        knee = peak / args.bandwidth
        axes.plot([intensities[0], knee, intensities[1]], [args.bandwidth, peak, peak], color=color, linestyle="--")
        axes.text(intensities[1], peak, f" {trace.stem}: {peak:.0f}", color=color, va="center")
        for name, (flop, moved, seconds) in operations(trace).items():
            marker = markers.setdefault(name, "x")
            axes.plot(flop / moved, flop / seconds / 1e9, color=color, marker=marker, linestyle="", markersize=7)
    for name, marker in markers.items():
        axes.plot([], [], color="gray", marker=marker, linestyle="", label=name)
    axes.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP/s", title=args.title)
    axes.legend(loc="lower right")
    save(figure, args.svg)


if __name__ == "__main__":
    main()
