#!/usr/bin/env python3
"""The LoRB recipe in PyTorch + PEFT: what `lorb-engine train` does, as its baseline.

Each step takes --utterances lists and --hyps hypotheses of each: the one with the best first-pass score and others
drawn uniformly without replacement. The loss is the mean over the utterances of MWER plus --corr-weight times the
correlation loss. Weight decay applies to tensors of two dimensions. Prints JSON lines: one a step, one at the end.
"""

import argparse
import json
import math
import random
import time

import numpy as np
import torch
from common import TARGETS, Utterance, mwer, pad, peak_rss_mb, read_lists, trainable

LM_WEIGHT = 0.6
LM_GRID = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
BETA_GRID = [0.0, *(10 ** (k / 8) for k in range(-16, 25))]


def sample(utterance: Utterance, count: int, rng: random.Random) -> list[int]:
    best = int(utterance.am.argmax())
    others = [i for i in range(len(utterance.texts)) if i != best]
    return [best, *rng.sample(others, min(count - 1, len(others)))]


def forward(model: torch.nn.Module, tokens: list[list[int]], chunk: int, device: str) -> torch.Tensor:
    """Scores in the order of `tokens`, computed in chunks of similar length to save padding."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    parts = [
        model(**pad([tokens[i] for i in order[at : at + chunk]], device)).logits[:, 0]
        for at in range(0, len(order), chunk)
    ]
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back.to(device)]


def correlation_loss(z: torch.Tensor) -> torch.Tensor:
    n, d = z.shape
    z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
    norm = (z @ z.T / n if n < d else z.T @ z / n).square().sum()
    return (norm - (z.square().sum(0) / n).square().sum()) / d


@torch.inference_mode()
def score_all(model: torch.nn.Module, lists: list[Utterance], chunk: int, device: str) -> list[np.ndarray]:
    model.eval()
    scores = forward(model, [t for u in lists for t in u.tokens], chunk, device).float().cpu().numpy()
    return np.split(scores, np.cumsum([len(u.texts) for u in lists])[:-1])


def wer(lists: list[Utterance], scores: list[np.ndarray], lm_weight: float, beta: float) -> float:
    errors = sum(u.errors[(u.am + lm_weight * u.lm + beta * g).argmax()] for u, g in zip(lists, scores))
    return 100.0 * float(errors) / sum(len(u.reference.split()) for u in lists)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--valid", default="0.1", help="a file, or the fraction of the training lists held out")
    parser.add_argument("--test", nargs="*", default=[])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=8)
    parser.add_argument("--targets", default="query,value", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--full-finetune", action="store_true")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--head-lr", type=float, help="of the classifier and a fresh pooler; default --lr")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--steps", type=int, help="instead of --epochs")
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--hyps", type=int, default=8)
    parser.add_argument("--wa", type=float, default=0.3, help="weight of the first-pass score in training")
    parser.add_argument("--wl", type=float, default=0.0, help="weight of the LM score in training")
    parser.add_argument("--beta", default="learned", help="a number, or learned (starts at 1)")
    parser.add_argument("--corr-weight", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunk", type=int, default=32, help="rows of one forward pass")
    parser.add_argument("--time-limit", type=float, default=math.inf, help="seconds after which training stops")
    parser.add_argument("--out", help="write the adapter (or the model) there")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    train = read_lists(args.train, args.model)
    try:
        held_out = round(float(args.valid) * len(train))
    except ValueError:
        valid = read_lists([args.valid], args.model)
    else:
        rng.shuffle(train)
        train, valid = train[held_out:], train[:held_out]

    model = trainable(args.model, args.rank, args.alpha, args.targets, args.full_finetune, args.device)
    learned = args.beta == "learned"
    theta = torch.tensor(0.0 if learned else math.log(float(args.beta)), device=args.device, requires_grad=learned)
    bert = model.bert if args.full_finetune else model.base_model.model.bert
    features: list[torch.Tensor] = []
    hook = bert.pooler.register_forward_hook(lambda _m, _i, output: features.append(output))

    head_lr = args.head_lr or args.lr
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, p in [*model.named_parameters(), ("theta", theta)]:
        if p.requires_grad:
            lr = head_lr if "classifier" in name or "pooler" in name else args.lr
            groups.setdefault((lr, 0.01 if p.ndim >= 2 else 0.0), []).append(p)
    trained = [p for group in groups.values() for p in group]
    optimizer = torch.optim.AdamW([{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()])
    steps = args.steps or math.ceil(args.epochs * len(train) / args.utterances)
    warmup = max(1, round(0.05 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: (t + 1) / warmup if t < warmup else (steps - t) / max(1, steps - warmup)
    )
    print(json.dumps({"trained": sum(p.numel() for p in trained), "steps": steps, "train": len(train)}), flush=True)

    queue: list[Utterance] = []
    step_ms: list[float] = []
    start = time.perf_counter()
    model.train()
    for step in range(steps):
        if time.perf_counter() - start > args.time_limit:
            break
        step_start = time.perf_counter()
        while len(queue) < args.utterances:
            queue += rng.sample(train, len(train))
        group, queue = queue[: args.utterances], queue[args.utterances :]
        picked = [sample(u, args.hyps, rng) for u in group]
        features.clear()
        tokens = [u.tokens[i] for u, pick in zip(group, picked) for i in pick]
        scores = forward(model, tokens, args.chunk, args.device).split([len(pick) for pick in picked])
        mwer_loss = torch.zeros((), device=args.device)
        for u, pick, g in zip(group, picked, scores):
            first = torch.tensor(args.wa * u.am[pick] + args.wl * u.lm[pick], dtype=torch.float32, device=args.device)
            errors = torch.tensor(u.errors[pick], dtype=torch.float32, device=args.device)
            mwer_loss = mwer_loss + mwer(first + theta.exp() * g, errors) / len(group)
        loss = mwer_loss
        if args.corr_weight:
            loss = loss + args.corr_weight * correlation_loss(torch.cat(features))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        line = {"step": step, "loss": round(loss.item(), 5), "mwer": round(mwer_loss.item(), 5)}
        step_ms.append(1e3 * (time.perf_counter() - step_start))
        print(json.dumps({**line, "ms": round(step_ms[-1], 1)}), flush=True)
    train_seconds = time.perf_counter() - start
    hook.remove()
    if args.out:
        model.save_pretrained(args.out)

    scores = score_all(model, valid, args.chunk, args.device)
    beta = min(BETA_GRID, key=lambda b: wer(valid, scores, 0.0, b))
    lm, lm_beta = min(((w, b) for w in LM_GRID for b in BETA_GRID), key=lambda x: wer(valid, scores, *x))
    weights = {"am": (0.0, 0.0), "am+lm": (LM_WEIGHT, 0.0), "am+lorb": (0.0, beta), "am+lm+lorb": (lm, lm_beta)}
    result = {
        "train_seconds": round(train_seconds, 1),
        "step_ms_p50": round(float(np.median(step_ms)), 1),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "beta_trained": math.exp(theta.item()),
        "weights": {name: {"lm": w, "beta": round(b, 4)} for name, (w, b) in weights.items()},
        "wer": {"valid": {name: round(wer(valid, scores, *w), 3) for name, w in weights.items()}},
    }
    if args.device != "cpu":
        result["peak_device_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    for path in args.test:
        test = read_lists([path], args.model)
        scores = score_all(model, test, args.chunk, args.device)
        result["wer"][path] = {name: round(wer(test, scores, *w), 3) for name, w in weights.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
