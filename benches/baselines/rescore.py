#!/usr/bin/env python3
"""Throughput and latency of rescoring N-best lists with PyTorch or ONNX Runtime.

    python rescore.py torch-fp32 --model DIR --data lists.jsonl.gz --lists 100 --threads 2 --rounds 3

Without --rounds it speaks the protocol of ../alternate.py. A call scores --together lists, equal hypotheses once, as
padded batches by length of --batch-tokens, on --workers threads at once, which share --threads. Tokens are real ones
with [CLS] and [SEP], without padding; the time includes padding the lists, not the tokenizer.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from batches import Batched
from lists import read_lists, serve_rounds, timings


def torch_scorer(args: argparse.Namespace, threads: int):
    import torch
    from common import merged, pad

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if args.contender == "torch-bf16" else torch.float32
    model = merged(args.model, args.adapter).to(args.device, dtype)
    if args.contender == "torch-compile":
        model.compile(dynamic=True)

    @torch.inference_mode()
    def score(tokens: list[list[int]]) -> np.ndarray:
        return model(**pad(tokens, args.device)).logits[:, 0].float().cpu().numpy()

    return score, lambda: torch.set_num_threads(threads)


def graph_scorer(args: argparse.Namespace, threads: int):
    """bf16 weights; a CUDA graph for each size of batch, lengths rounded up to multiples of 8."""
    import torch
    from common import merged, pad

    torch.set_num_threads(threads)
    model = merged(args.model, args.adapter).to(args.device, torch.bfloat16)
    graphs: dict[tuple[int, int], tuple] = {}

    def capture(rows: int, columns: int) -> tuple:
        inputs = {
            name: torch.ones(rows, columns, dtype=torch.int64, device=args.device)
            for name in ("input_ids", "attention_mask")
        }
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                model(**inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = model(**inputs).logits
        return graph, inputs, logits

    @torch.inference_mode()
    def score(tokens: list[list[int]]) -> np.ndarray:
        found = pad(tokens)
        rows, columns = found["input_ids"].shape
        size = (rows, -(-columns // 8) * 8)
        if size not in graphs:
            graphs[size] = capture(*size)
        graph, inputs, logits = graphs[size]
        for name, values in found.items():
            inputs[name].zero_()
            inputs[name][:, :columns].copy_(values.pin_memory(), non_blocking=True)
        graph.replay()
        return logits[:, 0].float().cpu().numpy()

    return score, lambda: None


def ort_scorer(args: argparse.Namespace, threads: int):
    import onnxruntime as ort

    name = "int8.onnx" if args.contender == "ort-int8" else "fused.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(args.model) / name
        if args.adapter or not graph.exists():
            # In a process of its own: what exports takes memory that what scores does not need.
            command = [sys.executable, Path(__file__).with_name("export.py"), "--model", args.model, "--out", folder]
            adapter = ["--adapter", args.adapter] if args.adapter else []
            subprocess.run([*command, *adapter], check=True, stdout=sys.stderr)
            graph = Path(folder) / name
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def score(tokens: list[list[int]]) -> np.ndarray:
        ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)  # [PAD] is 0
        mask = np.zeros_like(ids)
        for row, tokens_of_row in enumerate(tokens):
            ids[row, : len(tokens_of_row)] = tokens_of_row
            mask[row, : len(tokens_of_row)] = 1
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0][:, 0]

    return score, lambda: None


SCORERS = {
    "torch-fp32": torch_scorer,
    "torch-bf16": torch_scorer,
    "torch-compile": torch_scorer,
    "torch-graphs": graph_scorer,
    "ort-fp32": ort_scorer,
    "ort-int8": ort_scorer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=SCORERS)
    parser.add_argument("--model", required=True, help="a Hugging Face folder; with graphs in it where export.py made it")
    parser.add_argument("--data", required=True)
    parser.add_argument("--adapter", help="a PEFT folder, merged into the weights")
    parser.add_argument("--lists", type=int, default=100)
    parser.add_argument("--together", type=int, default=1, help="lists of a call")
    parser.add_argument("--batch-tokens", type=int, help="of a padded batch [default: one batch a worker]")
    parser.add_argument("--workers", type=int, default=1, help="batches at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the torch contenders")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scores", help="write the scores of the last round there, one list a line")
    args = parser.parse_args()

    lists = [u.tokens for u in read_lists([args.data], args.model, args.lists)]
    calls = [lists[i : i + args.together] for i in range(0, len(lists), args.together)]
    call_tokens = [sum(len(t) for tokens in call for t in tokens) for call in calls]
    scorer, prepare = SCORERS[args.contender](args, max(1, args.threads // args.workers))
    score = Batched(scorer, args.batch_tokens, args.workers, prepare)
    for call in calls if args.contender == "torch-graphs" else calls[:5]:  # every size is captured once
        score([t for tokens in call for t in tokens])
    score.take_padding()

    def one_round() -> dict:
        seconds, scores = [], []
        for call in calls:
            sequences = [t for tokens in call for t in tokens]
            start = time.perf_counter()
            found = score(sequences)
            seconds.append(time.perf_counter() - start)
            scores += np.split(found, np.cumsum([len(tokens) for tokens in call])[:-1])
        if args.scores:
            Path(args.scores).write_text("".join(" ".join(f"{g:.9g}" for g in row) + "\n" for row in scores))
        return timings(args.contender, call_tokens, seconds) | {"padding": round(score.take_padding(), 4)}

    serve_rounds(one_round, args.rounds)


if __name__ == "__main__":
    main()
