#!/usr/bin/env python3
"""The Python package beside the command line: the same lists from a file to a file, in alternation.

    python benches/python_speed.py --model BERT --adapter ADAPTER lists.jsonl

Needs the package (pip install ./python) and target/release/lorb-engine. The command's time is what it says that rescoring
took, without its start; the package's is that of the loop that reads, rescores and writes.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import lorb_engine


def by_command(args: argparse.Namespace, out: Path) -> float:
    adapter = ["--adapter", args.adapter] if args.adapter else []
    command = [args.engine, "rescore", "--model", args.model, *adapter, "--device", "cpu", "--threads", str(args.threads)]
    said = subprocess.run([*command, "--input", args.lists, "--output", str(out)], check=True, stderr=subprocess.PIPE, text=True)
    return float(re.search(r" in ([0-9.]+) s: ", said.stderr)[1])


def by_package(rescorer: lorb_engine.Rescorer, lists: str, out: Path) -> float:
    start = time.perf_counter()
    with open(out, "w") as file:
        for utterance in rescorer.rescore(lorb_engine.load_nbest(lists)):
            file.write(json.dumps(utterance) + "\n")
    return time.perf_counter() - start


def scores(path: Path) -> list[list[float]]:
    return [[h["lorb"] for h in json.loads(line)["hyps"]] for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists")
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter")
    parser.add_argument("--engine", default="target/release/lorb-engine")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rescorer = lorb_engine.Rescorer(model=args.model, adapter=args.adapter, device="cpu", threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        outs = Path(folder, "command"), Path(folder, "package")
        # The first round is not counted.
        rounds = [
            (by_command(args, outs[0]), by_package(rescorer, args.lists, outs[1])) for _ in range(args.rounds + 1)
        ][1:]
        same = scores(outs[0]) == scores(outs[1])
    command, package = (statistics.median(times) for times in zip(*rounds))
    ratio = statistics.median(package / command for command, package in rounds)
    print(f"command line {command:.2f} s, package {package:.2f} s: {ratio:.3f}x, medians of {args.rounds} rounds; ", end="")
    print("the same scores" if same else "NOT THE SAME SCORES")


if __name__ == "__main__":
    main()
