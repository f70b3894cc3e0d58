"""What every baseline needs, without a framework: N-best lists as token ids, word errors, and the go/quit protocol."""

import gzip
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Utterance:
    id: str
    reference: str
    texts: list[str]
    am: np.ndarray
    lm: np.ndarray
    errors: np.ndarray
    tokens: list[list[int]]


def word_errors(ref: list[str], hyp: list[str]) -> int:
    """Levenshtein distance in words; the common beginning and end are skipped, which makes it fast here."""
    start = 0
    while start < min(len(ref), len(hyp)) and ref[start] == hyp[start]:
        start += 1
    end = 0
    while end < min(len(ref), len(hyp)) - start and ref[-1 - end] == hyp[-1 - end]:
        end += 1
    ref, hyp = ref[start : len(ref) - end], hyp[start : len(hyp) - end]
    row = list(range(len(hyp) + 1))
    for i, r in enumerate(ref, 1):
        diagonal, row[0] = row[0], i
        for j, h in enumerate(hyp, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (r != h))
    return row[-1]


def tokenizer_of(model: str):
    """Texts to token ids, cut at the model's longest sequence."""
    limit = json.loads((Path(model) / "config.json").read_text())["max_position_embeddings"]
    file = Path(model) / "tokenizer.json"
    if not file.exists():
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(model)
        return lambda texts: slow(texts, truncation=True, max_length=limit)["input_ids"]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def read_lists(paths: list[str], model: str, limit: int | None = None) -> list[Utterance]:
    tokenize = tokenizer_of(model)
    out = []
    for path in paths:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as file:
            for line in file:
                if limit is not None and len(out) == limit:
                    return out
                row = json.loads(line)
                texts = [h["text"] for h in row["hyps"]]
                ref = row["ref"].split()
                out.append(
                    Utterance(
                        row["id"],
                        row["ref"],
                        texts,
                        np.array([h["am"] for h in row["hyps"]]),
                        np.array([h.get("lm", 0.0) for h in row["hyps"]]),
                        np.array([word_errors(ref, t.split()) for t in texts]),
                        tokenize(texts),
                    )
                )
    return out


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timings(contender: str, tokens: list[int], seconds: list[float]) -> dict:
    """What a round answers of its timed calls: one by one, and what they come to."""
    return {
        "contender": contender,
        "tokens_per_s": round(sum(tokens) / sum(seconds)),
        "p50_ms": round(1e3 * float(np.percentile(seconds, 50)), 3),
        "p95_ms": round(1e3 * float(np.percentile(seconds, 95)), 3),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "seconds": seconds,
        "tokens": tokens,
    }


def serve_rounds(one_round, rounds: int | None) -> None:
    """Runs `rounds` rounds; without a number, one for each line "go" on stdin until "quit" or its end.

    Each round prints one line of JSON.
    """
    commands = ["go"] * rounds if rounds else map(str.strip, sys.stdin)
    for command in commands:
        if command == "quit":
            break
        if command == "go":
            print(json.dumps(one_round()), flush=True)
