"""Runs real jobs of Ray and Spark on small shards, kills workers and whole jobs in the middle, and compares bytes.

What they must equal is what the command writes, shard by shard. scripts/check-scale.sh calls this.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import lorb_engine
from lorb_engine.shards import PINNED

ROOT = Path(__file__).resolve().parents[2]
SCALE = ROOT / "scale"
BUILTIN = ROOT / "assets" / "builtin"
SHARDS, UTTERANCES = 16, 15
# A shard's output that was there when something was killed, by name: its inode and the time of its last change.
Marks = dict[str, tuple[int, int]]


class Cluster:
    """How a scheduler runs the job on this machine, with two workers."""

    def __init__(self, name: str, command: list[str], is_worker: Callable[[int], bool]) -> None:
        self.name, self.command, self.is_worker = name, command, is_worker

    def start(self, shards: Path, out: Path, adapter: Path, *options: str) -> subprocess.Popen[str]:
        files = ["--input", str(shards), "--output", str(out), "--adapter", str(adapter), "--device", "cpu"]
        print(f"{self.name}: {out.name}", flush=True)
        output = open(out.parent / f"{out.name}.log", "a", encoding="utf-8")
        return subprocess.Popen(
            [*self.command, *files, *options], stdout=subprocess.PIPE, stderr=output, text=True
        )


def commandline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
    except OSError:
        return ""


def parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold anything.
            found[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """The processes below this one."""
    of, found = parents(), [pid]
    for above in found:
        found.extend(child for child, parent in of.items() if parent == above)
    return found[1:]


def is_spark_worker(pid: int) -> bool:
    """A child of the daemon that forks them, as which it shows too."""
    parent = parents().get(pid, 0)
    return all("pyspark.daemon" in commandline(process) for process in [pid, parent])


def is_ray_worker(pid: int) -> bool:
    return "ray::" in commandline(pid) and "Rescore" in commandline(pid)


def outputs(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != PINNED}


def marks(out: Path) -> Marks:
    finished = [path for path in out.glob("*") if path.name[0] not in "._"]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}


def until_under_way(job: subprocess.Popen[str], out: Path) -> None:
    """Waits until some shards are done, and not all."""
    while len(marks(out)) < 3:
        if job.poll() is not None:
            raise SystemExit(f"{out}: the job ended with {job.returncode} before it could be disturbed")
        time.sleep(0.01)


def ended(job: subprocess.Popen[str], code: int = 0) -> str:
    """What the job printed, once it has ended with this exit status."""
    printed, _ = job.communicate(timeout=600)
    assert job.returncode == code, f"exit status {job.returncode}, not {code}, see the logs: {printed}"
    ours = [line for line in printed.splitlines() if "raylet" not in line and code == 0]
    print("".join(f"    {line}\n" for line in ours), end="", flush=True)
    return printed


def check_rescoring(cluster: Cluster, work: Path, shards: Path, adapter: Path, expected: dict[str, bytes]) -> None:
    def start(name: str, *options: str) -> tuple[Path, subprocess.Popen[str]]:
        out = work / f"{cluster.name}-{name}"
        return out, cluster.start(shards, out, adapter, *options)

    def check(out: Path, before: Marks) -> None:
        assert outputs(out) == expected, f"{out}: not the bytes of the command"
        again = {name for name, mark in marks(out).items() if name in before and before[name] != mark}
        assert not again, f"{out}: {sorted(again)} were there and were done again"

    out, job = start("undisturbed")
    assert f"rescored {SHARDS} shards" in ended(job)
    check(out, {})
    before = marks(out)
    out, job = start("undisturbed")
    assert "rescored 0 shards" in ended(job)
    check(out, before)
    out, job = start("undisturbed", "--prune", "1")
    ended(job, code=1)
    print("  refused other options, though nothing was missing", flush=True)

    out, job = start("worker-killed")
    until_under_way(job, out)
    worker = next(pid for pid in descendants(job.pid) if cluster.is_worker(pid))
    before = marks(out)
    os.kill(worker, signal.SIGKILL)
    assert len(before) < SHARDS, "it was done before a worker could be killed"
    print(f"  killed the worker {worker} after {len(before)} of {SHARDS} shards", flush=True)
    ended(job)
    check(out, before)

    out, job = start("job-killed")
    until_under_way(job, out)
    # From the top, so that nothing starts what was killed again.
    for pid in [job.pid, *descendants(job.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.communicate()
    before = marks(out)
    assert len(before) < SHARDS, "it was done before it could be killed"
    print(f"  killed the job after {len(before)} of {SHARDS} shards", flush=True)
    out, job = start("job-killed")
    assert f"rescored {SHARDS - len(before)} shards" in ended(job)
    check(out, before)

    victim = out / sorted(before)[0]
    victim.unlink()
    out, job = start("job-killed", "--isa", "portable")
    ended(job, code=1)
    said = (out.parent / f"{out.name}.log").read_text(encoding="utf-8")
    assert re.search(r"its device is portable, and \S+_job.json was begun with", said), "see the log"
    assert not victim.exists()
    print("  refused another instruction set", flush=True)


def check_domains(work: Path, program: Path) -> None:
    """Each adapter has the bytes of a run of its own, and what is finished is not done again."""
    lists = gzip.open(BUILTIN / "train.jsonl.gz", "rt", encoding="utf-8").readlines()
    domains, out = work / "domains", work / "adapters"
    domains.mkdir()
    for name, part in [("first", lists[:60]), ("second", lists[60:120])]:
        (domains / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    options = ["--model", str(BUILTIN / "model"), "--epochs", "1"]
    command = [sys.executable, SCALE / "ray" / "train_domains.py", "--domains", domains, "--out", out, *options]
    times: list[int] = []
    for _ in range(2):
        with open(work / "domains.log", "a", encoding="utf-8") as log:
            ended(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True))
        tensors = {name: (out / name / "adapter_model.safetensors") for name in ["first", "second"]}
        # Of the first round: the second must leave them.
        times = times or [path.stat().st_mtime_ns for path in tensors.values()]
    assert times == [path.stat().st_mtime_ns for path in tensors.values()]
    for name, path in tensors.items():
        alone = work / "alone" / name
        train = [program, "train", *options, "--threads", "1", "--device", "cpu", "--out", alone]
        subprocess.run([*train, "--train", domains / f"{name}.jsonl"], check=True, capture_output=True)
        assert path.read_bytes() == (alone / path.name).read_bytes(), f"{name}: not the adapter of a run alone"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="a folder, which is emptied")
    parser.add_argument("--program", type=Path, required=True, metavar="FILE", help="lorb-engine")
    given = parser.parse_args()
    work = given.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    shards, expected = work / "shards", work / "expected"
    for folder in [shards, expected]:
        folder.mkdir(parents=True)

    real = Path(os.environ.get("LORB_TEST_DATA") or "/nowhere") / "librispeech-30best" / "dev_other.jsonl.gz"
    source = real if real.exists() else BUILTIN / "train.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(SHARDS * UTTERANCES))]
    print(f"{SHARDS} shards of {UTTERANCES} utterances of {source}", flush=True)
    for shard in range(SHARDS):
        part = "".join(lines[shard * UTTERANCES : (shard + 1) * UTTERANCES])
        # Plain and compressed.
        if shard % 2:
            (shards / f"part-{shard:05}.jsonl").write_text(part, encoding="utf-8")
        else:
            with gzip.open(shards / f"part-{shard:05}.jsonl.gz", "wt", encoding="utf-8") as file:
                file.write(part)

    adapter = work / "adapter"
    lorb_engine.train(out=adapter, epochs=1, hyps=4, batch_tokens=800, device="cpu")
    for shard in sorted(shards.iterdir()):
        files = ["--input", shard, "--output", expected / shard.name]
        command = [given.program, "rescore", "--model", BUILTIN / "model", "--adapter", adapter, "--device", "cpu"]
        subprocess.run([*command, *files], check=True, capture_output=True)

    spark = Path(sys.executable).parent / "spark-submit"
    # A worker that was killed is a failed task: Spark's local mode tries again where it is told how often.
    submit = [str(spark), "--master", "local[2,4]", "--conf", "spark.ui.enabled=false"]
    clusters = [
        Cluster("ray", [sys.executable, str(SCALE / "ray" / "rescore.py"), "--workers", "2"], is_ray_worker),
        Cluster("spark", [*submit, str(SCALE / "spark" / "rescore.py")], is_spark_worker),
    ]
    for cluster in clusters:
        check_rescoring(cluster, work, shards, adapter, outputs(expected))
    check_domains(work, given.program)
    print("scale: all bytes are those of the command")


if __name__ == "__main__":
    main()
