"""The lists that are measured on: a sample of real ones, or random ones, and those made for one size or length.

Words of made-up lists are words of the given lists that are one token each, so that a hypothesis of n words has n + 2
tokens; their hypotheses differ from the first one in up to three words, as those of real lists do.
"""

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

BUILTIN = Path(__file__).resolve().parents[2] / "assets/builtin"
SIZES = [1, 2, 5, 10, 20, 30, 50, 100]
LENGTHS = [8, 16, 32, 64, 128, 256, 384, 512]
SIZE_WORDS = 20
LENGTH_HYPOTHESES = 8
SMALL_HYPOTHESES, SMALL_WORDS = 5, 8


@dataclass
class Lists:
    """A file of lists, and about how many tokens each has."""

    path: Path
    rows: list[dict]

    @property
    def tokens(self) -> list[int]:
        return [sum(len(h["text"].split()) + 2 for h in row["hyps"]) for row in self.rows]

    @property
    def hypotheses(self) -> list[int]:
        return [len(row["hyps"]) for row in self.rows]


def read(path: Path) -> list[dict]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return [json.loads(line) for line in file]


class Maker:
    """Makes the files of one model in a folder, from `source` or, without one, from words of the embedded lists."""

    def __init__(self, folder: Path, model: Path, source: Path | None, seed: int = 1):
        self.folder, self.random = folder, random.Random(seed)
        self.real = read(source) if source else None
        rows = self.real or read(BUILTIN / "train.jsonl.gz")
        vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
        texts = {word for row in rows for word in row["ref"].split()}
        self.words = sorted(w for w in texts if w.isalpha() and (w in vocabulary or w.lower() in vocabulary))
        self.longest = json.loads((model / "config.json").read_text())["max_position_embeddings"]

    def write(self, name: str, rows: list[dict]) -> Lists:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Lists(path, rows)

    def made(self, name: str, hypotheses: int, words: int) -> dict:
        """A list of distinct hypotheses of as many words."""
        first = self.random.choices(self.words, k=words)
        texts = {" ".join(first): None}
        while len(texts) < hypotheses:
            other = list(first)
            for at in self.random.choices(range(words), k=self.random.randint(1, 3)):
                other[at] = self.random.choice(self.words)
            texts[" ".join(other)] = None
        hyps = [{"text": text, "am": round(-1.5 * i, 2)} for i, text in enumerate(texts)]
        return {"id": name, "ref": " ".join(first), "hyps": hyps}

    def lists(self, count: int) -> Lists:
        """As they come from a recogniser: a seeded sample, in its order."""
        if self.real:
            # A step takes the first eight hypotheses, so every list has as many.
            rows = [row for row in self.real if len(row["hyps"]) >= 8]
            rows = self.random.sample(rows, min(count, len(rows)))
        else:
            # LibriSpeech's utterances have about 20 words, a tenth of them more than 35.
            words = [min(max(round(self.random.gammavariate(2.7, 7.4)), 3), 60) for _ in range(count)]
            words = [min(n, self.longest - 2) for n in words]
            rows = [self.made(f"random-{i}", 30, n) for i, n in enumerate(words)]
        return self.write("lists", rows)

    def small(self, count: int) -> Lists:
        rows = [self.made(f"small-{i}", SMALL_HYPOTHESES, SMALL_WORDS) for i in range(count)]
        return self.write("small", rows)

    def sizes(self, copies: int, sizes: list[int]) -> Lists:
        rows = [self.made(f"size-{n}-{i}", n, SIZE_WORDS) for n in sizes for i in range(copies)]
        return self.write("sizes", rows)

    def lengths(self, copies: int, lengths: list[int]) -> Lists:
        lengths = [n for n in lengths if n <= self.longest]
        rows = [self.made(f"length-{n}-{i}", LENGTH_HYPOTHESES, n - 2) for n in lengths for i in range(copies)]
        return self.write("lengths", rows)

    def one(self) -> Lists:
        """One hypothesis, for the time to the first score."""
        return self.write("one", [self.made("one", 1, SMALL_WORDS)])
