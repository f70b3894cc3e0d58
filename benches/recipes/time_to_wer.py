#!/usr/bin/env python3
"""How long training takes to reach a WER: this engine, PEFT's LoRA and full fine-tuning in PyTorch, one after the other on
one machine, on the same lists, in as many epochs.

    python time_to_wer.py --model MODEL --csv time.csv messaging.jsonl.gz clinic.jsonl.gz

Of a domain, four utterances of five are trained on, and the fifth one is what the WER is of, with weights tuned on the same
lists, after each epoch. It compares times, and promises no WER: what it waits for was tuned. The time is that of fitting the
classifier and of the steps, without validation, start and imports. A contender that the CSV file has is not measured
again; the tables are of all that it has. The WER that is waited for is the best of the contender that ends
worst, so that all reach it. Needs ../baselines/requirements.txt and a quiet machine.
"""

import argparse
import csv
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from adaptation import engine, errors_in, of_lists, parted, write_lists
from adaptation_torch import METHODS, RECIPE, TRAIN, scorer

FIELDS = ["domain", "seed", "contender", "epoch", "steps", "step_ms", "seconds", "peak_mb", "words", "first_pass", "errors"]
ENGINE = {"lorb-engine": [], "lorb-engine bf16": ["--dtype", "bf16"]}
PYTORCH = {"peft": METHODS["peft"], "full": [*METHODS["full"], "--lr", "3e-4"]}


def run(command: list[str], threads: int) -> tuple[str, float]:
    """What a program prints, and its peak memory in MB."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]}: exit code {process.returncode}")
    return said, usage.ru_maxrss / 1024


def of_engine(args: argparse.Namespace, name: str, lists: tuple[Path, Path], out: Path, seed: int) -> list[dict]:
    """A row an epoch."""
    train, valid = lists
    command = [args.engine, "train", "--model", args.model, "--device", "cpu", "--threads", str(args.threads)]
    command += ["--train", str(train), "--valid", str(valid), "--out", str(out), "--seed", str(seed), "--ngram-order", "0"]
    _, peak_mb = run([*command, *RECIPE, *ENGINE[name]], args.threads)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows, seconds, steps = [], 0.0, []
    for validation in (m for m in metrics if m["kind"] == "validation"):
        ends = [m["seconds"] for m in metrics if m["kind"] == "step" and m["epoch"] == validation["epoch"]]
        each = [after - before for before, after in zip(ends, ends[1:])]
        # Validation stands between the epochs, and ahead of the first stand the start and the fit.
        seconds += ends[-1] if not rows else sum(each) + statistics.mean(each)
        steps += each
        rows.append({"steps": validation["step"], "seconds": seconds, "errors": validation["errors"]})
    return [row | {"step_ms": 1e3 * statistics.median(steps), "peak_mb": peak_mb} for row in rows]


def of_pytorch(args: argparse.Namespace, method: str, lists: tuple[Path, Path], out: Path, seed: int) -> list[dict]:
    train, valid = lists
    command = [sys.executable, str(TRAIN), "--model", args.model, "--train", str(train), "--out", str(out)]
    command += [*RECIPE, *PYTORCH[method], "--seed", str(seed), "--threads", str(args.threads)]
    said, peak_mb = run(command, args.threads)
    lines = [json.loads(line) for line in said.splitlines()]
    ends = [line["steps"] for line in lines if "epoch" in line]
    step_ms = [line["ms"] for line in lines if "step" in line]
    fit = next(line["fit_seconds"] for line in lines if "fit_seconds" in line)
    rows = []
    for number, end in enumerate(ends, 1):
        # Tuned on all of these lists; counted on the same ones under another name.
        same = shutil.copy(valid, out / "same.jsonl")
        evaluate = [args.engine, "evaluate", *scorer(args.model, method, out / f"epoch-{number}")]
        evaluate += ["--tune", str(valid), "--json", str(same)]
        errors = errors_in(json.loads(engine(evaluate)[0])["files"][0])
        rows.append({"steps": end, "seconds": fit + sum(step_ms[:end]) / 1e3, "errors": errors})
    return [row | {"step_ms": statistics.median(step_ms), "peak_mb": peak_mb} for row in rows]


def tables(rows: list[dict]) -> str:
    lines = []
    for domain, seed in dict.fromkeys((row["domain"], row["seed"]) for row in rows):
        of = [row for row in rows if (row["domain"], row["seed"]) == (domain, seed)]
        by_contender = {name: [row for row in of if row["contender"] == name] for name in dict.fromkeys(r["contender"] for r in of)}
        words, first_pass = int(of[0]["words"]), int(of[0]["first_pass"])
        goal = max(min(int(row["errors"]) for row in runs) for runs in by_contender.values())
        reached = {name: next(row for row in runs if int(row["errors"]) <= goal) for name, runs in by_contender.items()}
        lines += [f"### {domain}, seed {seed}: {goal / words:.2%} (first pass {first_pass / words:.2%})", ""]
        lines += ["| | epochs | steps | a step | time | time over lorb-engine's | peak memory | best WER |"]
        lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
        for name, row in reached.items():
            ratio = float(row["seconds"]) / float(reached["lorb-engine"]["seconds"])
            best = min(int(r["errors"]) for r in by_contender[name]) / words
            cells = [name, row["epoch"], row["steps"], f"{float(row['step_ms']):.0f} ms", f"{float(row['seconds']):.1f} s"]
            cells += [f"{ratio:.2f}x", f"{float(row['peak_mb']):.0f} MB", f"{best:.2%}"]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", help="lists, NAME.jsonl.gz of the domain NAME")
    parser.add_argument("--engine", default="target/release/lorb-engine")
    parser.add_argument("--model", required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    found = []
    if args.csv.exists():
        with args.csv.open(newline="") as file:
            found = list(csv.DictReader(file))
    contenders = [(name, of_engine, name) for name in ENGINE] + [(f"torch-{name}", of_pytorch, name) for name in PYTORCH]
    for seed in map(int, args.seeds.split(",")):
        for path in map(Path, args.domains):
            domain = path.name.split(".")[0]
            with gzip.open(path, "rt") as file:
                rows = [json.loads(line) for line in file]
            train, valid = parted(rows, seed, len(rows))
            for name, measure, how in contenders:
                key = {"domain": domain, "seed": str(seed), "contender": name}
                if any(key.items() <= row.items() for row in found):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    folder = Path(folder)
                    lists = write_lists(folder / "train.jsonl", train), write_lists(folder / "valid.jsonl", valid)
                    epochs = measure(args, how, lists, folder / "out", seed)
                about = of_lists(valid)
                said = {"words": about["reference_words"], "first_pass": about["first_pass"]}
                found += [key | {"epoch": str(n)} | row | said for n, row in enumerate(epochs, 1)]
                with args.csv.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(found)
                print(name, domain, *(f"{row['seconds']:.1f} s: {row['errors']}" for row in epochs), sep=", ", file=sys.stderr)
    print(tables(found))


if __name__ == "__main__":
    main()
