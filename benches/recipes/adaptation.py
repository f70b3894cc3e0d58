#!/usr/bin/env python3
"""Adapts to small domains by nested cross-validation, and keeps the raw numbers of every run in a CSV file.

    python adaptation.py --engine target/release/lorb-engine --model MODEL --init LIBRISPEECH_ADAPTER \\
        --csv runs.csv messaging.jsonl.gz clinic.jsonl.gz
    python adaptation_report.py runs.csv
    python adaptation.py --inner --seeds 1 --methods scratch --options "--hyps 4" --csv search.csv ...

The utterances of a domain are parted into five folds by a draw whose seed is fixed. In the run of seed S, fold S is the
outer one: nothing but the last count of errors sees it. `lorb-engine train --valid 0.2` chooses the epoch and the weights
within the other four. Each run is judged whole, without its n-gram model (METHOD-alone), and without its adapter: with the
n-gram model (ngram) and without it (none). With --inner the outer fold is left alone, so that options can be chosen by
what the inner validation found. A run that the CSV file has is not repeated, so what was interrupted goes on; --quick
is a trial of one domain, seed and short run. Needs numpy, and nothing else.
"""

import argparse
import csv
import gzip
import json
import os
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "baselines"))
from lists import word_errors

FOLDS = 5
FIELDS = [
    "domain", "seed", "method", "utterances", "options", "reference_words", "first_pass", "oracle", "errors",
    "best_epoch", "epochs", "steps", "user_seconds", "valid_words", "valid_first_pass", "valid_expected",
    "other_words", "other_errors", "by_utterance",
]
# What each method adds to `lorb-engine train`.
METHODS = {
    "head": ["--targets", "none"],
    "scratch": [],
    "init": ["--init-adapter", "INIT"],
    "scratch-correlation": ["--corr-weight", "0.001"],
}


def folds(count: int) -> list[list[int]]:
    """The utterances of each fold, by number, in random order."""
    order = list(range(count))
    random.Random(0).shuffle(order)
    return [order[fold::FOLDS] for fold in range(FOLDS)]


def errors_of(row: dict, choice: int) -> int:
    return word_errors(row["ref"].split(), row["hyps"][choice]["text"].split())


def first_best(row: dict) -> int:
    """What the first pass chooses."""
    scores = [h["am"] for h in row["hyps"]]
    return scores.index(max(scores))


def transcripts(path: Path) -> list[list[str]]:
    """The words of a .trn file: of each line, all but the name in brackets."""
    return [line.rsplit("(", 1)[0].split() for line in path.read_text().splitlines()]


def errors_in(report: dict) -> int:
    """Of what is chosen after rescoring, as `lorb-engine evaluate --json` has it."""
    return sum(report["systems"]["rescored"][kind] for kind in ["substitutions", "deletions", "insertions"])


def settings(adapter: Path) -> dict:
    return json.loads((adapter / "rescoring.json").read_text())


def reweighted(adapter: Path, weights: dict, folder: Path) -> Path:
    """The adapter with other weights of the scores."""
    shutil.copytree(adapter, folder)
    (folder / "rescoring.json").write_text(json.dumps(settings(adapter) | {"weights": weights}))
    return folder


def training(adapter: Path) -> dict:
    """What a run's metrics say: its epochs, and the expected errors of the inner validation after each."""
    metrics = [json.loads(line) for line in (adapter / "metrics.jsonl").read_text().splitlines()]
    validations = [m for m in metrics if m["kind"] == "validation"]
    result = next(m for m in metrics if m["kind"] == "result")
    return {
        "best_epoch": result["epoch"],
        "epochs": result["epochs"],
        "steps": sum(m["kind"] == "step" for m in metrics),
        "valid_words": validations[0]["reference_units"],
        "valid_first_pass": round(validations[0]["expected_without"], 2),
        "valid_expected": " ".join(f"{v['expected']:.2f}" for v in validations),
        "weights_without_lorb": result["weights_without_lorb"],
    }


class Runs:
    """The CSV file of the runs that were done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict] = []
        if path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.rows = list(reader)
            if reader.fieldnames != FIELDS:
                sys.exit(f"{path}: expected the columns {','.join(FIELDS)}: give another --csv")

    def has(self, key: dict) -> bool:
        return any(all(row[name] == str(value) for name, value in key.items()) for row in self.rows)

    def add(self, row: dict) -> None:
        self.rows.append({name: str(row.get(name, "")) for name in FIELDS})
        fresh = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def judged(self, key: dict, rows: list[dict], errors: list[int], **found: object) -> None:
        """Adds a run with the errors that it leaves in each of `rows`."""
        by_utterance = " ".join(map(str, errors))
        self.add({**key, **of_lists(rows), "errors": sum(errors), "by_utterance": by_utterance, **found})


def parted(rows: list[dict], seed: int, utterances: int) -> tuple[list[dict], list[dict]]:
    """The utterances to train and tune on in the run of `seed`, and those to judge by."""
    parts = folds(len(rows))
    inner = [i for fold, part in enumerate(parts) if fold != seed - 1 for i in part]
    inner = random.Random(seed).sample(inner, len(inner))[:utterances]
    return [rows[i] for i in sorted(inner)], [rows[i] for i in sorted(parts[seed - 1])]


def write_lists(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of_lists(rows: list[dict]) -> dict:
    """What the CSV file says of lists whatever rescores them."""
    return {
        "reference_words": sum(len(row["ref"].split()) for row in rows),
        "first_pass": sum(errors_of(row, first_best(row)) for row in rows),
        "oracle": sum(min(errors_of(row, i) for i in range(len(row["hyps"]))) for row in rows),
    }


def judge(evaluate: list[str], lists: Path, rows: list[dict]) -> list[int]:
    """The errors of each utterance of `lists`, which are `rows`, as `lorb-engine evaluate` rescores them."""
    with tempfile.TemporaryDirectory() as out:
        report = json.loads(engine([*evaluate, "--json", "--trn", out, str(lists)])[0])["files"][0]
        chosen = transcripts(next(Path(out).rglob("rescored.trn")))
    errors = [word_errors(row["ref"].split(), words) for row, words in zip(rows, chosen, strict=True)]
    assert sum(errors) == errors_in(report)
    return errors


def elsewhere(evaluate: list[str], lists: str) -> dict:
    """What `lorb-engine evaluate` finds in the lists of another domain."""
    found = json.loads(engine([*evaluate, "--json", lists])[0])["files"][0]
    return {"other_words": found["reference_units"], "other_errors": errors_in(found)}


def engine(arguments: list[str]) -> tuple[str, float]:
    """What a command prints, and the seconds of CPU time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    out = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return out, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def run(args: argparse.Namespace, rows: list[dict], key: dict, runs: Runs) -> None:
    """One training run and its judgement; with the first one of a fold also that of the first pass alone."""
    inner, outer = parted(rows, key["seed"], key["utterances"])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train, test = write_lists(folder / "train.jsonl", inner), write_lists(folder / "test.jsonl", outer)
        name = "-".join(map(str, key.values()))
        adapter = (args.keep or folder) / re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        options = [args.init if o == "INIT" else o for o in METHODS[key["method"]]] + shlex.split(key["options"])
        common = ["--model", args.model, "--threads", str(args.threads)]
        command = ["train", *common, "--resume", "--train", str(train), "--out", str(adapter)]
        _, seconds = engine([*args.engine, *command, "--seed", str(key["seed"]), *options])
        found = {**training(adapter), "user_seconds": round(seconds, 1)}
        weights = found.pop("weights_without_lorb")
        if args.inner:
            runs.add({**key, **found})
            return
        evaluate = [*args.engine, "evaluate", *common, "--adapter"]
        errors = judge([*evaluate, str(adapter)], test, outer)
        # Without the n-gram model, the other weights are as with it. Without this engine's score, all methods of a fold
        # are the same.
        alone = settings(adapter)["weights"] | {"ngram": 0}
        parts = [({"method": f"{key['method']}-alone"}, alone)]
        parts += [({"method": name, "options": ""}, of) for name, of in [("ngram", weights), ("none", weights | {"ngram": 0})]]
        for part, of in parts:
            if not runs.has(key | part):
                other = reweighted(adapter, of, folder / part["method"])
                runs.judged(key | part, outer, judge([*evaluate, str(other)], test, outer))
        if args.other:
            found |= elsewhere([*evaluate, str(adapter)], args.other)
    runs.judged(key, outer, errors, **found)


def do_missing(args: argparse.Namespace, methods: list[str], sizes: list[int], run: Callable) -> None:
    """Calls `run` as it is above for each seed, domain, number of utterances and method that the CSV file lacks."""
    runs = Runs(args.csv)
    for seed in map(int, args.seeds.split(",")):
        for path in map(Path, args.domains):
            with gzip.open(path, "rt") as file:
                rows = [json.loads(line) for line in file]
            for utterances in sizes:
                for method in methods:
                    domain = path.name.split(".")[0]
                    key = {"domain": domain, "seed": seed, "method": method, "utterances": utterances}
                    key["options"] = args.options
                    if not runs.has(key):
                        run(args, rows, key, runs)
                        print(*(f"{name}={runs.rows[-1][name]}" for name in FIELDS[:-1]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", help="lists, NAME.jsonl.gz of the domain NAME")
    parser.add_argument("--engine", default="target/release/lorb-engine", help="or a wrapper, as 'nice lorb-engine'")
    parser.add_argument("--model", required=True)
    parser.add_argument("--init", help="the adapter that the method init starts from")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--methods", default="head,scratch,init", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--utterances", default="480", help="to train and tune on: 25,50,100,200,400 for a learning curve")
    parser.add_argument("--options", default="", help="more options of `lorb-engine train`, for all methods")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--keep", type=Path, help="keep the adapters in this folder, and go on with those that are there")
    parser.add_argument("--other", help="lists of another domain, to see there what the adapter forgot")
    parser.add_argument("--inner", action="store_true", help="train, and judge nothing")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.engine = shlex.split(args.engine)
    methods = args.methods.split(",")
    if "init" in methods and not args.init:
        parser.error("the method init needs --init ADAPTER")
    if args.quick:
        args.domains, args.seeds, args.utterances, args.options = args.domains[:1], "1", "50", "--epochs 1"
    do_missing(args, methods, list(map(int, args.utterances.split(","))), run)


if __name__ == "__main__":
    main()
