from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest

import lorb_engine

ROOT = Path(__file__).resolve().parents[2]
BUILTIN = ROOT / "assets" / "builtin"
Lists = list[dict[str, Any]]
CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command_line() -> CommandLine:
    """The program that the package is compared with."""
    program = Path(os.environ.get("LORB_ENGINE", ROOT / "target" / "release" / "lorb-engine"))
    if not program.is_file():
        pytest.skip(f"there is no {program}: cargo build --release, or name another in LORB_ENGINE")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the embedded model, trained for one epoch of small steps."""
    out = tmp_path_factory.mktemp("trained") / "adapter"
    lorb_engine.train(out=out, epochs=1, hyps=4, batch_tokens=800)
    return out


@pytest.fixture(scope="session")
def lists() -> Lists:
    """The embedded held-out lists."""
    return list(lorb_engine.load_nbest(BUILTIN / "valid.jsonl.gz"))


@pytest.fixture(scope="session")
def rescorer(adapter: Path) -> lorb_engine.Rescorer:
    return lorb_engine.Rescorer(adapter=adapter)


def lines(path: Path) -> Lists:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
