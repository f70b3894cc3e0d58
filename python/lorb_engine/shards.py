"""Bulk rescoring shard by shard, for whatever schedules it: what a worker does with a shard, and what makes a job that
lost workers, or was killed and started again, end with the bytes of one that ran undisturbed.

Each entry of the input folder is a shard, a file or a folder of lists in any format, unless its name begins with "." or
"_"; its output has the same name and format, is written beside and renamed, and is never written again. The first worker
pins what decides the bytes in the output folder, and one that differs refuses to work.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Iterable, Optional, TypedDict

from ._errors import DeviceError, LorbError, UsageError
from ._rescorer import Rescorer

PINNED = "_job.json"
"""What the workers of a job have in common, in its output folder."""

STAGING = ".lorb-"
"""How the names of files begin that have not got their own yet."""


class Done(TypedDict):
    """What became of a shard."""

    shard: str
    host: str
    pid: int
    utterances: int
    """0 where the output was there already."""
    hypotheses: int
    tokens: int
    seconds: float
    cpu_seconds: float
    """Of all threads."""
    peak_mib: float
    """The most memory that the worker has had resident."""
    problem: str
    """Why there is no output, else empty."""


@dataclass(frozen=True)
class Job:
    """The rescoring of a folder of shards; the options are those of Rescorer."""

    input: str
    output: str
    model: Optional[str] = None
    adapter: Optional[str] = None
    device: str = "auto"
    threads: Optional[int] = None
    dtype: Optional[str] = None
    isa: Optional[str] = None
    """The instruction set of all workers, as in LORB_ISA; None leaves it to the first worker."""
    beta: Optional[float] = None
    prune: Optional[float] = None

    @classmethod
    def parse(cls, parser: argparse.ArgumentParser) -> tuple[Job, argparse.Namespace]:
        """The job that the command line asks for, and what else it says."""
        add = parser.add_argument
        add("--input", required=True, metavar="DIR", help="the folder of the shards")
        add("--output", required=True, type=os.path.abspath, metavar="DIR", help="the folder of the rescored shards")
        add("--model", metavar="DIR|ID", help="a BERT, the same for every worker [default: the embedded one]")
        add("--adapter", metavar="DIR|ID", help="an adapter [default: the model's own head]")
        add("--device", default="auto", choices=["auto", "cpu", "cuda"])
        add("--threads", type=int, default=1, metavar="N", help="threads of a worker [default: 1]")
        add("--dtype", choices=["f32", "bf16", "int8"], help="the type of the base's weights")
        isa = "the instruction set of all workers [default: the best of the first one]"
        add("--isa", choices=["avx512", "avx2", "portable"], help=isa)
        add("--beta", type=float, metavar="WEIGHT", help="the weight of the engine's score")
        add("--prune", type=float, metavar="MARGIN", help="leave hypotheses unscored that trail by more")
        given = parser.parse_args()
        for name in ["input", "model", "adapter"]:
            setattr(given, name, absolute(getattr(given, name)))
        return cls(**{field.name: getattr(given, field.name) for field in fields(cls)}), given

    def to_do(self) -> list[str]:
        """The shards for the workers: those without an output or, where none is missing, one that is done, whose worker
        still refuses options that differ from what the output was made with."""
        shards = self._shards()
        return self._without_output(shards) or shards[:1]

    def missing(self) -> list[str]:
        """The shards without an output, the largest first, so that no worker begins with one when the others end."""
        return self._without_output(self._shards())

    def _without_output(self, shards: list[str]) -> list[str]:
        there = set(os.listdir(self.output))
        return [name for name in shards if name not in there]

    def _shards(self) -> list[str]:
        if not os.path.isdir(self.input):
            raise UsageError(f"{self.input}: there is no such folder: give the one of the shards")
        os.makedirs(self.output, exist_ok=True)
        if os.path.samefile(self.input, self.output):
            raise UsageError(f"{self.output}: input and output are the same folder: give another output")
        with os.scandir(self.input) as entries:
            shards = [(-_size(entry), entry.name) for entry in entries if entry.name[0] not in "._"]
        if not shards:
            raise UsageError(f"{self.input}: there are no shards in it")
        return [name for _, name in sorted(shards)]

    def sweep(self) -> None:
        """Removes what killed workers left half-written; no other worker may be at work."""
        for name in os.listdir(self.output):
            path = os.path.join(self.output, name)
            if name.startswith(STAGING):
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)

    def finish(self, shards: Iterable[Done], seconds: float) -> int:
        """Sweeps, prints what was done, and returns the exit status: 1 where a shard has no output."""
        done = list(shards)
        self.sweep()
        tokens = sum(shard["tokens"] for shard in done)
        cpu_seconds = sum(shard["cpu_seconds"] for shard in done)
        workers = {(shard["host"], shard["pid"]): shard["peak_mib"] for shard in done}
        print(
            f"rescored {sum(shard['utterances'] > 0 for shard in done)} shards, "
            f"{sum(shard['utterances'] for shard in done)} utterances, {tokens} tokens in {seconds:.1f} s: "
            f"{tokens / max(seconds, 1e-9):.0f} tokens/s, {tokens / max(cpu_seconds, 1e-9):.0f} in a second of a core; "
            f"workers: {len(workers)}, machines: {len({host for host, _ in workers})}, "
            f"at most {max(workers.values(), default=0.0):.0f} MiB each"
        )
        problems = [shard for shard in done if shard["problem"]]
        for shard in problems:
            print(f"{shard['shard']}: {shard['problem']}")
        missing = self.missing()
        if missing:
            print(f"{len(missing)} shards have no output: run it again to do them")
        return 1 if missing else 0


def set_environment(isa: Optional[str]) -> None:
    """Of a worker, before it opens an engine: pins the instruction set, where one is given, and lets the workers of a machine
    have the base's packed weights in memory once, in files of the user's cache, unless LORB_PACKED says otherwise."""
    if isa is not None:
        os.environ["LORB_ISA"] = isa
    if "LORB_PACKED" in os.environ:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "lorb-engine", "packed")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return  # A worker without a cache has weights of its own.
    os.environ["LORB_PACKED"] = folder


class Worker:
    """An engine that rescores shards of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._host = socket.gethostname()
        os.makedirs(job.output, exist_ok=True)
        set_environment(job.isa)
        try:
            self._rescorer = Rescorer(
                job.model, job.adapter, job.device, job.threads, job.dtype, beta=job.beta
            )
        except LorbError as error:
            # The text alone does not say which of the machines it was.
            error.args = (f"{self._host}: {error}",)
            raise
        # Now, so that with a shard a UsageError tells of its lists alone.
        self._rescorer.rescore([], prune=job.prune)
        self._pin()

    def rescore(self, shard: str) -> Done:
        """Rescores a shard, unless its output is there. One that cannot be read or written is no reason to stop."""
        source, output = os.path.join(self._job.input, shard), os.path.join(self._job.output, shard)
        counts, problem = {"utterances": 0, "hypotheses": 0, "tokens": 0}, ""
        start, cpu_start = time.monotonic(), time.process_time()
        # A worker may have been lost after the renaming and before it could tell.
        if not os.path.exists(output):
            try:
                counts = self._rescorer.rescore_file(source, output, prune=self._job.prune)
            except DeviceError:
                raise
            except LorbError as error:
                problem = str(error)
        return {
            "shard": shard,
            "host": self._host,
            "pid": os.getpid(),
            "utterances": counts["utterances"],
            "hypotheses": counts["hypotheses"],
            "tokens": counts["tokens"],
            "seconds": time.monotonic() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "problem": problem,
        }

    def _pin(self) -> None:
        path = os.path.join(self._job.output, PINNED)
        here = {
            "engine": version("lorb-engine"),
            "device": self._rescorer.device,
            "model, adapter and weights": self._rescorer.digest,
            "prune": self._job.prune,
        }
        if not os.path.exists(path):
            _create(path, json.dumps(here, indent=1))
        with open(path, encoding="utf-8") as file:
            pinned = json.load(file)
        for name, value in here.items():
            if pinned.get(name) != value:
                hint = "; --isa pins a set that all machines have" if name == "device" else ""
                raise UsageError(
                    f"{self._host}: its {name} is {value}, and {path} was begun with {pinned.get(name)}: "
                    f"the bytes would differ; use the same, or another output{hint}"
                )


@functools.lru_cache(maxsize=1)
def worker(job: Job) -> Worker:
    """The worker of this process, for schedulers that keep a process but no objects."""
    return Worker(job)


def absolute(path: Optional[str]) -> Optional[str]:
    """A path as a worker finds it, which starts elsewhere; what is not there may be an id on the Hub, and stays."""
    return os.path.abspath(path) if path is not None and os.path.exists(path) else path


def _create(path: str, text: str) -> None:
    """Writes a file, whole, unless there is one."""
    handle, beside = tempfile.mkstemp(prefix=STAGING, dir=os.path.dirname(path))
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.chmod(beside, 0o644)
        os.link(beside, path)
    except FileExistsError:
        pass
    finally:
        os.remove(beside)


def _size(entry: os.DirEntry[str]) -> int:
    if not entry.is_dir():
        return entry.stat().st_size
    walked = os.walk(entry.path)
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in walked for name in names)
