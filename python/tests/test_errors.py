from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

import lorb_engine
from conftest import BUILTIN, CommandLine, Lists


def test_the_text_is_that_of_the_command_line(command_line: CommandLine, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        ran = command_line(*arguments)
        assert ran.returncode in (1, 2)
        return ran.stderr.strip().splitlines()[-1].removeprefix("lorb-engine: ")

    nowhere, bad = tmp_path / "nowhere", tmp_path / "bad.jsonl"
    bad.write_text('{"id": 1, "hyps": [{"text": "a"}]}\n')
    model = BUILTIN / "model"
    with pytest.raises(lorb_engine.UsageError) as neither:
        lorb_engine.Rescorer(model=nowhere)
    assert str(neither.value) == said("rescore", "--model", nowhere)
    nowhere.mkdir()
    with pytest.raises(lorb_engine.FileError) as opened:
        lorb_engine.Rescorer(model=nowhere)
    assert str(opened.value) == said("rescore", "--model", nowhere)
    assert isinstance(opened.value, OSError) and opened.value.errno == errno.ENOENT
    with pytest.raises(lorb_engine.InputError) as headless:
        lorb_engine.Rescorer(model=model)
    assert str(headless.value) == said("rescore", "--model", model)
    with pytest.raises(lorb_engine.InputError) as line:
        lorb_engine.train(train=bad, model=model, out=tmp_path / "out")
    assert str(line.value) == said("train", "--model", model, "--train", bad, "--out", tmp_path / "out")
    with pytest.raises(lorb_engine.UsageError) as option:
        lorb_engine.train(lr=-1, out=tmp_path / "out")
    assert str(option.value) == said("train", "--lr=-1", "--out", tmp_path / "out")
    with pytest.raises(lorb_engine.UsageError) as twice:
        lorb_engine.evaluate(bad, tune=bad)
    assert str(twice.value) == said("evaluate", bad, "--tune", bad)


@pytest.mark.parametrize(
    "utterance, problem",
    [
        (3, "expected an object, found the number 3"),
        ({"hyps": []}, '"id" is missing'),
        ({"id": "u", "hyps": [{"text": "a", "am": float("nan")}]}, '"am" is NaN, not a finite number'),
        ({"id": "u", "hyps": [{"text": "a", "am": 10**400}]}, '"am" is Infinity, not a finite number'),
        ({"id": "u", "hyps": [{"text": "a"}]}, 'has no "am"'),
        ({"id": "u", "hyps": [{"text": "\ud800", "am": 1}]}, '"text" is not valid Unicode'),
        ({"id": "u", "hyps": [{"text": "a", "am": 1, "more": object()}]}, "\"more\" is of the type <class 'object'>"),
        ({1: 2}, "has a key that is no string"),
    ],
)
def test_a_bad_utterance_is_located(
    rescorer: lorb_engine.Rescorer, lists: Lists, utterance: Any, problem: str
) -> None:
    with pytest.raises(lorb_engine.InputError) as error:
        rescorer.rescore([lists[0], utterance])
    assert str(error.value).startswith("lists:2: ") and problem in str(error.value)


def test_what_has_no_end_is_refused(rescorer: lorb_engine.Rescorer) -> None:
    endless: dict[str, Any] = {"id": "u", "hyps": [{"text": "a", "am": 1}]}
    endless["self"] = endless
    with pytest.raises(lorb_engine.InputError, match="nested too deeply"):
        rescorer.rescore([endless])


def test_options_are_checked(adapter: Path, rescorer: lorb_engine.Rescorer, tmp_path: Path) -> None:
    for options, problem in [
        ({"device": "tpu"}, "device: expected auto, cpu or cuda"),
        ({"dtype": "int4"}, "dtype: expected f32, bf16 or int8"),
        ({"threads": 0}, "threads: expected 1 to 1024"),
        ({"threads": "many"}, "compute.threads: invalid type"),
        ({"unit": "phone"}, "lists.unit: unknown variant"),
        ({"beta": -1.0}, "beta: expected a number from 0"),
    ]:
        with pytest.raises(lorb_engine.UsageError, match=problem):
            lorb_engine.Rescorer(adapter=adapter, **options)  # type: ignore[arg-type]
    with pytest.raises(lorb_engine.UsageError, match="prune: expected a number from 0"):
        rescorer.rescore([], prune=-1.0)
    with pytest.raises(ValueError, match="format: expected one of jsonl, espnet"):
        lorb_engine.load_nbest(tmp_path / "lists", format="htk")
    with pytest.raises(ValueError, match="ctc_weight: expected a number from 0 to 1"):
        lorb_engine.load_nbest(tmp_path / "lists", ctc_weight=1.5)
    with pytest.raises(TypeError):
        rescorer.score("one string")
    with pytest.raises(lorb_engine.UsageError, match="those of --init-adapter: leave --rank out"):
        lorb_engine.train(init_adapter=adapter, rank=4)
    for domain, problem in [
        ({"a/b": "x"}, "domain: found the name \"a/b\""),
        ({"a": []}, "domain: found no file for a"),
        ({"a": ""}, "domain: found a file without a name"),
        ({"a": "x", "A": "x"}, "--domain A: another domain has this name"),
    ]:
        with pytest.raises(lorb_engine.UsageError, match=problem):
            lorb_engine.train(domain=domain)  # type: ignore[arg-type]
    with pytest.raises(lorb_engine.UsageError, match="domain and --train"):
        lorb_engine.train(domain={"a": "x"}, train="x")
    with pytest.raises(lorb_engine.UsageError, match="no target"):
        lorb_engine.train(targets="everything")


def test_every_error_is_a_lorb_error() -> None:
    for error in ["UsageError", "InputError", "FileError", "NotFiniteError", "DeviceError"]:
        assert issubclass(getattr(lorb_engine, error), lorb_engine.LorbError)
