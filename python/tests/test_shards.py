from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest

import lorb_engine
from conftest import BUILTIN, CommandLine, Lists
from lorb_engine.shards import PINNED, STAGING, Done, Job, Worker, worker


@pytest.fixture
def job(adapter: Path, lists: Lists, tmp_path: Path) -> Job:
    """Three shards, the last of them the largest."""
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, (first, last) in enumerate([(0, 3), (3, 5), (5, 11)]):
        lines = [json.dumps(utterance) + "\n" for utterance in lists[first:last]]
        (shards / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    (shards / "_SUCCESS").touch()
    (shards / ".crc").touch()
    return Job(str(shards), str(tmp_path / "out"), adapter=str(adapter), threads=1, device="cpu", dtype="f32")


def work(job: Job) -> list[Done]:
    one = Worker(job)
    return [one.rescore(shard) for shard in job.missing()]


def files(folder: Path) -> dict[str, bytes]:
    """But what is pinned."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != PINNED]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_shards_are_what_the_command_writes(job: Job, command_line: CommandLine, tmp_path: Path) -> None:
    folder = Path(job.input)
    for name, to in [("3.csv", "csv"), ("4.json", "mlm"), ("5.jsonl.gz", "jsonl"), ("kaldi", "kaldi")]:
        ran = command_line("convert", folder / "0.jsonl", folder / name, "--to", to)
        assert ran.returncode == 0, ran.stderr
    assert [done["problem"] for done in work(job)] == [""] * 7
    there = tmp_path / "there"
    there.mkdir()
    for shard in [path for path in folder.iterdir() if path.name[0] not in "._"]:
        options = ["--model", BUILTIN / "model", "--adapter", job.adapter, "--device", "cpu"]
        ran = command_line("rescore", *options, "--input", shard, "--output", there / shard.name)
        assert ran.returncode == 0, ran.stderr
    assert files(there) == files(Path(job.output))


def test_only_what_is_missing_is_done_and_the_bytes_are_the_same(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.missing() == ["2.jsonl", "0.jsonl", "1.jsonl"]
    first = work(job)
    assert [(done["shard"], done["utterances"]) for done in first] == [
        ("2.jsonl", 6), ("0.jsonl", 3), ("1.jsonl", 2)
    ]  # fmt: skip
    assert job.missing() == []
    # A folder of very many shards is listed once.
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Mock(wraps=os.scandir))
        assert job.to_do() == ["2.jsonl"]
        assert os.scandir.call_args_list == [call(job.input)]  # type: ignore[attr-defined]
    out = Path(job.output)
    whole = files(out)
    assert set(whole) == {"0.jsonl", "1.jsonl", "2.jsonl"}
    (out / "1.jsonl").unlink()
    (out / f"{STAGING}half").write_text("{")
    before = (out / "0.jsonl").stat()
    assert [done["shard"] for done in work(job)] == ["1.jsonl"]
    assert job.finish(first, 1.0) == 0
    assert files(out) == whole
    assert (out / "0.jsonl").stat() == before
    # Lost after the renaming and before it could tell: it is not done again.
    assert Worker(job).rescore("2.jsonl")["utterances"] == 0
    assert worker(job) is worker(dataclasses.replace(job))


def test_a_worker_that_would_write_other_bytes_is_refused(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORB_ISA", "portable")
    work(job)
    changed: list[tuple[dict[str, Any], str]] = [
        ({"beta": 123.0}, "its model, adapter and weights is"),
        ({"prune": 1.0}, "its prune is 1.0, and .*_job.json was begun with None"),
        ({"dtype": "bf16"}, "its device is portable f32, bf16 weights.*begun with portable: .*--isa pins"),
    ]
    for change, problem in changed:
        with pytest.raises(lorb_engine.UsageError, match=problem):
            Worker(dataclasses.replace(job, **change))
    # Where nothing is missing too: one shard is left to a worker.
    assert len(job.to_do()) == 1 and Worker(job).rescore(job.to_do()[0])["utterances"] == 0
    with pytest.raises(lorb_engine.UsageError, match=r".+: LORB_ISA=avx1024: expected avx512"):
        Worker(dataclasses.replace(job, isa="avx1024"))


def test_an_error_tells_its_machine_and_stays_what_it_was(job: Job, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").mkdir()
    with pytest.raises(lorb_engine.FileError, match=f"^{socket.gethostname()}: .*adapter_config.json") as raised:
        Worker(dataclasses.replace(job, adapter=str(tmp_path / "adapter")))
    assert raised.value.errno == errno.EISDIR


def test_a_broken_shard_is_told_of_and_stops_no_other(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(job.input) / "0.jsonl").write_text('{"id": 1}\n')
    done = {shard["shard"]: shard for shard in work(job)}
    assert "0.jsonl:1: " in done["0.jsonl"]["problem"]
    assert job.missing() == ["0.jsonl"]
    assert job.finish(done.values(), 1.0) == 1
    printed = capsys.readouterr().out
    assert "rescored 2 shards, 8 utterances" in printed and "0.jsonl:1: " in printed

    # What cannot be written is no better than what cannot be read.
    utterance = '{"hyp_1": {"text": "x", "am": -1, "lm": -1}}'
    (Path(job.input) / "0.jsonl").unlink()
    (Path(job.input) / "3.json").write_text(f'{{"a": {utterance}, "b": {utterance}, "a": {utterance}}}')
    pruned = dataclasses.replace(job, output=str(Path(job.output).parent / "pruned"), prune=1.0)
    for one, problem in [(job, "a comes twice"), (pruned, "prune leaves hypotheses without a score, which mlm needs")]:
        problems = {shard["shard"]: shard["problem"] for shard in work(one)}
        assert problem in problems.pop("3.json") and not any(problems.values())
    with pytest.raises(lorb_engine.UsageError, match="prune: expected a number from 0"):
        Worker(dataclasses.replace(job, prune=-1.0))


def test_input_and_output_are_checked(job: Job) -> None:
    with pytest.raises(lorb_engine.UsageError, match="input and output are the same folder"):
        dataclasses.replace(job, output=job.input).missing()
    nowhere = dataclasses.replace(job, input="nowhere", output=str(Path(job.output).parent / "none"))
    with pytest.raises(lorb_engine.UsageError, match="nowhere: there is no such folder"):
        nowhere.to_do()
    assert not Path(nowhere.output).exists()
    empty = Path(job.output).parent / "empty"
    empty.mkdir()
    with pytest.raises(lorb_engine.UsageError, match="empty: there are no shards"):
        dataclasses.replace(job, input=str(empty)).missing()
