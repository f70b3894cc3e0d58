"""The queue that the service is: given arrivals, its batching rule, and service times that were measured."""

import math


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[max(0, math.ceil(len(values) * q) - 1)]


def fit(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Least squares of seconds = fixed + each * tokens, of the relative errors."""
    weights = [1 / seconds**2 for _, seconds in points]
    w = sum(weights)
    mean_n = sum(k * n for k, (n, _) in zip(weights, points)) / w
    mean_s = sum(k * s for k, (_, s) in zip(weights, points)) / w
    each = sum(k * (n - mean_n) * (s - mean_s) for k, (n, s) in zip(weights, points)) / sum(
        k * (n - mean_n) ** 2 for k, (n, _) in zip(weights, points)
    )
    return mean_s - each * mean_n, each


def simulate(
    arrivals: list[float], lists: list[list[int]], budget: int, fixed: float, each: float, around: float
) -> list[float]:
    """Latencies in seconds. `lists`: the tokens of the rows of each request; `around`: what a request takes outside
    the queue and the batch. Who has waited longest for the tokens left goes first, and rows of a request may go in
    several batches."""
    latencies: list[float] = [0.0] * len(arrivals)
    waiting, now, next_one = [], 0.0, 0
    while next_one < len(arrivals) or waiting:
        while next_one < len(arrivals) and arrivals[next_one] <= now:
            rows = list(lists[next_one])
            waiting.append([sum(rows), next_one, rows])
            next_one += 1
        if not waiting:
            now = arrivals[next_one]
            continue
        batch, done = 0, []
        waiting.sort(key=lambda job: (-(now - arrivals[job[1]]) / job[0], job[0]))
        while waiting:
            job = waiting[0]
            while job[2] and (batch == 0 or batch + job[2][0] <= budget):
                tokens = job[2].pop(0)
                batch += tokens
                job[0] -= tokens
            if job[2]:
                break
            done.append(waiting.pop(0)[1])
        now += fixed + each * batch
        for i in done:
            latencies[i] = now - arrivals[i] + around
    return latencies
