#!/usr/bin/env python3
"""Runs contenders in alternation and prints a Markdown table of medians, with ratios to the first contender.

    python alternate.py --rounds 5 "python baselines/rescore.py ort-fp32 --model DIR --data FILE" \\
        "python baselines/rescore.py torch-fp32 --model DIR --data FILE" --engine "lorb-engine bench ..."

A contender is a command that, for each line "go" on its stdin, runs one round and prints one line of JSON with a
"contender" name and numbers, and ends at "quit". The first round of each is not counted: it waits until all loaded.

Measure on a quiet machine: where anything else runs, OpenMP threads that spin at barriers make PyTorch several times
slower, and OMP_WAIT_POLICY=passive in the environment avoids most of that.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import time
from pathlib import Path


def one_round(process: subprocess.Popen) -> dict:
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{shlex.join(process.args)} ended with {process.wait()}")
    return json.loads(line)


def alternate(commands: list[list[str]], rounds: int) -> list[list[dict]]:
    """What each command answers in its rounds, the first of which is not counted."""
    processes = [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for c in commands]
    results: list[list[dict]] = [[] for _ in processes]
    try:
        for process in processes:
            one_round(process)
        for _ in range(rounds):
            for process, found in zip(processes, results):
                time.sleep(0.2)  # the worker threads of the previous one stop spinning
                found.append(one_round(process))
    finally:
        for process in processes:
            if process.poll() is None:
                process.communicate("quit\n")
    return results


def medians_of(rounds: list[dict]) -> dict:
    numbers = [key for key, value in rounds[0].items() if isinstance(value, (int, float))]
    return {key: statistics.median(r[key] for r in rounds) for key in numbers}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="*")
    parser.add_argument("--engine", action="append", default=[], metavar="CMD", help="one more contender, after them")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    commands = args.command + args.engine
    if not commands:
        parser.error("no contender")

    results = alternate([shlex.split(c) for c in commands], args.rounds)
    medians = [medians_of(found) for found in results]
    columns = list(dict.fromkeys(key for row in medians for key in row))
    print(f"{cpu_name()}; medians of {args.rounds} rounds, ratio to the first in brackets\n")
    print("| contender | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for found, row in zip(results, medians):
        cells = []
        for key in columns:
            first = medians[0].get(key)
            ratio = f" ({row[key] / first:.2f})" if key in row and first else ""
            cells.append(f"{row[key]:g}{ratio}" if key in row else "")
        print(f"| {found[0]['contender']} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
