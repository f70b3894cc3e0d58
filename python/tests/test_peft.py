from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import BUILTIN, ROOT

EXAMPLE = ROOT / "python" / "examples" / "peft_both_ways.py"


@pytest.mark.parametrize("model", ["embedded", "real"])
def test_an_adapter_goes_to_peft_and_back(model: str) -> None:
    missing = [name for name in ["torch", "transformers", "peft"] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    folder = BUILTIN / "model"
    if model == "real":
        if "LORB_TEST_MODEL" not in os.environ:
            pytest.skip("LORB_TEST_MODEL names no folder of a BERT")
        folder = Path(os.environ["LORB_TEST_MODEL"])
    ran = subprocess.run([sys.executable, EXAMPLE, "--model", folder], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("the largest differs by") == 2
