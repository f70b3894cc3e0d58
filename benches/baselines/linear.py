#!/usr/bin/env python3
"""Time of one linear layer in PyTorch, y = x W^T + b, alone or with LoRA of rank 8, in bf16 on a GPU.

    python linear.py bare|bias|lora|lora-gelu --rows 4096 --inputs 768 --outputs 3072 --calls 100 --device cuda

Without --rounds it speaks the protocol of ../alternate.py. Each round makes --calls calls, waited for together.
"""

import argparse
import time

import torch
from lists import serve_rounds
from torch.nn import functional

RANK = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contender", choices=["bare", "bias", "lora", "lora-gelu"])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--inputs", type=int, default=768)
    parser.add_argument("--outputs", type=int, default=3072)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()

    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    torch.manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=args.device).to(dtype)

    x, w, b = matrix(args.rows, args.inputs), matrix(args.outputs, args.inputs), matrix(args.outputs)
    lora_a, lora_b = matrix(RANK, args.inputs), matrix(args.outputs, RANK)

    def call() -> torch.Tensor:
        if args.contender == "bare":
            return torch.matmul(x, w.T)
        y = functional.linear(x, w, b)
        if args.contender == "bias":
            return y
        y = torch.addmm(y, x @ lora_a.T, lora_b.T)
        return functional.gelu(y) if args.contender == "lora-gelu" else y

    def wait() -> None:
        if args.device == "cuda":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def one_round() -> dict:
        start = time.perf_counter()
        for _ in range(args.calls):
            call()
        wait()
        seconds = (time.perf_counter() - start) / args.calls
        return {
            "contender": f"torch {args.contender}",
            "p50_ms": 1e3 * seconds,
            "tokens_per_s": round(args.rows / seconds),
        }

    wait()
    serve_rounds(one_round, args.rounds)


if __name__ == "__main__":
    main()
