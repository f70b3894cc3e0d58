#!/usr/bin/env python3
"""Compares `lorb-engine evaluate` with jiwer and with NIST's sclite on the same choices.

    check_wer.py LORB_ENGINE LISTS... [--sclite COMMAND] [-- OPTION...]

The first pass and the oracle of each file of lists are written as .trn files, and counted by all: the default
alignment must have jiwer's total of errors, and sclite's alignment all counts of sclite -s. OPTIONs go to evaluate
(--model, --adapter, --case ...). Needs jiwer, and sclite: Debian's package sctk has it as "sctk sclite".
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import jiwer

LINE = re.compile(r"(.*) \((\S+)\)\n")


def evaluate(program, lists, align, folder, options):
    command = [program, "evaluate", lists, "--json", "--align", align, "--trn", folder, *options]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return report["files"][0]["systems"]


def transcripts(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        return {id: text for text, id in (LINE.fullmatch(line).groups() for line in file)}


def jiwer_counts(reference, hypothesis):
    reference, hypothesis = transcripts(reference), transcripts(hypothesis)
    assert reference.keys() == hypothesis.keys()
    ids = [id for id in reference if reference[id].strip()]
    found = jiwer.process_words([reference[id] for id in ids], [hypothesis[id] for id in ids])
    # jiwer takes no empty reference; all words of its hypothesis are insertions.
    inserted = sum(len(hypothesis[id].split()) for id in reference if not reference[id].strip())
    return found.substitutions, found.deletions, found.insertions + inserted


def sclite_counts(sclite, reference, hypothesis):
    arguments = ["-s", "-i", "sp", "-r", reference, "trn", "-h", hypothesis, "trn", "-o", "pralign", "stdout", "-f", "0"]
    output = subprocess.run([*shlex.split(sclite), *map(str, arguments)], check=True, capture_output=True)
    lines = re.findall(rb"Scores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)", output.stdout)
    assert len(lines) == len(transcripts(reference)), f"sclite scored {len(lines)} utterances"
    return tuple(sum(map(int, column)) for column in list(zip(*lines))[1:])


def main():
    arguments, options = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("lists", nargs="+")
    parser.add_argument("--sclite", default="sctk sclite", help="how sclite is called [default: %(default)s]")
    args = parser.parse_args(arguments)

    counts = ("substitutions", "deletions", "insertions")
    wrong = False
    print(f"{'':40} {'S':>6} {'D':>6} {'I':>6} {'total':>7}")
    for lists in args.lists:
        with tempfile.TemporaryDirectory() as folder:
            ours = {a: evaluate(args.program, lists, a, folder, options) for a in ("levenshtein", "sclite")}
            for system in ours["sclite"]:
                reference, hypothesis = Path(folder, "reference.trn"), Path(folder, f"{system}.trn")
                rows = {
                    f"evaluate --align {align}": tuple(ours[align][system][c] for c in counts)
                    for align in ("levenshtein", "sclite")
                }
                rows["jiwer"] = jiwer_counts(reference, hypothesis)
                rows["sclite -s"] = sclite_counts(args.sclite, reference, hypothesis)
                print(f"{Path(lists).name}, {system}")
                for name, row in rows.items():
                    print(f"    {name:36} {row[0]:6} {row[1]:6} {row[2]:6} {sum(row):7}")
                if sum(rows["evaluate --align levenshtein"]) != sum(rows["jiwer"]):
                    print("    DIFFERENT: the total of jiwer")
                    wrong = True
                if rows["evaluate --align sclite"] != rows["sclite -s"]:
                    print("    DIFFERENT: the counts of sclite")
                    wrong = True
    if wrong:
        sys.exit(1)
    print("all agree")


if __name__ == "__main__":
    main()
