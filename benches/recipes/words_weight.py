#!/usr/bin/env python3
"""How much evidence a weight for the number of words needs: tuned on few lists of a domain, judged on the others.

    python words_weight.py messaging.jsonl.gz clinic.jsonl.gz

The rule of `lorb-engine` (src/rescore/tune.rs): the weight that makes the fewest expected errors is kept where what it
gains is more than Z standard errors. Printed for each Z: the change of the errors on the other lists, the mean and the
worst of 40 draws, and how many draws kept a weight. Only the inner lists of seed 1 of adaptation.py take part.
"""

import argparse
import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from adaptation import errors_of, folds

WEIGHTS = np.concatenate([-np.geomspace(300, 0.25, 24), [0.0], np.geomspace(0.25, 300, 24)])
NONE = 24
RULES = [1.0, 1.5, 2.0, 3.0]
DRAWS = 40
CONFIDENCE = 0.7


@dataclass
class List:
    scores: np.ndarray
    words: np.ndarray
    errors: np.ndarray


def read(path: Path) -> list[List]:
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    outer = set(folds(len(rows))[0])
    return [
        List(
            np.array([h["am"] for h in row["hyps"]]),
            np.array([len(h["text"].split()) for h in row["hyps"]]),
            np.array([errors_of(row, i) for i in range(len(row["hyps"]))]),
        )
        for i, row in enumerate(rows)
        if i not in outer
    ]


def sharpness(lists: list[List]) -> float:
    """The scale at which the first pass alone has a mean confidence of CONFIDENCE."""
    low, high = np.log(1e-6), np.log(1e6)
    for _ in range(40):
        middle = (low + high) / 2
        sure = np.mean([1 / np.exp(np.exp(middle) * (one.scores - one.scores.max())).sum() for one in lists])
        low, high = (middle, high) if sure < CONFIDENCE else (low, middle)
    return float(np.exp(low))


def expected(one: List, scale: float) -> list[float]:
    """Expected errors at each of WEIGHTS."""
    scores = scale * (one.scores + WEIGHTS[:, None] * one.words)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (p * one.errors).sum(axis=1) / p.sum(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", type=Path)
    args = parser.parse_args()
    for path in args.domains:
        lists, rng = read(path), random.Random(1)
        combined = [one.scores + WEIGHTS[:, None] * one.words for one in lists]
        errors = np.array([one.errors[scores.argmax(axis=1)] for one, scores in zip(lists, combined)]).T
        for count in [5, 10, 20, 40, 96]:
            changes: dict[float, list[float]] = {rule: [] for rule in RULES}
            for _ in range(DRAWS):
                tuned = rng.sample(range(len(lists)), count)
                rest = sorted(set(range(len(lists))) - set(tuned))
                scale = sharpness([lists[i] for i in tuned])
                table = np.array([expected(lists[i], scale) for i in tuned])
                best = int(table.sum(axis=0).argmin())
                gains = table[:, NONE] - table[:, best]
                for rule in RULES:
                    weight = best if gains.sum() > rule * np.sqrt((gains**2).sum()) else NONE
                    changes[rule].append(100 * (errors[weight][rest].sum() / errors[NONE][rest].sum() - 1))
            told = [
                f"Z = {rule:g}: {np.mean(c):+.1f} % (worst {max(c):+.0f} %, {np.count_nonzero(c)} kept)"
                for rule, c in changes.items()
            ]
            print(path.name, count, "lists:", ", ".join(told), flush=True)


if __name__ == "__main__":
    main()
