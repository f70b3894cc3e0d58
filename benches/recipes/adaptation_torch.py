#!/usr/bin/env python3
"""Adapts to small domains in PyTorch, on the folds of adaptation.py and with its CSV file.

    python adaptation_torch.py --method peft --model MODEL --csv runs.csv messaging.jsonl.gz clinic.jsonl.gz
    python adaptation_torch.py --method full --options "--lr 1e-4" --model MODEL --csv runs.csv ...

The methods are PEFT's LoRA (rank 8, query and value, rate 2e-3) and full fine-tuning, both by ../baselines/train_peft.py
with the loss, draw, batches and schedule of `lorb-engine train`. A fifth of the inner utterances chooses the epoch and
the weights, by `lorb-engine evaluate --tune`, which scores as PyTorch does; the outer fold is judged once. With --inner it is
left alone. Needs ../baselines/requirements.txt.
"""

import argparse
import json
import random
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from adaptation import Runs, do_missing, elsewhere, engine, errors_in, judge, parted, write_lists

TRAIN = Path(__file__).parents[1] / "baselines" / "train_peft.py"
RECIPE = ["--epochs", "8", "--hyps", "8", "--batch-tokens", "800"]
METHODS = {
    "peft": ["--targets", "query,value", "--lr", "2e-3"],
    "full": ["--full-finetune"],
}
TOKENIZER = ["vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


def scorer(model: str, method: str, epoch: Path) -> list[str]:
    """What makes lorb-engine score with what was trained until the end of an epoch."""
    if method == "peft":
        return ["--model", model, "--adapter", str(epoch)]
    for name in TOKENIZER:
        if (Path(model) / name).exists():
            shutil.copy(Path(model) / name, epoch)
    return ["--model", str(epoch)]


def run(args: argparse.Namespace, rows: list[dict], key: dict, runs: Runs) -> None:
    inner, outer = parted(rows, key["seed"], key["utterances"])
    chosen = set(random.Random(key["seed"]).sample(range(len(inner)), len(inner) // 5))
    parts = [[row for i, row in enumerate(inner) if (i in chosen) == valid] for valid in [False, True]]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        train, valid = (write_lists(folder / f"{n}.jsonl", p) for n, p in zip(["train", "valid"], parts, strict=True))
        test = write_lists(folder / "test.jsonl", outer)
        common = ["--threads", str(args.threads)]
        command = [sys.executable, str(TRAIN), "--model", args.model, "--train", str(train), "--out", str(folder / "out")]
        options = [*RECIPE, *METHODS[args.method], *shlex.split(key["options"]), "--seed", str(key["seed"]), *common]
        said, seconds = engine([*command, *options])
        lines = [json.loads(line) for line in said.splitlines()]
        epochs = sorted((folder / "out").iterdir(), key=lambda path: int(path.name.split("-")[1]))
        errors = []
        for epoch in epochs:
            evaluate = [*args.engine, "evaluate", *scorer(args.model, args.method, epoch), *common]
            # Tuned on all of these lists, and saved; counted on the same ones under another name.
            same = shutil.copy(valid, folder / "same.jsonl")
            report = engine([*evaluate, "--tune", str(valid), "--json", str(same)])[0]
            errors.append(errors_in(json.loads(report)["files"][0]))
        best = errors.index(min(errors))
        found = {
            "best_epoch": best + 1,
            "epochs": len(epochs),
            "steps": sum("step" in line for line in lines),
            "user_seconds": round(seconds, 1),
            "valid_words": sum(len(row["ref"].split()) for row in parts[1]),
            # Here counted, not expected.
            "valid_expected": " ".join(map(str, errors)),
        }
        if args.inner:
            runs.add({**key, **found})
            return
        evaluate = [*args.engine, "evaluate", *scorer(args.model, args.method, epochs[best]), *common]
        if args.other:
            found |= elsewhere(evaluate, args.other)
        runs.judged(key, outer, judge(evaluate, test, outer), **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", help="lists, NAME.jsonl.gz of the domain NAME")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--engine", default="target/release/lorb-engine")
    parser.add_argument("--model", required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--options", default="", help="more options of train_peft.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--other", help="lists of another domain, to see there what was forgotten")
    parser.add_argument("--inner", action="store_true", help="train, and judge nothing")
    args = parser.parse_args()
    args.engine = shlex.split(args.engine)
    do_missing(args, [args.method], [480], run)


if __name__ == "__main__":
    main()
