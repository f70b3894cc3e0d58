#!/usr/bin/env python3
"""Adapts to small domains by nested cross-validation, and keeps the raw numbers of every run in a CSV file.

    python adaptation.py --engine target/release/lorb-engine --model MODEL --init LIBRISPEECH_ADAPTER \\
        --csv runs.csv messaging.jsonl.gz clinic.jsonl.gz
    python adaptation_report.py runs.csv
    python adaptation.py --inner --seeds 1 --methods scratch --options "--hyps 4" --csv search.csv ...

The utterances of a domain are parted into five folds by a draw whose seed is fixed. In the run of seed S, fold S is the
outer one: nothing but the last count of errors sees it. `lorb-engine train --valid 0.2` chooses the epoch and the weights
within the other four. With --inner the outer fold is left alone, so that options can be chosen by what the inner
validation found. A run that the CSV file has is not repeated, so what was interrupted goes on; --quick is a trial
of one domain, seed and short run. Needs numpy, and nothing else.
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


def without_lorb(adapter: Path, weights: dict, folder: Path) -> Path:
    """The adapter with the weights that do best without its score: of the n-gram model and of words."""
    shutil.copytree(adapter, folder)
    rescoring = json.loads((folder / "rescoring.json").read_text())
    (folder / "rescoring.json").write_text(json.dumps(rescoring | {"weights": weights}))
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


def engine(arguments: list[str]) -> tuple[str, float]:
    """What a command prints, and the seconds of CPU time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    out = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return out, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def run(args: argparse.Namespace, rows: list[dict], key: dict, runs: Runs) -> None:
    """One training run and its judgement; with the first one of a fold also that of the first pass alone."""
    fold = folds(len(rows))[key["seed"] - 1]
    outer, inner = set(fold), [i for f in range(FOLDS) for i in folds(len(rows))[f] if f != key["seed"] - 1]
    inner = sorted(random.Random(key["seed"]).sample(inner, len(inner))[: key["utterances"]])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, chosen in [("train", inner), ("test", sorted(outer))]:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(rows[i]) + "\n" for i in chosen))
        name = "-".join(map(str, key.values()))
        adapter = (args.keep or folder) / re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
        options = [args.init if o == "INIT" else o for o in METHODS[key["method"]]] + shlex.split(key["options"])
        common = ["--model", args.model, "--threads", str(args.threads)]
        train = ["train", *common, "--resume", "--train", f"{folder}/train.jsonl", "--out", str(adapter)]
        _, seconds = engine([*args.engine, *train, "--seed", str(key["seed"]), *options])
        found = {**training(adapter), "user_seconds": round(seconds, 1)}
        weights = found.pop("weights_without_lorb")
        if args.inner:
            runs.add({**key, **found})
            return
        judged = [rows[i] for i in sorted(outer)]

        def judge(adapter: Path) -> list[int]:
            """The errors of each utterance of the outer fold."""
            with tempfile.TemporaryDirectory() as out:
                evaluate = ["evaluate", *common, "--adapter", str(adapter), "--json", "--trn", out]
                report = json.loads(engine([*args.engine, *evaluate, f"{folder}/test.jsonl"])[0])["files"][0]
                chosen = transcripts(next(Path(out).rglob("rescored.trn")))
            errors = [word_errors(row["ref"].split(), words) for row, words in zip(judged, chosen, strict=True)]
            assert sum(errors) == errors_in(report)
            return errors

        errors = judge(adapter)
        # The same for all methods of a fold.
        none = "ngram" if "--ngram-order" in key["options"] else "none"
        none = {**key, "method": none, "options": ""}
        errors_without = None if runs.has(none) else judge(without_lorb(adapter, weights, folder / "without"))
        if args.other:
            other = ["evaluate", *common, "--adapter", str(adapter), "--json", args.other]
            others = json.loads(engine([*args.engine, *other])[0])["files"][0]
            found |= {"other_words": others["reference_units"], "other_errors": errors_in(others)}
    of_lists = {
        "reference_words": sum(len(row["ref"].split()) for row in judged),
        "first_pass": sum(errors_of(row, first_best(row)) for row in judged),
        "oracle": sum(min(errors_of(row, i) for i in range(len(row["hyps"]))) for row in judged),
    }

    def add(key: dict, errors: list[int], **others: object) -> None:
        runs.add({**key, **of_lists, "errors": sum(errors), "by_utterance": " ".join(map(str, errors)), **others})

    if errors_without is not None:
        add(none, errors_without)
    add(key, errors, **found)


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
    runs = Runs(args.csv)
    for seed in map(int, args.seeds.split(",")):
        for path in map(Path, args.domains):
            with gzip.open(path, "rt") as file:
                rows = [json.loads(line) for line in file]
            for utterances in map(int, args.utterances.split(",")):
                for method in methods:
                    domain = path.name.split(".")[0]
                    key = {"domain": domain, "seed": seed, "method": method, "utterances": utterances}
                    key["options"] = args.options
                    if not runs.has(key):
                        run(args, rows, key, runs)
                        print(*(f"{name}={runs.rows[-1][name]}" for name in FIELDS[:-1]), flush=True)


if __name__ == "__main__":
    main()
