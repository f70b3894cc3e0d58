#!/usr/bin/env python3
"""Rescores a folder of shards on Spark: one task a shard, one engine a Python worker."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Iterable, Iterator

from pyspark.sql import SparkSession

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import shards


def rescore(job: shards.Job, threads: int, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    worker = shards.worker(job, threads)
    return map(worker.rescore, names)


def main() -> None:
    parser = shards.Job.parser(__doc__ or "")
    parser.add_argument("--master", help="[default: as many tasks at once as there are workers, on this machine]")
    args = parser.parse_args()
    job, threads = shards.Job.of(args), args.threads
    missing = job.missing()
    # A task that fails is tried four times in all, as on a cluster.
    master = args.master or f"local[{args.workers},4]"
    spark = (
        SparkSession.builder.master(master)
        .appName("lorb rescore")
        .config("spark.task.cpus", 1 if args.master is None else threads)
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    context = spark.sparkContext
    context.addPyFile(shards.__file__)
    start = time.monotonic()
    results: list[dict[str, Any]] = []
    if missing:
        tasks = context.parallelize(missing, len(missing))
        results = tasks.mapPartitions(lambda names: rescore(job, threads, names)).collect()
    seconds = time.monotonic() - start
    spark.stop()
    shards.finish(job, results, len(missing), seconds)


if __name__ == "__main__":
    main()
