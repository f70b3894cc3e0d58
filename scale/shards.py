"""Bulk rescoring of sharded files: what a job is, and what a worker does with one shard.

Every input shard becomes one output shard of the same name, written beside and renamed by the engine. So an output
that is there is whole, and a job that was started again does only what is missing. The bytes depend on the lists, the
model and the instruction set alone: a job pins the last, and notes everything in ``job.json``, so that another start
with something else is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

NOTE = "job.json"
# How the engine's files are called that have not got their names yet.
STAGING = ".lorb-"


@dataclass(frozen=True)
class Job:
    input: str
    output: str
    model: Optional[str]
    adapter: Optional[str]
    isa: str

    @staticmethod
    def parser(description: str) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("input", help="the folder of the shards (.jsonl, .jsonl.gz, .jsonl.zst)")
        parser.add_argument("output", help="the folder of the rescored shards, which all nodes see as they see the input")
        parser.add_argument("--model", help="the folder of a Hugging Face BERT [default: the embedded one]")
        parser.add_argument("--adapter", help="the folder of an adapter")
        parser.add_argument("--isa", required=True, choices=["avx512", "avx2", "portable"], help="the instruction set of "
                            "all nodes; one that lacks it is refused, since its last bits would differ")  # fmt: skip
        parser.add_argument("--workers", type=int, required=True)
        parser.add_argument("--threads", type=int, default=1, help="of a worker [default: 1]")
        return parser

    @staticmethod
    def of(args: argparse.Namespace) -> Job:
        absolute = {name: os.path.abspath(path) for name in ["input", "output"] if (path := getattr(args, name))}
        optional = {name: getattr(args, name) for name in ["model", "adapter"]}
        optional = {name: path and os.path.abspath(path) for name, path in optional.items()}
        return Job(isa=args.isa, **absolute, **optional)

    def missing(self) -> list[str]:
        """Makes the output folder, or checks that it is this job's; the shards that are not there yet."""
        output = Path(self.output)
        output.mkdir(parents=True, exist_ok=True)
        note = output / NOTE
        if note.exists():
            noted = Job(**json.loads(note.read_text()))
            if noted != self:
                raise SystemExit(f"{note} is of another job, {noted}: give the same options, or another output")
        else:
            write(note, json.dumps(asdict(self), indent=1).encode())
        self.sweep()
        shards = sorted(path.name for path in Path(self.input).iterdir() if ".jsonl" in path.name)
        if not shards:
            raise SystemExit(f"{self.input}: there is no .jsonl shard in it")
        return [name for name in shards if not (output / name).exists()]

    def sweep(self) -> None:
        """Removes what killed workers left. One that still lives on loses its file and fails; its shard is done again."""
        for path in Path(self.output).iterdir():
            if path.name.startswith(STAGING):
                path.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=STAGING, delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


class Worker:
    """An engine in this process, for one shard after the other."""

    def __init__(self, job: Job, threads: int) -> None:
        # Read when the engine starts. On a node that lacks it this raises, and says so.
        os.environ["LORB_ISA"] = job.isa
        from lorb_engine import Rescorer

        self.job = job
        self.rescorer = Rescorer(job.model, job.adapter, device="cpu", threads=threads)

    def rescore(self, shard: str) -> dict[str, Any]:
        """Counts of what was done, or what is wrong with the shard: that is no fault of the worker."""
        from lorb_engine import InputError

        try:
            done = self.rescorer.rescore_file(Path(self.job.input, shard), Path(self.job.output, shard))
        except InputError as error:
            return {"shard": shard, "error": str(error)}
        return {"shard": shard, "worker": os.getpid(), **done}


_worker: Optional[Worker] = None


def worker(job: Job, threads: int) -> Worker:
    """The one of this process, which Spark keeps for task after task."""
    global _worker
    if _worker is None or _worker.job != job:
        _worker = Worker(job, threads)
    return _worker


def finish(job: Job, results: list[dict[str, Any]], asked: int, seconds: float) -> None:
    """Says what was done; exits with 1 where a shard could not be."""
    job.sweep()
    failed = [result for result in results if "error" in result]
    tokens = sum(result["tokens"] for result in results if "error" not in result)
    print(f"{len(results) - len(failed)} of {asked} missing shards, {tokens} tokens in {seconds:.1f} s")
    for result in failed:
        print(result["error"])
    raise SystemExit(1 if failed else 0)
