from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Sequence

import pytest

import lorb_engine
from conftest import BUILTIN, CommandLine

SMALL: dict[str, Any] = {"epochs": 1, "hyps": 4, "batch_tokens": 800}


def files(folder: Path) -> dict[str, bytes]:
    """But those that say when it was, and how it was called."""
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name not in ["metrics.jsonl", "README.md"]}


def test_the_bytes_are_those_of_the_command_line(command_line: CommandLine, tmp_path: Path) -> None:
    reports: list[lorb_engine.StepReport] = []
    result = lorb_engine.train(out=tmp_path / "here", threads=2, callback=reports.append, **SMALL)
    options = ["--epochs", 1, "--hyps", 4, "--batch-tokens", 800, "--threads", 2]
    ran = command_line("train", "--out", tmp_path / "there", *options)
    assert ran.returncode == 0, ran.stderr
    assert files(tmp_path / "here") == files(tmp_path / "there")

    assert result is not None and result["adapter"] == str(tmp_path / "here")
    for lists in ["validation", "held out"]:
        line = next(line for line in ran.stdout.splitlines() if line.startswith(lists))
        shown = [float(part.split()[-1]) for part in line.split("%")[:4]]
        rates = result[lists.replace(" ", "_")]
        found = [rates[k] for k in ["first_pass", "tuned_without_lorb", "rescored", "oracle"]]
        assert [round(rate, 2) for rate in found] == shown
    assert [r["step"] for r in reports] == list(range(1, reports[0]["steps"] + 1))
    assert set(reports[0]) == set(lorb_engine.StepReport.__annotations__)


def test_a_callback_that_raises_stops_and_resume_ends_the_same(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def at_five(report: lorb_engine.StepReport) -> None:
        assert threading.current_thread() is threading.main_thread()
        if report["step"] == 5:
            raise Enough

    with pytest.raises(Enough):
        lorb_engine.train(out=tmp_path / "stopped", callback=at_five, **SMALL)
    assert any(f.name.startswith("checkpoint-") for f in (tmp_path / "stopped").iterdir())
    with pytest.raises(lorb_engine.UsageError, match="unfinished run"):
        lorb_engine.train(out=tmp_path / "stopped", **SMALL)
    steps: list[int] = []
    lorb_engine.train(
        out=tmp_path / "stopped", resume=True, callback=lambda report: steps.append(report["step"]), **SMALL
    )
    assert steps[0] == 6
    lorb_engine.train(out=tmp_path / "whole", **SMALL)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert lorb_engine.train(out=tmp_path / "whole", resume=True, **SMALL) is None


def test_domains_are_those_of_the_command_line(command_line: CommandLine, tmp_path: Path) -> None:
    train, valid = BUILTIN / "train.jsonl.gz", BUILTIN / "valid.jsonl.gz"
    reports: list[lorb_engine.StepReport] = []
    domain: dict[str, Sequence[Path]] = {"first": [train, valid], "second": [valid]}
    here = tmp_path / "here"
    result = lorb_engine.train(domain=domain, valid=0.3, out=here, threads=2, callback=reports.append, **SMALL)
    options = ["--epochs", 1, "--hyps", 4, "--batch-tokens", 800, "--threads", 2, "--valid", 0.3]
    named = ["--domain", f"first={train},{valid}", "--domain", f"second={valid}"]
    there = tmp_path / "there"
    ran = command_line("train", "--model", BUILTIN / "model", "--out", there, *named, *options)
    assert ran.returncode == 0, ran.stderr
    assert result is not None and list(result) == ["first", "second"]
    for name in domain:
        tensors = [folder / name / "adapter_model.safetensors" for folder in (here, there)]
        assert tensors[0].read_bytes() == tensors[1].read_bytes()
        assert result[name]["adapter"] == str(here / name)
        line = next(line for line in ran.stdout.splitlines() if line.startswith(f"{name} validation"))
        assert f"{result[name]['validation']['rescored']:.2f} %" in line
    assert [r["domain"] for r in reports] == sorted(r["domain"] or "" for r in reports)
    assert {r["domain"] for r in reports} == set(domain)
    again = lorb_engine.train(domain=domain, valid=0.3, out=here, resume=True, **SMALL)
    assert again == {"first": None, "second": None}


def test_an_adapter_for_each_domain_scores_its_utterances(
    adapter: Path, command_line: CommandLine, lists: list[dict[str, Any]], tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed.jsonl"
    domains = ["legal", "news", "other"]
    with mixed.open("w", encoding="utf-8") as file:
        for i, utterance in enumerate(lists):
            file.write(json.dumps({**utterance, "domain": domains[i % 3]}) + "\n")
    other = tmp_path / "other"
    lorb_engine.train(out=other, seed=7, **SMALL)
    adapters = {"legal": adapter, "news": other}
    here = lorb_engine.evaluate(mixed, adapter_for=adapters, adapter=adapter)
    named = [argument for name, folder in adapters.items() for argument in ("--adapter-for", f"{name}={folder}")]
    model = ["--model", BUILTIN / "model"]
    ran = command_line("evaluate", mixed, *model, "--adapter", adapter, *named, "--json")
    assert ran.returncode == 0, ran.stderr
    assert here == json.loads(ran.stdout)
    assert here != lorb_engine.evaluate(mixed, adapter=adapter)


def interrupt_after(seconds: float) -> list[float]:
    """Presses Ctrl-C in a while; the list gets the time at which it did."""
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(seconds, press).start()
    return pressed


def test_ctrl_c_ends_training_soon_and_saved(tmp_path: Path) -> None:
    pressed = interrupt_after(1.5)
    with pytest.raises(KeyboardInterrupt):
        lorb_engine.train(out=tmp_path / "out", epochs=50)
    assert time.monotonic() - pressed[0] < 3
    assert any(f.name.startswith("checkpoint-") for f in (tmp_path / "out").iterdir())


def test_ctrl_c_ends_a_fetch_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # It takes connections and never answers.
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        pressed = interrupt_after(0.5)
        with pytest.raises(KeyboardInterrupt):
            lorb_engine.train(model="org/name", train=BUILTIN / "train.jsonl.gz", out=tmp_path / "out")
        assert time.monotonic() - pressed[0] < 1


def test_ctrl_c_ends_scoring_at_once(rescorer: lorb_engine.Rescorer, lists: list[dict[str, Any]]) -> None:
    texts = [h["text"] for u in lists for h in u["hyps"]]
    pressed = interrupt_after(0.5)
    with pytest.raises(KeyboardInterrupt):
        while True:
            rescorer.score([f"{text} {number}" for number in range(100) for text in texts])
    assert time.monotonic() - pressed[0] < 1
    pressed = interrupt_after(0.5)
    with pytest.raises(KeyboardInterrupt):
        while True:
            rescorer.rescore(lists * 20)
    assert time.monotonic() - pressed[0] < 1
    assert rescorer.score(["still there"]).shape == (1,)


def test_other_threads_run_while_it_computes(rescorer: lorb_engine.Rescorer, lists: list[dict[str, Any]]) -> None:
    done = threading.Event()
    ticks: list[float] = []

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=tick)
    thread.start()
    texts = [f"{h['text']} {i}" for i, u in enumerate(lists) for h in u["hyps"]]
    start = time.monotonic()
    rescorer.score(texts)
    seconds = time.monotonic() - start
    done.set()
    thread.join()
    during = [t for t in ticks if start <= t <= start + seconds]
    # With the lock held there would be next to none.
    assert len(during) > seconds / 0.01 / 10


def test_evaluate_is_that_of_the_command_line(adapter: Path, command_line: CommandLine, tmp_path: Path) -> None:
    valid, train = BUILTIN / "valid.jsonl.gz", BUILTIN / "train.jsonl.gz"
    # Tuning changes the weights beside it.
    adapter = shutil.copytree(adapter, tmp_path / "adapter")
    here = lorb_engine.evaluate(valid, model=BUILTIN / "model", adapter=adapter, tune=train)
    arguments = ["--model", BUILTIN / "model", "--adapter", adapter, "--tune", train, "--json"]
    ran = command_line("evaluate", valid, *arguments)
    assert ran.returncode == 0, ran.stderr
    assert here == json.loads(ran.stdout)
    embedded = lorb_engine.evaluate([valid, train], adapter=adapter)
    assert embedded["files"][0]["systems"] == {
        name: rates for name, rates in here["files"][0]["systems"].items() if name != "tuned_without_lorb"
    }
    plain = lorb_engine.evaluate(valid)
    assert set(plain["files"][0]["systems"]) == {"first_pass", "oracle"}


def test_two_that_train_together_get_what_one_gets(tmp_path: Path) -> None:
    put: list[bytes] = [b"", b""]
    barrier = threading.Barrier(2)

    def part(rank: int) -> Any:
        def all_gather(mine: bytes) -> list[bytes]:
            put[rank] = mine
            barrier.wait(60)
            taken = list(put)
            barrier.wait(60)
            return taken

        return lorb_engine.train(
            out=tmp_path / "two", threads=1, device="cpu", share=(rank, 2), all_gather=all_gather, **SMALL
        )

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(part, range(2))
    alone = lorb_engine.train(out=tmp_path / "alone", threads=1, device="cpu", **SMALL)
    assert alone is not None
    for rates in ["validation", "held_out"]:
        assert first[rates] == second[rates]
        # Sums in another order: a hypothesis may change places where two are as good.
        assert first[rates]["rescored"] == pytest.approx(alone[rates]["rescored"], abs=0.3)
    assert set(files(tmp_path / "two")) == set(files(tmp_path / "alone"))


def test_a_team_that_cannot_be_reached_is_the_callers_error(tmp_path: Path) -> None:
    def all_gather(mine: bytes) -> list[bytes]:
        raise ConnectionError("the cable is out")

    with pytest.raises(ConnectionError, match="the cable is out"):
        lorb_engine.train(out=tmp_path / "out", device="cpu", share=(0, 2), all_gather=all_gather)
    with pytest.raises(lorb_engine.UsageError, match="a team of 2 gathered the values of 1"):
        lorb_engine.train(out=tmp_path / "out", device="cpu", share=(0, 2), all_gather=lambda mine: [mine])
    with pytest.raises(lorb_engine.UsageError, match="rank 2: expected one below"):
        lorb_engine.train(out=tmp_path / "out", device="cpu", share=(2, 2), all_gather=lambda mine: [mine, mine])
    with pytest.raises(lorb_engine.UsageError, match="give both or neither"):
        lorb_engine.train(out=tmp_path / "out", share=(0, 2))


def test_lists_without_references_are_trained_and_counted_with_ref(tmp_path: Path) -> None:
    utterances = list(lorb_engine.load_nbest(BUILTIN / "valid.jsonl.gz"))[:40]
    said = "".join(f"{u['id']} {u.pop('ref')}\n" for u in utterances)
    (tmp_path / "text").write_text(said, encoding="utf-8")
    lists = tmp_path / "lists.jsonl"
    lists.write_text("".join(json.dumps(u) + "\n" for u in utterances), encoding="utf-8")
    first = next(iter(lorb_engine.load_nbest(lists, ref=tmp_path / "text")))
    assert said.startswith(f"{first['id']} {first['ref']}\n")
    # Nothing is scored: no GPU is opened, though there may be none.
    counted = lorb_engine.evaluate(lists, ref=tmp_path / "text", device="cuda")
    assert counted["files"][0]["utterances"] == 40
    options: dict[str, Any] = {"model": BUILTIN / "model", "ref": tmp_path / "text", **SMALL}
    assert lorb_engine.train(train=lists, out=tmp_path / "out", **options) is not None


def test_the_embedded_lists_are_measured_on_the_named_ones(tmp_path: Path) -> None:
    utterances = list(lorb_engine.load_nbest(BUILTIN / "valid.jsonl.gz"))[:7]
    test = tmp_path / "mine.jsonl"
    test.write_text("".join(json.dumps(u) + "\n" for u in utterances), encoding="utf-8")
    lorb_engine.train(test=test, out=tmp_path / "out", **SMALL)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "- Lists to train on: those that are embedded in lorb-engine" in card
    assert "- Held out: `mine.jsonl` (7 utterances)" in card
