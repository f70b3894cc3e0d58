"""Padded batches as they cost least: equal sequences once, the others by length."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def cut(lengths: list[int], limit: int | None, workers: int) -> list[range]:
    """Neighbours of rising length whose padded tokens stay within `limit`, in at least `workers` batches of about as
    many tokens where there are as many sequences."""
    share = sum(lengths) / workers
    batches, first, done = [], 0, 0
    for i, length in enumerate(lengths):
        full = limit is not None and (i + 1 - first) * length > limit
        if i > first and (full or done >= (len(batches) + 1) * share):
            batches.append(range(first, i))
            first = i
        done += length
    return [*batches, range(first, len(lengths))]


class Batched:
    """Scores the sequences of a call through `score`, which takes one batch: by `workers` of them at once, each of which
    `prepare`d its thread."""

    def __init__(
        self, score: Callable[[list[list[int]]], np.ndarray], limit: int | None, workers: int, prepare: Callable
    ):
        self.score, self.limit, self.workers = score, limit, workers
        self.pool = ThreadPoolExecutor(workers, initializer=prepare) if workers > 1 else None
        self.real = self.computed = 0

    def __call__(self, sequences: list[list[int]]) -> np.ndarray:
        distinct = sorted(set(map(tuple, sequences)), key=len)
        lengths = [len(s) for s in distinct]
        ranges = cut(lengths, self.limit, self.workers)
        self.real += sum(lengths)
        self.computed += sum(len(r) * lengths[r[-1]] for r in ranges)
        batches = [[list(s) for s in distinct[r[0] : r[-1] + 1]] for r in ranges]
        # The longest come first, so that workers end together.
        scores = list((self.pool.map if self.pool else map)(self.score, batches[::-1]))[::-1]
        of = dict(zip(distinct, np.concatenate(scores)))
        return np.array([of[tuple(s)] for s in sequences])

    def take_padding(self) -> float:
        """The share of the computed tokens that were padding, since the last time that it was asked for."""
        share = 1 - self.real / self.computed
        self.real = self.computed = 0
        return share
