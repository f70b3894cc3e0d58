#!/usr/bin/env python3
"""The recipe of `lorb-engine train` in PyTorch + PEFT, as its baseline.

The same lists, draw of hypotheses (the first pass's best, others by its posterior through Gumbel top-k), fit of the
classifier before the first step, batches by tokens, loss, optimizer and schedule; other random numbers. Writes an adapter after each epoch to OUT/epoch-N and prints
JSON lines: one a step, one an epoch, one at the end. `lorb-engine evaluate --adapter OUT/epoch-N --tune VALID TEST` judges it as it
judges its own: the scores are PyTorch's to 1e-6 (scripts/check_peft.py).
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from common import TARGETS, mwer, pad, trainable
from head_fit import head_fit
from lists import Utterance, peak_rss_mb, read_lists

CONFIDENCE = 0.7
FIT_LISTS = 2000
WARMUP = 0.05


def first_pass_weight(lists: list[Utterance]) -> float:
    """The w_a at which max softmax(w_a a) is CONFIDENCE on average."""
    low, high = math.log(1e-6), math.log(1e6)
    for _ in range(60):
        middle = (low + high) / 2
        sure = np.mean([1 / np.exp(math.exp(middle) * (u.am - u.am.max())).sum() for u in lists if len(u.am) > 1])
        low, high = (middle, high) if sure < CONFIDENCE else (low, middle)
    return math.exp(low)


def draw(utterance: Utterance, count: int, w_a: float, rng: random.Random) -> list[int]:
    keys = [w_a * a - math.log(-math.log(rng.random() or 0.5)) for a in utterance.am]
    keys[int(utterance.am.argmax())] = math.inf
    return sorted(sorted(range(len(keys)), key=lambda i: -keys[i])[:count])


def plan(lists: list[Utterance], hyps: int, tokens: int, w_a: float, rng: random.Random) -> list[list]:
    """The steps of an epoch: lists that teach something, as many a step as fit `tokens`."""
    steps, room = [], 0
    for u in rng.sample(lists, len(lists)):
        if len(set(u.errors)) < 2:
            continue
        picked = draw(u, hyps, w_a, rng)
        size = sum(len(u.tokens[i]) for i in picked)
        if not steps or size > room:
            steps.append([])
            room = max(tokens, size)
        steps[-1].append((u, picked))
        room -= size
    return steps


def forward(compute: Callable, tokens: list[list[int]], chunk: int) -> torch.Tensor:
    """A row for each of `tokens`, in their order, computed in chunks of similar length to save padding."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    parts = [compute(pad([tokens[i] for i in order[at : at + chunk]])) for at in range(0, len(order), chunk)]
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back]


def correlation_loss(z: torch.Tensor) -> torch.Tensor:
    n, d = z.shape
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
    norm = (z @ z.T / n if n < d else z.T @ z / n).square().sum()
    return (norm - (z.square().sum(0) / n).square().sum()) / d


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=8)
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--full-finetune", action="store_true")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--head-lr", type=float, default=1e-2, help="of the classifier, a fresh pooler and beta")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--hyps", type=int, default=16)
    parser.add_argument("--batch-tokens", type=int, default=1600)
    parser.add_argument("--corr-weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=32, help="rows of one forward pass")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    lists = read_lists(args.train, args.model)
    w_a = first_pass_weight(lists)
    epochs = [plan(lists, args.hyps, args.batch_tokens, w_a, rng) for _ in range(args.epochs)]
    steps = sum(map(len, epochs))

    model = trainable(args.model, args.rank, args.alpha, args.targets, args.full_finetune, "cpu")
    theta = torch.zeros((), requires_grad=True)
    bert = model.bert if args.full_finetune else model.base_model.model.bert
    features: list[torch.Tensor] = []
    bert.pooler.register_forward_hook(lambda _m, _i, output: features.append(output))
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, p in [*model.named_parameters(), ("theta", theta)]:
        if p.requires_grad:
            of_head = "classifier" in name or "pooler" in name or name == "theta"
            decay = 0.01 if p.ndim >= 2 else 0.0
            groups.setdefault((args.head_lr if of_head else args.lr, decay), []).append(p)
    trained = [p for group in groups.values() for p in group]
    optimizer = torch.optim.AdamW([{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()])
    warm = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: (t + 1) / warm if t < warm else max(0, steps - t) / max(1, steps - warm)
    )
    print(json.dumps({"trained": sum(p.numel() for p in trained), "steps": steps, "w_a": w_a}), flush=True)

    step_ms, tokens_seen = [], 0
    start = time.perf_counter()
    fitted, fit_lists = [], [one for group in epochs[0] for one in group][:FIT_LISTS]
    for u, picked in fit_lists:
        with torch.no_grad():
            z = forward(lambda b: bert(**b).pooler_output, [u.tokens[i] for i in picked], args.chunk)
        fitted.append((z.numpy(), w_a * u.am[picked], u.errors[picked]))
    if (weight := head_fit(fitted)) is not None:
        classifier = next(p for n, p in model.named_parameters() if "classifier" in n and p.requires_grad)
        classifier.data.copy_(torch.from_numpy(weight)[None])
    print(json.dumps({"fit_seconds": round(time.perf_counter() - start, 1)}), flush=True)
    model.train()
    for number, epoch in enumerate(epochs, 1):
        for group in epoch:
            step_start = time.perf_counter()
            features.clear()
            tokens = [u.tokens[i] for u, picked in group for i in picked]
            scores = forward(lambda b: model(**b).logits[:, 0], tokens, args.chunk).split([len(picked) for _, picked in group])
            losses, without = [], []
            for (u, picked), g in zip(group, scores):
                first = torch.tensor(w_a * (u.am[picked] - u.am[picked].max()), dtype=torch.float32)
                errors = torch.tensor(u.errors[picked], dtype=torch.float32)
                losses.append(mwer(first + theta.exp() * g, errors))
                without.append(mwer(first, errors))
            mwer_loss = torch.stack(losses).mean()
            loss = mwer_loss
            if args.corr_weight:
                loss = loss + args.corr_weight * correlation_loss(torch.cat(features))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            step_ms.append(1e3 * (time.perf_counter() - step_start))
            tokens_seen += sum(map(len, tokens))
            line = {"step": len(step_ms), "mwer": mwer_loss.item(), "first_pass": torch.stack(without).mean().item()}
            print(json.dumps({**line, "ms": round(step_ms[-1], 1)}), flush=True)
        model.save_pretrained(f"{args.out}/epoch-{number}")
        print(json.dumps({"epoch": number, "steps": len(step_ms)}), flush=True)
    seconds = time.perf_counter() - start
    result = {"train_seconds": seconds, "tokens_per_s": tokens_seen / seconds, "step_ms_p50": float(np.median(step_ms))}
    print(json.dumps({**result, "peak_rss_mb": peak_rss_mb(), "beta": math.exp(theta.item())}))


if __name__ == "__main__":
    main()
