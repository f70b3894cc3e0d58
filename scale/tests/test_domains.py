from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ray"))

from domains import domains  # noqa: E402


def make(folder: Path, *files: str) -> None:
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).touch()


def test_names_keep_their_dots(tmp_path: Path) -> None:
    make(tmp_path, "en.us.jsonl.gz", "en.gb.jsonl.zst", "t.csv", "plain", "_x")
    make(tmp_path, "v1.2/a.jsonl", "v1.2/_SUCCESS", "v1.2/.a.crc")
    found = {name: [Path(file).name for file in of] for name, of in domains(tmp_path).items()}
    assert found == {
        "en.us": ["en.us.jsonl.gz"], "en.gb": ["en.gb.jsonl.zst"],
        "t": ["t.csv"], "plain": ["plain"], "v1.2": ["a.jsonl"],
    }  # fmt: skip


@pytest.mark.parametrize("other", ["a.csv", "a/b.jsonl", "A.jsonl.gz"])
def test_two_of_one_name_are_refused(tmp_path: Path, other: str) -> None:
    make(tmp_path, "a.jsonl", other)
    with pytest.raises(ValueError, match="the domain [aA] is .* too: rename one"):
        domains(tmp_path)
