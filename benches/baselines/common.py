"""What the baselines share: N-best lists, word errors, batches, the model, and the go/quit protocol."""

import gzip
import json
import resource
import sys
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, BertForSequenceClassification

TARGETS = {
    "query": r"attention\.self\.query",
    "key": r"attention\.self\.key",
    "value": r"attention\.self\.value",
    "attention.output": r"attention\.output\.dense",
    "intermediate": r"intermediate\.dense",
    "output": r"\d+\.output\.dense",
}


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


def read_lists(paths: list[str], model: str, limit: int | None = None) -> list[Utterance]:
    tokenizer = AutoTokenizer.from_pretrained(model)
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
                        tokenizer(texts, truncation=True, max_length=512)["input_ids"],
                    )
                )
    return out


def pad(tokens: list[list[int]], device: str = "cpu") -> dict[str, torch.Tensor]:
    rows = [torch.tensor(t) for t in tokens]
    ids = pad_sequence(rows, batch_first=True)  # [PAD] is 0
    mask = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def load_model(path: str, device: str = "cpu", attention: str = "sdpa") -> tuple[BertForSequenceClassification, bool]:
    """The classifier without dropout, and whether the checkpoint lacked a pooler."""
    model, info = BertForSequenceClassification.from_pretrained(
        path, num_labels=1, dtype=torch.float32, attn_implementation=attention, output_loading_info=True,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    return model.to(device), any("pooler" in key for key in info["missing_keys"])


def trainable(path: str, rank: int, alpha: float, targets: str, full: bool, device: str) -> torch.nn.Module:
    """A PEFT model, or the whole model where `full`; classifier.bias is frozen, as it has no gradient."""
    model, fresh_pooler = load_model(path, device)
    if not full:
        pattern = "|".join(TARGETS[t] for t in targets.split(","))
        saved = ["classifier", "pooler"] if fresh_pooler else ["classifier"]
        config = LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=rf".*\.({pattern})", modules_to_save=saved, task_type="SEQ_CLS"
        )
        model = get_peft_model(model, config)
    for name, p in model.named_parameters():
        if "classifier" in name and name.endswith("bias"):
            p.requires_grad_(False)
    return model


def merged(path: str, adapter: str | None, attention: str = "sdpa") -> BertForSequenceClassification:
    torch.manual_seed(0)  # a checkpoint without a classifier gets the same random one in every contender
    model, _ = load_model(path, attention=attention)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


def mwer(scores: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(scores, dim=-1)
    return (p * (errors - errors.mean(-1, keepdim=True))).sum()


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
