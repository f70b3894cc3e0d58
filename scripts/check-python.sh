#!/usr/bin/env bash
# Builds the Python package's wheel into target/, and runs its tests and mypy on it, in a virtual environment there.
# The program that it is compared with is target/release/lorb-engine.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/python
python3 -m venv "$venv"
# Not by the names in bin: in a target/ that was copied those are still the other folder's.
python=$PWD/$venv/bin/python
"$python" -m pip install --quiet maturin mypy numpy pytest

# The target directory and the profile of the other builds, so that what the package depends on is compiled once.
rm -rf target/wheels
CARGO_TARGET_DIR=$PWD/target "$python" -m maturin build --quiet --release -m python/Cargo.toml --out target/wheels
"$python" -m pip install --quiet --force-reinstall --no-deps target/wheels/*.whl

# From elsewhere: what is tested is the wheel, not the sources beside the tests.
"$python" -m mypy --config-file python/pyproject.toml python/lorb_engine python/tests
"$python" -m pytest -q python/tests scale/tests
