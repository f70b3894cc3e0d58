#!/usr/bin/env python3
"""Time of a training step in PyTorch + PEFT: utterances x 8 hypotheses, MWER loss, AdamW; an adapter of rank 8 on query
and value, or that of --adapter, or everything.

    python step.py --model DIR --data lists.jsonl.gz --threads 2 --rounds 3 [--full-finetune]
        [--compile default|reduce-overhead|max-autotune]

Without --rounds it speaks the protocol of ../alternate.py. Each round runs --steps steps. A step's rows pass forward in
--pieces padded batches by length, and back together.
"""

import argparse
import itertools
import time

import numpy as np
import torch
from common import mwer, pad, trainable
from lists import read_lists, serve_rounds, timings

HYPOTHESES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--adapter", help="a PEFT folder to go on from")
    parser.add_argument("--full-finetune", action="store_true")
    parser.add_argument("--compile", metavar="MODE", help="torch.compile in this mode; lengths are multiples of 16")
    parser.add_argument("--pieces", type=int, default=1)
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, where the forward pass runs under bf16 autocast")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    count = args.steps * args.utterances
    lists = [u for u in read_lists([args.data], args.model) if len(u.tokens) >= HYPOTHESES]
    lists = list(itertools.islice(itertools.cycle(lists), count))  # a short file goes round
    batches = []
    for at in range(0, count, args.utterances):
        group = lists[at : at + args.utterances]
        tokens = [t for u in group for t in u.tokens[:HYPOTHESES]]
        am = torch.tensor(np.stack([u.am[:HYPOTHESES] for u in group]), dtype=torch.float32).to(args.device)
        errors = torch.tensor(np.stack([u.errors[:HYPOTHESES] for u in group]), dtype=torch.float32).to(args.device)
        batches.append((tokens, 0.3 * am, errors))
    model = trainable(args.model, 8, 8, "query,value", args.full_finetune, args.device, args.adapter)
    model.train()
    on_gpu = args.device == "cuda"
    weights = torch.cuda.memory_allocated() if on_gpu else 0
    forward = torch.compile(model, mode=args.compile) if args.compile else model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01)
    first_loss = None

    def scores_of(tokens: list[list[int]]) -> torch.Tensor:
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        scores = []
        for piece in np.array_split(order, args.pieces):
            inputs = pad([tokens[i] for i in piece], args.device)
            if args.compile:
                columns = -inputs["input_ids"].shape[1] % 16
                inputs = {name: torch.nn.functional.pad(x, (0, columns)) for name, x in inputs.items()}
            with torch.autocast(args.device, torch.bfloat16, enabled=on_gpu):
                scores.append(forward(**inputs).logits[:, 0].float())
            computed.append(inputs["input_ids"].numel())
        return torch.cat(scores)[torch.tensor(np.argsort(order), device=args.device)]

    def step(tokens: list[list[int]], am: torch.Tensor, errors: torch.Tensor) -> None:
        nonlocal first_loss
        scores = scores_of(tokens).view(args.utterances, HYPOTHESES)
        loss = mwer(am + scores, errors) / args.utterances
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if first_loss is None:
            first_loss = loss.item()

    computed: list[int] = []
    for batch in batches if args.compile else batches[:2]:  # every length is compiled once
        step(*batch)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()

    def one_round() -> dict:
        computed.clear()
        seconds = []
        for batch in batches:
            start = time.perf_counter()
            step(*batch)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        tokens = [sum(map(len, tokens)) for tokens, _, _ in batches]
        name = " ".join(["full" if args.full_finetune else "peft", *filter(None, [args.compile])])
        answer = timings(name, tokens, seconds) | {"padding": round(1 - sum(tokens) / sum(computed), 4)}
        answer["first_loss"] = first_loss
        if on_gpu:
            answer["device_mb"] = round((torch.cuda.max_memory_allocated() - weights) / 2**20, 1)
        return answer

    serve_rounds(one_round, args.rounds)


if __name__ == "__main__":
    main()
