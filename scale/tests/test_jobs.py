"""A job that lost workers, or was killed and started again, ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import psutil
import pytest

import lorb_engine

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 12
SYSTEMS = ["ray", "spark"]


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "adapter"
    lorb_engine.train(out=out, epochs=1, hyps=4, batch_tokens=800)
    return out


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded lists over and over, in shards that take a worker some seconds each."""
    folder = tmp_path_factory.mktemp("shards")
    with gzip.open(ROOT / "assets" / "builtin" / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        lists = [json.loads(line) for line in file]
    for number in range(SHARDS):
        with gzip.open(folder / f"{number:05}.jsonl.gz", "wt", encoding="utf-8") as shard:
            for turn, utterance in enumerate(lists[number::SHARDS] * 4):
                # No two are equal, so that each is scored.
                hyps = [{**h, "text": f"{h['text']} {turn} {number}"} for h in utterance["hyps"]]
                print(json.dumps({**utterance, "hyps": hyps}), file=shard)
    return folder


@pytest.fixture(scope="session")
def undisturbed(given: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    rescorer = lorb_engine.Rescorer(adapter=adapter)
    for shard in given.iterdir():
        rescorer.rescore_file(shard, out / shard.name)
    return shards_of(out)


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "job.json"}


class Job:
    """A job in a process group of its own."""

    def __init__(self, system: str, given: Path, out: Path, adapter: Path, isa: str = "") -> None:
        self.out = out
        isa = isa or lorb_engine.Rescorer(adapter=adapter).device
        command = [sys.executable, ROOT / "scale" / system / "rescore.py", given, out, "--adapter", adapter]
        command += ["--isa", isa, "--workers", "2"]
        environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
        )

    def wait_for(self, shards: int) -> None:
        """Until so many are done and more are under way."""
        for _ in range(3000):
            names = os.listdir(self.out) if self.out.exists() else []
            done = sum(name.endswith(".gz") for name in names)
            if done >= shards and any(name.startswith(".lorb-") for name in names):
                assert done < SHARDS
                return
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.02)
        raise AssertionError("nothing happens")

    def workers(self) -> Iterator[psutil.Process]:
        """The processes that have a shard open."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any(Path(file.path).parent == self.out for file in process.open_files()):
                    yield process
            except psutil.Error:
                continue

    def end(self) -> str:
        said: str = self.process.communicate(timeout=300)[0]
        assert self.process.returncode == 0, said
        return said


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_lost_worker_changes_no_byte(
    system: str, given: Path, adapter: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    job = Job(system, given, tmp_path / "out", adapter)
    job.wait_for(shards=2)
    killed = next(job.workers())
    killed.send_signal(signal.SIGKILL)
    said = job.end()
    assert f"{SHARDS} of {SHARDS} missing shards" in said
    assert shards_of(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_killed_job_does_only_what_is_missing(
    system: str, given: Path, adapter: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = Job(system, given, out, adapter)
    job.wait_for(shards=3)
    family = psutil.Process(job.process.pid).children(recursive=True)
    for process in [psutil.Process(job.process.pid), *family]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    job.process.communicate()
    psutil.wait_procs(family, timeout=10)
    before = {path.name: path.stat().st_ino for path in out.glob("*.gz")}
    assert 3 <= len(before) < SHARDS

    said = Job(system, given, out, adapter).end()
    missing = SHARDS - len(before)
    assert f"{missing} of {missing} missing shards" in said
    assert {name: (out / name).stat().st_ino for name in before} == before
    assert shards_of(out) == undisturbed
    assert "0 of 0 missing shards" in Job(system, given, out, adapter).end()


@pytest.mark.parametrize("system", SYSTEMS)
def test_another_job_is_refused_and_a_bad_shard_stops_no_other(
    system: str, given: Path, adapter: Path, tmp_path: Path
) -> None:
    few, out = tmp_path / "few", tmp_path / "out"
    few.mkdir()
    good = next(given.iterdir())
    (few / good.name).write_bytes(good.read_bytes())
    (few / "bad.jsonl").write_text('{"id": 1}\n')
    job = Job(system, few, out, adapter)
    said = job.process.communicate(timeout=300)[0]
    assert job.process.returncode == 1 and 'bad.jsonl:1: "hyps" is missing' in said, said
    assert sorted(shards_of(out)) == [good.name]

    other = Job(system, few, out, adapter, isa="portable")
    said = other.process.communicate(timeout=300)[0]
    assert other.process.returncode == 1 and "is of another job" in said, said
