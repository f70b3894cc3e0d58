#!/usr/bin/env python3
"""Word errors against the share of trained parameters: of the runs in a CSV file of adaptation.py that name a rank and
targets, as --options "--rank R --targets T", without their n-gram models, and those of the domains together.

    python budgets.py --model MODEL budgets.csv [--reference "--rank 8 --targets all"]

Trained parameters are those of LoRA and the classifier. Needs numpy.
"""

import argparse
import csv
import json
import re
from pathlib import Path

from adaptation_report import difference, pooled

MODULES = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
NAMES = {"query,key,value,attention.output.dense": "attention (4)", "intermediate.dense,output.dense": "feed-forward (2)"}


def base_parameters(c: dict) -> int:
    h, wide = c["hidden_size"], c["intermediate_size"]
    embeddings = h * (c["vocab_size"] + c["max_position_embeddings"] + c["type_vocab_size"] + 2)
    layer = 4 * h * (h + 1) + wide * (h + 1) + h * (wide + 1) + 4 * h
    return embeddings + c["num_hidden_layers"] * layer + h * (h + 1)


def trained_parameters(c: dict, rank: int, targets: str) -> int:
    h, wide = c["hidden_size"], c["intermediate_size"]
    sizes = {"intermediate.dense": h + wide, "output.dense": wide + h}
    modules = MODULES if targets == "all" else targets.split(",")
    return h + c["num_hidden_layers"] * rank * sum(sizes.get(module, 2 * h) for module in modules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--reference", default="--rank 8 --targets all")
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    with args.csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "scratch-alone"]
    rows.sort(key=lambda row: (row["domain"], row["seed"]))
    budgets: dict[tuple[int, str], list[dict]] = {}
    for row in rows:
        if found := re.search(r"--rank (\d+) --targets (\S+)", row["options"]):
            budgets.setdefault((int(found[1]), found[2]), []).append(row)
    reference = [row for row in rows if args.reference in row["options"]]
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    heads = ["targets", "rank", "trained", "of the base", *domains, "together", "against the default"]
    print("| " + " | ".join(heads) + " |\n|---|" + "---:|" * (len(heads) - 1))

    def wer(own: list[dict]) -> str:
        if not own:
            return ""
        s = pooled(own)
        return f"{100 * s['errors'].sum() / s['reference_words']:.2f} %"

    def cost(budget: tuple[int, str]) -> int:
        return trained_parameters(config, *budget)

    for rank, targets in sorted(budgets, key=cost):
        own, trained = budgets[rank, targets], cost((rank, targets))
        of_domains = [wer([row for row in own if row["domain"] == domain]) for domain in domains]
        against = ""
        if not args.reference.endswith(f"--rank {rank} --targets {targets}"):
            judged = {row["domain"] for row in own}
            against = difference(own, [row for row in reference if row["domain"] in judged])
        share = f"{100 * trained / base_parameters(config):.3f} %"
        together = f"**{wer(own)}**" if all(of_domains) else ""
        cells = [NAMES.get(targets, targets), str(rank), f"{trained:,}", share, *of_domains, together, against]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
