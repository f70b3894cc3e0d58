#!/usr/bin/env python3
"""Prints the score of one text: for timing a program from its start to its first score, with nothing imported that it
does not need.

    python first_score.py torch-fp32|ort-fp32 --model DIR --threads 2 TEXT

DIR is a folder that export.py wrote.
"""

import argparse
from pathlib import Path

from lists import tokenizer_of


def with_torch(args: argparse.Namespace, ids: list[int]) -> float:
    import torch
    from transformers import BertForSequenceClassification

    torch.set_num_threads(args.threads)
    model = BertForSequenceClassification.from_pretrained(args.model).eval()
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits.item()


def with_onnx_runtime(args: argparse.Namespace, ids: list[int]) -> float:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    graph = str(Path(args.model) / "fused.onnx")
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    ids = np.array([ids])
    return session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=["torch-fp32", "ort-fp32"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("text")
    args = parser.parse_args()
    [ids] = tokenizer_of(args.model)([args.text])
    print((with_torch if args.contender == "torch-fp32" else with_onnx_runtime)(args, ids), flush=True)


if __name__ == "__main__":
    main()
