#!/usr/bin/env python3
"""Writes tests/fixtures/golden: a tiny random BERT, PEFT adapters, and what PyTorch + PEFT compute with them.

    python scripts/make_golden.py tests/fixtures/golden

The reference runs in float64; the same run in float32 gives the errors from which the tests derive tolerances.
tests/fixtures/golden/README.md says what is in each file.
"""

import json
import shutil
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

WORDS = """the a an cat cats sat sad on in and at mat map hat looked looks rain reign train yes please peas no good
morning mourning sir we were where heard her bird word world music played play plain again old new hall haul open
opened window winter light night quiet quite of to is it was his here hear sea see time green tree house mouse
blue red dog fog very slow""".split()
PIECES = "##s ##ed ##ing ##er ##ly ##play ##light ##time re un ##un ##day ##work sun day work ##house ##tree".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *WORDS, *PIECES]

# (id, reference, [(text, first-pass log-score, LM log-score)]); golden-1 repeats a text, golden-2 has an empty one.
LISTS = [
    ("golden-1", "THE CAT SAT ON THE MAT AND LOOKED AT THE RAIN", [
        ("THE CAT SAT ON THE MAT AND LOOKED AT THE REIGN", -1.25, -31.5),
        ("THE CAT SAT ON THE MAT AND LOOKED AT THE RAIN", -1.75, -29.25),
        ("THE CATS SAD ON THE MAP AND LOOKED AT THE TRAIN", -3.5, -36.0),
        ("THE CAT SAT IN THE HAT AND LOOKS AT RAIN", -4.25, -33.75),
        ("THE CAT SAT ON THE MAT AND LOOKED AT THE REIGN", -4.5, -31.5),
        ("A CAT SAT ON A MAT LOOKED AT THE RAIN", -5.75, -32.5),
        ("THE CAT", -9.0, -8.5),
    ]),
    ("golden-2", "YES PLEASE", [
        ("YES", -0.75, -4.5),
        ("YES PLEASE", -1.0, -6.25),
        ("", -2.5, -1.0),
        ("YES PEAS", -3.25, -11.0),
    ]),
    ("golden-3", "GOOD MORNING", [("GOOD MOURNING SIR", -0.5, -12.75)]),
    ("golden-4", "WE HEARD HER MUSIC REPLAYED AGAIN IN THE OLD HALL WHERE SUNLIGHT OPENED QUIETLY", [
        ("WE HEARD HER MUSIC REPLAYED AGAIN IN THE OLD HAUL WERE SUNLIGHT OPENED QUIETLY", -2.25, -58.0),
        ("WE HEARD A BIRD REPLAYED AGAIN IN THE OLD HALL WHERE SUN LIGHT OPENED QUITE", -2.75, -55.5),
        ("WHERE HEARD HER MUSIC PLAYED AGAIN IN THE OLD HALL WHERE SUNLIGHT OPENED QUIETLY", -3.0, -54.25),
    ]),
]

SELF = r".*\.attention\.self\."
ALL_SIX = r".*\.(attention\.self\.(query|key|value)|attention\.output\.dense|intermediate\.dense|\d+\.output\.dense)"
# folder: (target_modules, r, modules_to_save); alpha is 8 everywhere.
VARIANTS = {
    "adapter_start": (ALL_SIX, 4, ["classifier"]),
    "adapter_qv": (SELF + "(query|value)", 8, ["classifier"]),
    "adapter_pooler": (SELF + "query", 2, ["classifier", "pooler"]),
}
W_A, W_L, BETA_START, CORR_WEIGHT, CORR_EPS = 0.3, 0.0, 0.8, 0.01, 1e-5
LR, STEPS, WARMUP, END, WEIGHT_DECAY, CLIP = 2e-3, 10, 3, 12, 0.01, 1.0


def word_errors(reference: str, text: str) -> int:
    ref, hyp = reference.split(), text.split()
    row = list(range(len(hyp) + 1))
    for i, r in enumerate(ref, 1):
        diagonal, row[0] = row[0], i
        for j, h in enumerate(hyp, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (r != h))
    return row[-1]


def learning_rate(step: int) -> float:
    return LR * (step + 1) / WARMUP if step < WARMUP else LR * (END - step) / (END - WARMUP)


def make_base(folder: Path) -> None:
    config = BertConfig(
        vocab_size=len(VOCAB), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=160,
        max_position_embeddings=64, layer_norm_eps=1e-12, num_labels=1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            std = 0.3 if name == "classifier.weight" else 0.12
            p.copy_(noise * std + (1.0 if name.endswith("LayerNorm.weight") else 0.0))
    model.half().save_pretrained(folder)  # float16 halves the file; the values load exactly into float32 and float64
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=64).save_pretrained(folder)


def load_base(folder: Path) -> BertForSequenceClassification:
    return BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def make_adapter(base: Path, folder: Path, targets: str, rank: int, saved: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=8, lora_dropout=0.0, target_modules=targets, modules_to_save=saved, task_type="SEQ_CLS"
    )
    model = get_peft_model(load_base(base), config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0.0, 0.1)
            elif "modules_to_save" in name:  # not the base's values, so that reading the wrong ones shows
                p.normal_(0.0, 0.3 if "classifier" in name else 0.15)
    model.peft_config["default"].base_model_name_or_path = "base"
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()


def run(base: Path, adapter: Path, dtype: torch.dtype, token_ids: list[list[int]], sizes: list[int]) -> dict:
    model = PeftModel.from_pretrained(load_base(base), adapter, is_trainable=True).to(dtype)
    named = {
        n.replace(".default", "").replace(".modules_to_save", ""): p
        for n, p in model.named_parameters()
        if p.requires_grad
    }
    named.pop("base_model.model.classifier.bias").requires_grad_(False)
    theta = torch.nn.Parameter(torch.tensor(BETA_START, dtype=torch.float64).log().to(dtype))
    trained = {**named, "theta": theta}

    longest = max(map(len, token_ids))
    ids = torch.tensor([t + [0] * (longest - len(t)) for t in token_ids])
    mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in token_ids])
    errors = [[float(word_errors(ref, h[0])) for h in hyps] for _, ref, hyps in LISTS]
    first_pass = [[W_A * h[1] + W_L * h[2] for h in hyps] for _, _, hyps in LISTS]

    features: list[torch.Tensor] = []
    model.base_model.model.bert.pooler.register_forward_hook(lambda _m, _i, output: features.append(output))

    def losses() -> tuple[dict, torch.Tensor, list[torch.Tensor]]:
        features.clear()
        scores = model(input_ids=ids, attention_mask=mask).logits[:, 0]
        mwer, posteriors = scores.new_zeros(()), []
        for g, a, e in zip(scores.split(sizes), first_pass, errors):
            p = torch.softmax(torch.tensor(a, dtype=dtype) + theta.exp() * g, dim=0)
            e = torch.tensor(e, dtype=dtype)
            mwer = mwer + (p * (e - e.mean())).sum() / len(sizes)
            posteriors.append(p)
        z = features[0]
        n, d = z.shape
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + CORR_EPS).sqrt()
        c = z.T @ z / n
        correlation = (c.square().sum() - c.diagonal().square().sum()) / d
        return {"mwer": mwer, "correlation": correlation, "total": mwer + CORR_WEIGHT * correlation}, scores, posteriors

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        found = torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(trained.items(), found)}

    loss, scores, posteriors = losses()
    by_loss = {name: gradients(value) for name, value in loss.items()}
    score_gradient = torch.autograd.grad(loss["mwer"], scores, retain_graph=True)[0]

    def values(loss: dict) -> dict:
        return {name: value.item() for name, value in loss.items()}

    result = {
        "json": {
            "scores": [g.tolist() for g in scores.detach().split(sizes)],
            "posteriors": [p.tolist() for p in posteriors],
            "mwer_score_gradient": [g.tolist() for g in score_gradient.split(sizes)],
            "loss": values(loss),
            "theta_gradient": by_loss["total"]["theta"].item(),
            "gradient_norm": {
                name: {loss_name: by_loss[loss_name][name].norm().item() for loss_name in ("mwer", "correlation")}
                for name in named
            },
        },
        "gradient": by_loss["total"],
    }

    groups = [
        {"params": [p for p in trained.values() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.999), eps=1e-8)
    steps: dict[str, list] = {"mwer": [], "correlation": [], "total": [], "clip_norm": [], "theta_after": []}
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss, _, _ = losses()
        optimizer.zero_grad()
        loss["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(list(trained.values()), CLIP)
        optimizer.step()
        for name, value in {**values(loss), "clip_norm": norm.item(), "theta_after": theta.item()}.items():
            steps[name].append(value)
    result["json"]["steps"] = steps
    result["json"]["loss_after"] = values(losses()[0])
    result["after"] = {name: p.detach() for name, p in trained.items()}
    return result


def f32_error(low: dict, high: dict) -> dict:
    """The largest absolute error of the float32 run, for each tensor."""
    return {name: float(f"{(low[name].double() - high[name]).abs().max().item():.2e}") for name in high}


def main() -> None:
    out = Path(sys.argv[1])
    base = out / "base"
    for folder in ["base", *VARIANTS]:
        shutil.rmtree(out / folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make_base(base)
    with open(out / "lists.jsonl", "w") as file:
        for name, ref, hyps in LISTS:
            rows = [{"text": text, "am": am, "lm": lm} for text, am, lm in hyps]
            file.write(json.dumps({"id": name, "ref": ref, "hyps": rows}) + "\n")

    tokenizer = BertTokenizer.from_pretrained(base)
    sizes = [len(hyps) for _, _, hyps in LISTS]
    token_ids = [tokenizer(h[0])["input_ids"] for _, _, hyps in LISTS for h in hyps]
    assert not any(tokenizer.unk_token_id in t for t in token_ids)

    tensors, variants = {}, {}
    for seed, (name, (targets, rank, saved)) in enumerate(VARIANTS.items(), 2):
        make_adapter(base, out / name, targets, rank, saved, seed)
        high = run(base, out / name, torch.float64, token_ids, sizes)
        low = run(base, out / name, torch.float32, token_ids, sizes)
        kinds = ("gradient", "after") if name == "adapter_start" else ("gradient",)  # keeps the folder small
        for kind in kinds:
            for tensor in high[kind]:
                if tensor != "theta":
                    tensors[f"{name}/{kind}/{tensor}"] = high[kind][tensor].float().contiguous()
        variants[name] = {
            "f64": high["json"],
            "f32": {key: low["json"][key] for key in ("scores", "loss", "theta_gradient", "loss_after")},
            "f32_error": {kind: f32_error(low[kind], high[kind]) for kind in kinds},
        }
    save_file(tensors, out / "golden.safetensors")

    ragged = iter(token_ids)
    golden = {
        "versions": {m.__name__: m.__version__.split("+")[0] for m in (torch, transformers, peft)},
        "settings": {
            "w_a": W_A, "w_l": W_L, "theta_start": torch.tensor(BETA_START, dtype=torch.float64).log().item(),
            "correlation_weight": CORR_WEIGHT, "correlation_epsilon": CORR_EPS,
            "lr": LR, "betas": [0.9, 0.999], "adam_epsilon": 1e-8, "clip": CLIP, "weight_decay": WEIGHT_DECAY,
            "lr_by_step": [learning_rate(step) for step in range(STEPS)],
            "lr_formula": "lr * (t + 1) / 3 for t < 3, else lr * (12 - t) / (12 - 3), t from 0",
        },
        "utterances": [
            {
                "id": name,
                "errors": [word_errors(ref, h[0]) for h in hyps],
                "token_ids": [next(ragged) for _ in hyps],
            }
            for name, ref, hyps in LISTS
        ],
        "variants": variants,
    }
    (out / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        print(f"{path.stat().st_size:8d} {path.relative_to(out)}")


if __name__ == "__main__":
    main()
