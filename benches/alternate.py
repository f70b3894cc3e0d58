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
import os
import re
import shlex
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Run:
    """A contender, the rounds that count, and what it finds in its environment beside what is there."""

    command: list[str]
    rounds: int
    environment: dict[str, str] = field(default_factory=dict)


class Ended(Exception):
    """A contender that does not answer, and why."""


class Process:
    def __init__(self, run: Run):
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self.process = subprocess.Popen(
                run.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                env=os.environ | run.environment,
            )
        except OSError as error:
            raise Ended(str(error)) from error

    def round(self, limit: float) -> dict:
        """One answer, waited for as many seconds."""
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(limit, give_up)
        timer.start()
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if line and not late.is_set():
            return json.loads(line)
        code = self.process.wait()
        raise Ended(f"no answer in {limit:.0f} s" if late.is_set() else f"{self.last_words()} (exit status {code})")

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        # What a program says after its error is advice.
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        return (errors or lines or ["it ended without a word"])[-1]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.communicate("quit\n")


def play(runs: list[Run], limit: float = 3600) -> list[list[dict] | str]:
    """What each contender answers in its rounds, or why it could not; the first round of each is not counted. An
    answer may take `limit` seconds."""
    found: list[list[dict] | str] = [[] for _ in runs]
    processes: dict[int, Process] = {}

    def ask(i: int) -> dict | None:
        try:
            return processes[i].round(limit)
        except Ended as ended:
            found[i] = str(ended)
            del processes[i]
            return None

    try:
        for i, run in enumerate(runs):
            try:
                processes[i] = Process(run)
            except Ended as ended:
                found[i] = str(ended)
        for i in list(processes):
            ask(i)
        for number in range(max(run.rounds for run in runs)):
            for i in [i for i in processes if number < runs[i].rounds]:
                time.sleep(0.2)  # the worker threads of the previous one stop spinning
                if answer := ask(i):
                    found[i].append(answer)
    finally:
        for process in processes.values():
            process.end()
    return found


def alternate(commands: list[list[str]], rounds: int) -> list[list[dict]]:
    """What each command answers in its rounds, the first of which is not counted."""
    results = play([Run(command, rounds) for command in commands])
    for command, found in zip(commands, results):
        if isinstance(found, str):
            raise SystemExit(f"{shlex.join(command)}: {found}")
    return results


def medians_of(rounds: list[dict]) -> dict:
    numbers = [key for key, value in rounds[0].items() if isinstance(value, (int, float))]
    return {key: statistics.median(r[key] for r in rounds) for key in numbers}


def cpu_info(key: str) -> str:
    """What /proc/cpuinfo says of the first core."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def cpu_name() -> str:
    return cpu_info("model name")


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
