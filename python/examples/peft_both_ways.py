#!/usr/bin/env python3
"""An adapter's way between PEFT and this engine, both ways.

    peft_both_ways.py [--model BERT] [--lists FILE] [--out FOLDER]

Trains an adapter with PyTorch + PEFT and rescores with it here; then trains one here and loads it in PEFT. Each time
the two must agree on every score. Needs torch, transformers and peft; downloads nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lorb_engine

BUILTIN = Path(__file__).resolve().parents[2] / "assets" / "builtin"


def word_errors(reference: str, text: str) -> int:
    said, heard = reference.split(), text.split()
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def classifier(base: Path) -> torch.nn.Module:
    """In f32, whatever the file has: AdamW's second moments of small gradients are zero in f16."""
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).float()


def train_with_peft(base: Path, lists: list[dict[str, Any]], out: Path) -> None:
    """One pass of the MWER loss over some lists: enough to give the matrices values of their own."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = classifier(base)
    # A pooler that the base lacks is drawn at random: it must be saved with the adapter.
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=8,
        lora_alpha=8,
        target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"],
    )
    model = get_peft_model(model, config)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for utterance in lists:
        hyps = utterance["hyps"][:8]
        errors = torch.tensor([float(word_errors(utterance["ref"], h["text"])) for h in hyps])
        first_pass = torch.tensor([h["am"] for h in hyps])
        texts = tokenizer([h["text"] for h in hyps], padding=True, truncation=True, return_tensors="pt")
        g = model(**texts).logits[:, 0]
        posterior = torch.softmax(0.15 * first_pass + g, dim=0)
        loss = (posterior * (errors - errors.mean())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(out)


def scores_of_peft(base: Path, adapter: Path, texts: list[str]) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = classifier(base)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        encoded = (tokenizer(text, truncation=True, return_tensors="pt") for text in texts)
        return np.array([model(**e).logits.item() for e in encoded], dtype=np.float32)


def agree(what: str, here: np.ndarray, there: np.ndarray) -> None:
    difference = float(np.abs(here - there).max())
    print(f"{what}: {len(here)} scores, the largest differs by {difference:.1e}")
    # NaN is no agreement either.
    if not difference <= 1e-4:
        raise SystemExit("they do not agree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILTIN / "model")
    parser.add_argument("--lists", type=Path, default=BUILTIN / "train.jsonl.gz")
    parser.add_argument("--out", type=Path, help="where the adapters stay [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        lists = list(islice(lorb_engine.load_nbest(args.lists), 60))
        texts = [h["text"] for u in lists[:10] for h in u["hyps"]]

        train_with_peft(args.model, lists, out / "peft")
        rescorer = lorb_engine.Rescorer(model=args.model, adapter=out / "peft")
        agree("trained with PEFT, scored here", rescorer.score(texts), scores_of_peft(args.model, out / "peft", texts))
        best = rescorer.rescore(lists[:1])[0]
        print(f"  {best['id']}: {best['best']} ({best['confidence']:.2f})")

        lorb_engine.train(
            model=args.model, train=args.lists, out=out / "lorb", epochs=1, hyps=4, batch_tokens=800,
            callback=lambda r: print(f"  step {r['step']}/{r['steps']}: MWER {r['mwer']:+.3f}", end="\r"),
        )  # fmt: skip
        print()
        rescorer = lorb_engine.Rescorer(model=args.model, adapter=out / "lorb")
        agree("trained here, scored with PEFT", rescorer.score(texts), scores_of_peft(args.model, out / "lorb", texts))


if __name__ == "__main__":
    main()
