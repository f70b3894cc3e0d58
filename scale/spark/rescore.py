"""Rescores a folder of shards on a Spark cluster: mapInArrow, one engine a Python worker. See docs/scale.md."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Callable, Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from lorb_engine.shards import Job, worker

DONE = """shard string, host string, pid long, utterances long, hypotheses long, tokens long, seconds double,
    cpu_seconds double, peak_mib double, problem string"""


def rescore(job: Job, shards: list[str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What a task does with the numbers of its shards."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                yield pa.RecordBatch.from_pylist([worker(job).rescore(shards[number])])

    return work


def main() -> int:
    job, _ = Job.parse(argparse.ArgumentParser(description=__doc__))
    to_do = job.to_do()
    start = time.monotonic()
    spark = SparkSession.builder.appName("lorb-engine").config("spark.task.cpus", job.threads).getOrCreate()
    # A task a shard: what a lost worker did not end is done again, alone.
    numbers = spark.range(0, len(to_do), 1, len(to_do))
    done = [row.asDict() for row in numbers.mapInArrow(rescore(job, to_do), DONE).collect()]
    spark.stop()
    return job.finish(done, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
