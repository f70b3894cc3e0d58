#!/usr/bin/env python3
"""Everything that is measured on a GPU, in one session: this engine against cuBLAS, PyTorch and PEFT.

    cargo bench --features cuda --bench contender --no-run           # where Rust is; prints the binary
    python benches/gpu.py --contender BINARY --lists LISTS           # where the GPU is

Writes benches/results/DATE-MACHINE: README.md with the environment and one Markdown table, and raw.csv with every
round. The contenders of a row alternate, so that a GPU that slows down slows all of them; ratios are of medians.
Floors are what the arithmetic and the bytes of a row take at the rates of an H100, which nothing reaches. With
--device cpu --quick it goes through all of it on a CPU with a small model, to see that it works: numbers that mean
nothing.
"""

import argparse
import csv
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from alternate import alternate, cpu_name, medians_of

BENCHES = Path(__file__).resolve().parent
BASELINES = BENCHES / "baselines"
BUILTIN = BENCHES.parent / "assets/builtin"

FLOPS, BYTES = 790e12, 3.0e12  # a second
RANK, HYPOTHESES = 8, 8


@dataclass
class Shape:
    """Of the model, and what it costs."""

    hidden: int
    layers: int
    intermediate: int

    @property
    def weights(self) -> int:
        """Of the encoder's products."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)

    @property
    def forward_flops(self) -> int:
        """Of a token: the last layer's but for keys and values are the [CLS]'s alone."""
        last = 2 * self.hidden**2 + 2 * self.hidden * self.intermediate
        return 2 * (self.weights - last)


@dataclass
class Row:
    """One comparison: the first contender is this engine, the others' ratios are to it."""

    name: str
    contenders: list[list[str]]
    flops: float
    bytes: float
    column: str = "p50_ms"
    found: list[list[dict]] = field(default_factory=list)

    @property
    def floor_ms(self) -> float:
        return 1e3 * max(self.flops / FLOPS, self.bytes / BYTES)


def rows(args: argparse.Namespace, model: Path, shape: Shape) -> list[Row]:
    counts = token_counts(args.lists)
    device = ["--device", args.device]
    where = ["--model", str(model), "--data", str(args.lists)]
    lists = min(len(counts), 10 if args.quick else 200)
    steps = 2 if args.quick else 20

    def engine(what: str, *more: object) -> list[str]:
        return [str(args.contender), what, str(model), *map(str, more)]

    def baseline(script: str, *more: object) -> list[str]:
        return [sys.executable, str(BASELINES / script), *map(str, more), *device]

    found = []
    tokens, calls = (64, 2) if args.quick else (4096, 100)
    inputs, outputs = shape.hidden, shape.intermediate
    products = 2 * tokens * (inputs * outputs + RANK * (inputs + outputs))
    traffic = 2 * (tokens * (inputs + outputs) + inputs * outputs + RANK * (inputs + outputs))
    sizes = ["--rows", tokens, "--inputs", inputs, "--outputs", outputs, "--calls", calls]
    for what, torch in (("linear", ("bare", "bias", "lora")), ("linear-gelu", ("lora-gelu", "bare"))):
        name = f"(a) {what.replace('linear', 'LoRA linear')}, {tokens} x {inputs} -> {outputs}, r = {RANK}"
        contenders = [engine(what, tokens, calls, args.device), *(baseline("linear.py", t, *sizes) for t in torch)]
        found.append(Row(name, contenders, products, traffic))

    modes = ["default"] if args.quick else [mode for mode in args.compile.split(",") if mode]
    for letter, utterances, count in (("b", 4, steps), ("c", 2 if args.quick else 128, max(2, steps // 4))):
        mean = sum(sum(list[:HYPOTHESES]) for list in counts) / len(counts)
        step_tokens = utterances * mean
        base = ["step.py", *where, "--steps", count, "--utterances", utterances]
        contenders = [
            engine("step", args.lists, count, args.device, utterances),
            baseline(*base),
            *(baseline(*base, "--compile", mode) for mode in modes),
            baseline(*base, "--full-finetune"),
        ]
        name = f"({letter}) LoRA step of {utterances * HYPOTHESES} hypotheses, {step_tokens:.0f} tokens"
        row = Row(name, contenders, 2 * step_tokens * shape.forward_flops, 2 * 2 * shape.weights)
        found.append(row)
        # The same runs, another column: what the device held beside the weights.
        memory = Row(f"(e) device memory beside the weights, as ({letter})", [], 0, 0, "device_mb")
        memory.found = row.found
        found.append(memory)

    mean = sum(map(sum, counts[:lists])) / lists
    name = f"(d) one list of {len(counts[0])} hypotheses, {mean:.0f} tokens"
    where += ["--lists", lists]
    torch = ["torch-bf16", *(["torch-graphs"] if args.device == "cuda" else [])]
    contenders = [
        engine("rescore", args.lists, lists, args.device),
        engine("rescore-merged", args.lists, lists, args.device),
        *(baseline("rescore.py", contender, *where) for contender in torch),
    ]
    found.append(Row(name, contenders, mean * shape.forward_flops, 2 * shape.weights))
    return found


def token_counts(lists: Path) -> list[list[int]]:
    """About: a token a word, [CLS] and [SEP]; of lists with enough hypotheses for a step."""
    import gzip

    with gzip.open(lists, "rt") if lists.suffix == ".gz" else open(lists) as file:
        counts = [[len(h["text"].split()) + 2 for h in json.loads(line)["hyps"]] for line in file]
    counts = [count for count in counts if len(count) >= HYPOTHESES]
    if not counts:
        raise SystemExit(f"{lists}: no list has {HYPOTHESES} hypotheses")
    return counts


def table(found: list[Row]) -> list[str]:
    lines = [
        "| | contender | measured | ratio to the engine | floor | to the floor |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in found:
        medians = [medians_of(rounds) for rounds in row.found]
        unit = "ms" if row.column == "p50_ms" else "MiB"
        first = medians[0].get(row.column)
        for i, (rounds, median) in enumerate(zip(row.found, medians)):
            value = median.get(row.column)
            measured = "" if value is None else f"{value:.4g} {unit}"
            ratio = "" if value is None or not first or i == 0 else f"{value / first:.2f}"
            floor = f"{row.floor_ms:.3g} ms" if i == 0 and row.floor_ms else ""
            reached = f"{value / row.floor_ms:.1f}" if floor and value else ""
            name = row.name if i == 0 else ""
            lines.append(f"| {name} | {rounds[0]['contender']} | {measured} | {ratio} | {floor} | {reached} |")
    return lines


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not known"


def environment(args: argparse.Namespace) -> dict[str, str]:
    import peft
    import torch
    import transformers

    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "CPU": cpu_name(),
        "Python": platform.python_version(),
        "PyTorch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "transformers, PEFT": f"{transformers.__version__}, {peft.__version__}",
        "engine": output_of("git", "-C", str(BENCHES), "rev-parse", "HEAD"),
        "lists": args.lists.name,
        "rounds": str(args.rounds),
    }
    if args.device == "cuda":
        query = "name,driver_version,clocks.max.sm,clocks.max.memory,power.limit,memory.total"
        found["GPU"] = output_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contender", type=Path, required=True, help="the built benches/contender")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--lists", type=Path, default=BUILTIN / "train.jsonl.gz", help="N-best lists")
    parser.add_argument("--tokenizer", type=Path, default=BUILTIN / "model", help="a Hugging Face BERT folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="abcd", metavar="LETTERS", help="some of the rows; (e) comes with its steps")
    modes = "default,reduce-overhead,max-autotune"
    parser.add_argument("--compile", default=modes, metavar="MODES", help="of torch.compile, none where empty [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="a small model and few repetitions: a trial")
    parser.add_argument("--out", type=Path, help="where the results go")
    args = parser.parse_args()
    args.contender, args.lists = args.contender.resolve(), args.lists.resolve()

    about = environment(args)
    machine = re.sub(r"[^a-z0-9]+", "-", about.get("GPU", about["CPU"]).split(",")[0].lower()).strip("-")
    out = args.out or BENCHES / "results" / f"{about['date'][:10]}-{machine}"
    out.mkdir(parents=True, exist_ok=True)

    shape = Shape(64, 2, 128) if args.quick else Shape(768, 12, 3072)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        sizes = ["--hidden", shape.hidden, "--layers", shape.layers, "--intermediate", shape.intermediate]
        heads = ["--heads", shape.hidden // (32 if args.quick else 64)]
        script = [BENCHES.parent / "scripts/random_bert.py", "--tokenizer", args.tokenizer, "--out", model]
        subprocess.run([sys.executable, *map(str, [*script, *sizes, *heads])], check=True)
        found = [row for row in rows(args, model, shape) if row.name[1] in args.rows + "e"]
        for row in found:
            if row.contenders:
                print(row.name, file=sys.stderr, flush=True)
                row.found += alternate(row.contenders, args.rounds)
                # Whoever lends the GPU may take it back at any time.
                write(out, args, about, found)
    print(write(out, args, about, found))


def write(out: Path, args: argparse.Namespace, about: dict[str, str], found: list[Row]) -> str:
    """What has been found so far."""
    found = [row for row in found if row.found and any(row.column in rounds[0] for rounds in row.found)]
    keys = ["row", "contender", "round", "p50_ms", "p95_ms", "tokens_per_s", "device_mb", "peak_rss_mb"]
    with open(out / "raw.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, keys, extrasaction="ignore")
        writer.writeheader()
        for row in found:
            for rounds in row.found if row.contenders else []:
                for number, answer in enumerate(rounds, 1):
                    writer.writerow({"row": row.name, "round": number, **answer})
    lines = [f"# {out.name}", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        "",
        f"Medians of {args.rounds} alternating rounds. Floors: {FLOPS / 1e12:.0f} TFLOP/s, {BYTES / 1e12:.1f} TB/s.",
        "",
        *table(found),
    ]
    text = "\n".join(lines) + "\n"
    (out / "README.md").write_text(text)
    return text


if __name__ == "__main__":
    main()
