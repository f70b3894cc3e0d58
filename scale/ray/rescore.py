#!/usr/bin/env python3
"""Rescores a folder of shards on Ray: one actor, with one engine, a worker."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.util import ActorPool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shards

# A shard that takes three workers down with it is not tried again: the job ends, and says which it was.
RETRIES = 3


@ray.remote(max_restarts=-1, max_task_retries=RETRIES)
class Worker:
    def __init__(self, job: shards.Job, threads: int) -> None:
        self.worker = shards.Worker(job, threads)

    def rescore(self, shard: str) -> dict[str, Any]:
        return self.worker.rescore(shard)


def main() -> None:
    parser = shards.Job.parser(__doc__ or "")
    parser.add_argument("--address", help="of the Ray cluster [default: one of its own on this machine]")
    args = parser.parse_args()
    job = shards.Job.of(args)
    missing = job.missing()
    # The module travels with the job: nodes have the engine's wheel, and nothing of ours else.
    module = {"py_modules": [str(Path(shards.__file__))]} if args.address else {}
    ray.init(address=args.address, runtime_env=module, log_to_driver=False)
    start = time.monotonic()
    workers = [Worker.options(num_cpus=args.threads).remote(job, args.threads) for _ in range(args.workers)]
    pool = ActorPool(workers)
    results = list(pool.map_unordered(lambda worker, shard: worker.rescore.remote(shard), missing))
    shards.finish(job, results, len(missing), time.monotonic() - start)


if __name__ == "__main__":
    main()
