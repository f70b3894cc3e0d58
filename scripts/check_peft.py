#!/usr/bin/env python3
"""Checks adapters against Hugging Face PEFT.

    check_peft.py scores BASE [ADAPTER] [--texts FILE]   scores as JSON lines, {"text": ..., "score": ...}
    check_peft.py make BASE OUT [--rank 8 --targets query,value --rslora --pooler --seed 0]   a random adapter

BASE is a Hugging Face BERT folder. Loading is strict: an adapter whose tensors are not exactly those that PEFT
itself would save is an error. Nothing is downloaded.
"""

import argparse
import json
import os
import re
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TEXTS = ["the cat sat on the mat", "he said that it was hers", "", "naïve façade, co-operate"]


def load_base(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)


def load_adapter(model, folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, folder)
    for warning in caught:
        if re.search("missing|unexpected", str(warning.message)):
            sys.exit(f"PEFT warns: {warning.message}")
    stored = load_file(os.path.join(folder, "adapter_model.safetensors"))
    loaded = get_peft_model_state_dict(model)
    if stored.keys() != loaded.keys():
        sys.exit(f"tensors differ: {sorted(stored.keys() ^ loaded.keys())}")
    for name, tensor in stored.items():
        if not torch.equal(tensor.float(), loaded[name]):
            sys.exit(f"{name} is not what was loaded")
    return model


def scores(args):
    torch.manual_seed(0)
    model = load_base(args.base)
    if args.adapter:
        model = load_adapter(model, args.adapter)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    texts = TEXTS
    if args.texts:
        with open(args.texts, encoding="utf-8") as file:
            texts = file.read().splitlines()
    for text in texts:
        with torch.no_grad():
            score = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.item()
        print(json.dumps({"text": text, "score": score}))


def make(args):
    torch.manual_seed(args.seed)
    # As a list where that is unambiguous, as people write it; "output.dense" alone has two meanings.
    names = args.targets.split(",")
    if any("output" in name for name in names):
        modules = r"bert\.encoder\.layer\.\d+\.((attention\.self\.)?(" + "|".join(map(re.escape, names)) + "))"
    else:
        modules = names
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=args.rank,
        lora_alpha=args.alpha,
        use_rslora=args.rslora,
        target_modules=modules,
        modules_to_save=["classifier", "pooler"] if args.pooler else None,
    )
    model = get_peft_model(load_base(args.base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(args.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("scores")
    command.add_argument("base")
    command.add_argument("adapter", nargs="?")
    command.add_argument("--texts", help="one text a line")
    command.set_defaults(run=scores)
    command = commands.add_parser("make")
    command.add_argument("base")
    command.add_argument("out")
    command.add_argument("--rank", type=int, default=8)
    command.add_argument("--alpha", type=float, default=8)
    command.add_argument("--targets", default="query,value")
    command.add_argument("--rslora", action="store_true")
    command.add_argument("--pooler", action="store_true", help="save the pooler as well")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=make)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
