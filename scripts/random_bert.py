#!/usr/bin/env python3
"""Makes a BERT of any shape with random weights and the tokenizer of another: for measuring speed, nothing else.

    python scripts/random_bert.py --tokenizer MODEL --out bert-base-random     # BERT-base's shape
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a Hugging Face BERT folder")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--intermediate", type=int, default=3072)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    args.out.mkdir(parents=True)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (args.tokenizer / name).exists():
            shutil.copy(args.tokenizer / name, args.out / name)
    config = json.loads((args.tokenizer / "config.json").read_text())
    config |= {
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": args.intermediate,
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2))

    rng = np.random.default_rng(args.seed)
    tensors: dict[str, np.ndarray] = {}

    def dense(name: str, output: int, inputs: int) -> None:
        tensors[f"{name}.weight"] = (0.02 * rng.standard_normal((output, inputs))).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(output, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(args.hidden, np.float32)
        tensors[f"{name}.bias"] = np.zeros(args.hidden, np.float32)

    tables = {"word": config["vocab_size"], "position": config["max_position_embeddings"], "token_type": 2}
    for table, rows in tables.items():
        values = 0.02 * rng.standard_normal((rows, args.hidden))
        tensors[f"embeddings.{table}_embeddings.weight"] = values.astype(np.float32)
    norm("embeddings.LayerNorm")
    for layer in range(args.layers):
        prefix = f"encoder.layer.{layer}"
        for module in ("query", "key", "value"):
            dense(f"{prefix}.attention.self.{module}", args.hidden, args.hidden)
        dense(f"{prefix}.attention.output.dense", args.hidden, args.hidden)
        norm(f"{prefix}.attention.output.LayerNorm")
        dense(f"{prefix}.intermediate.dense", args.intermediate, args.hidden)
        dense(f"{prefix}.output.dense", args.hidden, args.intermediate)
        norm(f"{prefix}.output.LayerNorm")
    dense("pooler.dense", args.hidden, args.hidden)
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
