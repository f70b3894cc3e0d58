#!/usr/bin/env python3
"""Parts N-best lists into two files by a seeded draw of utterances, so that every contender trains on the same.

    python split.py --fraction 0.1 --train train.jsonl.gz --valid valid.jsonl.gz dev_clean.jsonl.gz dev_other.jsonl.gz
"""

import argparse
import gzip
import random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+")
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--train", required=True)
    parser.add_argument("--valid", required=True)
    args = parser.parse_args()
    lines = []
    for path in args.lists:
        with gzip.open(path, "rt") as file:
            lines += file
    kept = set(random.Random(args.seed).sample(range(len(lines)), round(args.fraction * len(lines))))
    with gzip.open(args.train, "wt") as train, gzip.open(args.valid, "wt") as valid:
        for i, line in enumerate(lines):
            (valid if i in kept else train).write(line)


if __name__ == "__main__":
    main()
