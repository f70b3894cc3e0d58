#!/usr/bin/env python3
"""Throughput and latency of rescoring N-best lists, each list one padded batch, with PyTorch or ONNX Runtime.

    python rescore.py torch-fp32 --model DIR --data lists.jsonl.gz --lists 100 --threads 2 --rounds 3

Without --rounds it speaks the protocol of ../alternate.py. Tokens are real ones with [CLS] and [SEP], without
padding; the time includes padding the lists, not the tokenizer.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import merged, pad, read_lists, serve_rounds


def torch_scorer(args: argparse.Namespace):
    model = merged(args.model, args.adapter).to(args.device)

    @torch.inference_mode()
    def score(tokens: list[list[int]]) -> np.ndarray:
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.contender == "torch-bf16"):
            return model(**pad(tokens, args.device)).logits[:, 0].float().cpu().numpy()

    return score


def graph_scorer(args: argparse.Namespace):
    """bf16 weights, no autocast; a CUDA graph for each size of batch, lengths rounded up to multiples of 8."""
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

    return score


class ForExport(torch.nn.Module):
    """Positional arguments in, one tensor out."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def ort_scorer(args: argparse.Namespace):
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    model = merged(args.model, args.adapter, attention="eager")  # the form that the optimiser fuses
    with tempfile.TemporaryDirectory() as folder:
        plain, fused, int8 = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "fused", "int8"))
        example = pad([[1] * 7, [1] * 5])
        axes = {0: "batch", 1: "tokens"}
        torch.onnx.export(
            ForExport(model), (example["input_ids"], example["attention_mask"]), plain, dynamo=False, opset_version=17,
            input_names=["input_ids", "attention_mask"], output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
        )
        config = model.config
        graph = optimizer.optimize_model(
            plain, model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
        )
        fusions = {name: count for name, count in graph.get_fused_operator_statistics().items() if count}
        if fusions.get("Attention", 0) != config.num_hidden_layers:
            raise SystemExit(f"attention was not fused in every layer: {fusions}")
        graph.save_model_to_file(fused)
        if args.contender == "ort-int8":
            unknown = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # the types behind fused nodes
            quantize_dynamic(fused, int8, weight_type=QuantType.QInt8, extra_options=unknown)
        options = ort.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = ort.InferenceSession(
            int8 if args.contender == "ort-int8" else fused, options, providers=["CPUExecutionProvider"]
        )

    def score(tokens: list[list[int]]) -> np.ndarray:
        feed = {name: value.numpy() for name, value in pad(tokens).items()}
        return session.run(None, feed)[0][:, 0]

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=["torch-fp32", "torch-bf16", "torch-graphs", "ort-fp32", "ort-int8"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--adapter", help="a PEFT folder, merged into the weights")
    parser.add_argument("--lists", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for the torch contenders")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scores", help="write the scores of the last round there, one list a line")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    lists = [u.tokens for u in read_lists([args.data], args.model, args.lists)]
    kinds = {"ort-fp32": ort_scorer, "ort-int8": ort_scorer, "torch-graphs": graph_scorer}
    score = kinds.get(args.contender, torch_scorer)(args)
    for tokens in lists if args.contender == "torch-graphs" else lists[:5]:  # every size is captured once
        score(tokens)

    def one_round() -> dict:
        times, scores = [], []
        for tokens in lists:
            start = time.perf_counter()
            scores.append(score(tokens))
            times.append(time.perf_counter() - start)
        if args.scores:
            Path(args.scores).write_text("".join(" ".join(f"{g:.7g}" for g in row) + "\n" for row in scores))
        return {
            "contender": args.contender,
            "tokens_per_s": round(sum(len(t) for tokens in lists for t in tokens) / sum(times)),
            "p50_ms": round(1e3 * float(np.percentile(times, 50)), 3),
            "p95_ms": round(1e3 * float(np.percentile(times, 95)), 3),
            "scores": args.scores,
        }

    serve_rounds(one_round, args.rounds)


if __name__ == "__main__":
    main()
