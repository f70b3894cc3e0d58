"""Rescores a folder of shards on a Ray cluster: an actor pool of Ray Data, one engine an actor. See docs/scale.md."""

from __future__ import annotations

import argparse
import sys
import time

import pyarrow as pa
import ray
from ray.util.metrics import Counter

from lorb_engine.shards import Job, Worker

# Ray keeps a reference for each block: more shards than this share blocks.
MAX_BLOCKS = 10_000


class Rescore:
    """An engine in an actor."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)
        # Beside what Ray's dashboard shows of the pool: rows there are shards.
        self._counters = {name: Counter(f"lorb_{name}") for name in ["utterances", "tokens"]}

    def __call__(self, batch: pa.Table) -> pa.Table:
        done = [self._worker.rescore(shard) for shard in batch["shard"].to_pylist()]
        for name, counter in self._counters.items():
            # A counter takes no zero.
            if count := sum(shard[name] for shard in done):
                counter.inc(count)
        return pa.Table.from_pylist(done)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="engines [default: 1]")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="GPUs of a worker [default: 0]")
    job, given = Job.parse(parser)
    to_do = job.to_do()
    start = time.monotonic()
    ray.init()
    shards = ray.data.from_items(
        [{"shard": shard} for shard in to_do], override_num_blocks=min(len(to_do), MAX_BLOCKS)
    )
    # A shard waits with the driver, not behind a busy engine while another has nothing to do.
    pool = ray.data.ActorPoolStrategy(size=given.workers, max_tasks_in_flight_per_actor=1)
    rescored = shards.map_batches(
        Rescore,
        fn_constructor_args=[job],
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=job.threads,
        num_gpus=given.gpus,
    )
    done = list(rescored.iter_rows())
    return job.finish(done, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
