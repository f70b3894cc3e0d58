from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest

import lorb_engine
from conftest import BUILTIN, CommandLine, Lists, lines


def test_the_bytes_are_those_of_the_command_line(
    adapter: Path, rescorer: lorb_engine.Rescorer, command_line: CommandLine, tmp_path: Path
) -> None:
    for options, prune in [([], None), (["--prune", "2"], 2.0)]:
        for name in ["train", "valid"]:
            given, output = BUILTIN / f"{name}.jsonl.gz", tmp_path / "rescored.jsonl"
            model = ["--model", BUILTIN / "model", "--adapter", adapter]
            ran = command_line("rescore", *model, "--input", given, "--output", output, *options)
            assert ran.returncode == 0, ran.stderr
            here = rescorer.rescore(lorb_engine.load_nbest(given), prune=prune)
            found, expected = list(here), lines(output)
            assert found == expected
            assert [list(u) for u in found] == [list(u) for u in expected]
            assert bits(found) == bits(expected)


def test_files_are_those_of_the_command_line(
    adapter: Path, rescorer: lorb_engine.Rescorer, command_line: CommandLine, tmp_path: Path
) -> None:
    given = BUILTIN / "valid.jsonl.gz"
    for name in ["rescored.jsonl", "rescored.jsonl.gz", "rescored.jsonl.zst"]:
        here, there = tmp_path / name, tmp_path / f"there-{name}"
        counts = rescorer.rescore_file(given, here)
        model = ["--model", BUILTIN / "model", "--adapter", adapter]
        ran = command_line("rescore", *model, "--input", given, "--output", there)
        assert here.read_bytes() == there.read_bytes()
        said = f"{counts['utterances']} utterances, {counts['hypotheses']} hypotheses ({counts['cut']} cut"
        assert said in ran.stderr and f"{counts['tokens']} tokens" in ran.stderr
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": 1}\n')
    with pytest.raises(lorb_engine.InputError, match="broken.jsonl:1: "):
        rescorer.rescore_file(broken, tmp_path / "never.jsonl")
    assert not any(path.name.startswith((".", "never")) for path in tmp_path.iterdir())


def bits(utterances: Lists) -> list[bytes]:
    """Every number that rescoring wrote, to the bit."""

    def of(utterance: dict[str, Any]) -> bytes:
        scores = [h[name] for h in utterance["hyps"] for name in ["lorb", "total"] if name in h]
        return np.array([utterance["confidence"], *scores]).tobytes()

    return [of(utterance) for utterance in utterances]


def test_load_nbest_gives_what_stands_in_the_file() -> None:
    with gzip.open(BUILTIN / "valid.jsonl.gz", "rt", encoding="utf-8") as file:
        expected = [json.loads(line) for line in file]
    found = list(lorb_engine.load_nbest(BUILTIN / "valid.jsonl.gz", format="jsonl"))
    assert found == expected
    assert [list(u) for u in found] == [list(u) for u in expected]


def test_score_is_that_of_the_lists(rescorer: lorb_engine.Rescorer, lists: Lists) -> None:
    texts = [h["text"] for u in lists for h in u["hyps"]]
    found = rescorer.score(texts)
    assert found.dtype == np.float32 and found.shape == (len(texts),) and found.flags.writeable
    expected = [h["lorb"] for u in rescorer.rescore(lists) for h in u["hyps"]]
    assert found.astype(np.float64).tolist() == expected
    assert rescorer.score([]).shape == (0,)
    assert rescorer.score(iter(texts[:2])).tolist() == found[:2].tolist()


def test_a_list_gives_a_list_and_what_was_given_stays(rescorer: lorb_engine.Rescorer, lists: Lists) -> None:
    before = json.dumps(lists[:3])
    found = rescorer.rescore(lists[:3])
    assert isinstance(found, list) and len(found) == 3
    assert json.dumps(lists[:3]) == before
    streamed = rescorer.rescore(u for u in lists[:3])
    assert not isinstance(streamed, list) and list(streamed) == found
    assert rescorer.rescore([]) == []


def test_a_stream_reads_ahead_by_no_more_than_it_says(rescorer: lorb_engine.Rescorer, lists: Lists) -> None:
    read = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield lists[read % len(lists)]

    stream = rescorer.rescore(endless())
    for taken in range(1, 400):
        next(stream)
        assert read <= taken + 128
    tracemalloc.start()
    for _ in range(200):
        next(stream)
    early = tracemalloc.get_traced_memory()[0]
    for _ in range(2000):
        next(stream)
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert late < early + (1 << 20)


def test_what_comes_before_an_error_is_given_first(rescorer: lorb_engine.Rescorer, lists: Lists) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from lists[:5]
        raise RuntimeError("the source is gone")

    found = []
    with pytest.raises(RuntimeError, match="the source is gone"):
        for utterance in rescorer.rescore(broken()):
            found.append(utterance)
    assert found == rescorer.rescore(lists[:5])


def test_eight_threads_get_what_one_gets(rescorer: lorb_engine.Rescorer, lists: Lists) -> None:
    expected = rescorer.rescore(lists[:40])
    texts = [h["text"] for h in lists[0]["hyps"]]
    alone = rescorer.score(texts).tobytes()

    def work(number: int) -> bool:
        same = all(rescorer.score(texts).tobytes() == alone for _ in range(5))
        return same and list(rescorer.rescore(iter(lists[:40]))) == expected

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_the_number_of_threads_changes_no_bit(
    adapter: Path, rescorer: lorb_engine.Rescorer, lists: Lists
) -> None:
    texts = [h["text"] for u in lists[:20] for h in u["hyps"]]
    for threads in [1, 3]:
        other = lorb_engine.Rescorer(adapter=adapter, threads=threads, dtype="f32", device="cpu")
        assert other.score(texts).tobytes() == rescorer.score(texts).tobytes()


def test_a_forked_process_is_told(rescorer: lorb_engine.Rescorer) -> None:
    child = os.fork()
    if child == 0:
        try:
            rescorer.score(["the cat"])
        except lorb_engine.UsageError as error:
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_numbers_of_numpy_are_numbers(rescorer: lorb_engine.Rescorer) -> None:
    plain = {"id": 1, "hyps": [{"text": "a cat", "am": -1.5}, {"text": "a cad", "am": -2.0}]}
    scalars = {"id": np.int64(1), "hyps": [{"text": h["text"], "am": np.float32(h["am"])} for h in plain["hyps"]]}  # type: ignore[attr-defined]
    assert rescorer.rescore([scalars]) == rescorer.rescore([plain])


def test_what_a_format_cannot_hold_is_warned_of(rescorer: lorb_engine.Rescorer, tmp_path: Path) -> None:
    kaldi, said = tmp_path / "kaldi", tmp_path / "said"
    kaldi.mkdir()
    for name, value in [("text", "a cat"), ("ac_cost", "1.0"), ("lm_cost", "2.0")]:
        (kaldi / name).write_text(f"u-1 {value}\n")
    said.write_text("u a cat\n")
    with pytest.warns(UserWarning, match="dropped, as the format cannot hold it: .*ref of 1 utterances"):
        rescorer.rescore_file(kaldi, tmp_path / "out", ref=said)


def test_the_digest_covers_the_tokenizer(adapter: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(BUILTIN / "model", model)
    same = lorb_engine.Rescorer(BUILTIN / "model", adapter).digest
    assert lorb_engine.Rescorer(model, adapter).digest == same
    config = model / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"do_lower_case": true', '"do_lower_case": false'))
    assert lorb_engine.Rescorer(model, adapter).digest != same


def test_what_the_hub_says_is_logged(
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # As another program fills it: without a list of what the repository has.
    repository = tmp_path / "models--org--name"
    shutil.copytree(BUILTIN / "model", repository / "snapshots" / "abc123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with caplog.at_level("INFO", "lorb_engine"):
        lorb_engine.Rescorer("org/name", adapter, device="cpu")
    assert "org/name: the cache, as another program filled it, does not tell" in caplog.text
    assert capfd.readouterr().err == ""


def test_ctrl_c_leaves_no_half_written_file(adapter: Path, lists: Lists, tmp_path: Path) -> None:
    big, out = tmp_path / "big.jsonl", tmp_path / "out"
    out.mkdir()
    # Short lists, so that a batch ends within the 5 seconds that are waited for it on a busy machine too.
    short = ({**u, "hyps": u["hyps"][:3]} for u in lists[:50])
    big.write_text("".join(json.dumps(u) + "\n" for u in short) * 200, encoding="utf-8")
    script = "import sys, lorb_engine; lorb_engine.Rescorer(adapter=sys.argv[1]).rescore_file(*sys.argv[2:])"
    command = [sys.executable, "-c", script, str(adapter), str(big), str(out / "big.jsonl")]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.iterdir()):
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in child.communicate(timeout=60)[1]
    assert list(out.iterdir()) == []
