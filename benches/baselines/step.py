#!/usr/bin/env python3
"""Time of a training step in PyTorch + PEFT: 4 utterances x 8 hypotheses, query + value, r = 8, MWER loss, AdamW.

    python step.py --model DIR --data lists.jsonl.gz --threads 2 --rounds 3 [--full-finetune]

Without --rounds it speaks the protocol of ../alternate.py. Each round runs --steps steps.
"""

import argparse
import time

import numpy as np
import torch
from common import mwer, pad, peak_rss_mb, read_lists, serve_rounds, trainable

UTTERANCES, HYPOTHESES = 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--full-finetune", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda, where the forward pass runs under bf16 autocast")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lists = [u for u in read_lists([args.data], args.model, args.steps * UTTERANCES) if len(u.tokens) >= HYPOTHESES]
    batches = []
    for at in range(0, len(lists) - UTTERANCES + 1, UTTERANCES):
        group = lists[at : at + UTTERANCES]
        tokens = [t for u in group for t in u.tokens[:HYPOTHESES]]
        am = torch.tensor(np.stack([u.am[:HYPOTHESES] for u in group]), dtype=torch.float32).to(args.device)
        errors = torch.tensor(np.stack([u.errors[:HYPOTHESES] for u in group]), dtype=torch.float32).to(args.device)
        batches.append((tokens, 0.3 * am, errors))
    model = trainable(args.model, 8, 8, "query,value", args.full_finetune, args.device)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01)

    def step(tokens: list[list[int]], am: torch.Tensor, errors: torch.Tensor) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            scores = model(**pad(tokens, args.device)).logits.float().view(UTTERANCES, HYPOTHESES)
        loss = sum(mwer(s, e) for s, e in zip(am + scores, errors)) / UTTERANCES
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    for batch in batches[:2]:
        step(*batch)

    def one_round() -> dict:
        times = []
        for batch in batches:
            start = time.perf_counter()
            step(*batch)
            if args.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return {
            "contender": "full" if args.full_finetune else "peft",
            "p50_ms": round(1e3 * float(np.median(times)), 2),
            "tokens_per_s": round(sum(len(t) for tokens, _, _ in batches for t in tokens) / sum(times)),
            "peak_rss_mb": round(peak_rss_mb(), 1),
        }

    serve_rounds(one_round, args.rounds)


if __name__ == "__main__":
    main()
