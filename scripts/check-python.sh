#!/usr/bin/env bash
# Builds the Python package's wheel into target/, and runs its tests and mypy on it, in a virtual environment there.
# The program that it is compared with is target/release/lorb-engine.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=target/python
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet maturin mypy numpy pytest

# The target directory and the profile of the other builds, so that what the package depends on is compiled once.
rm -rf target/wheels
CARGO_TARGET_DIR=$PWD/target "$venv/bin/maturin" build --quiet --release -m python/Cargo.toml --out target/wheels
"$venv/bin/pip" install --quiet --force-reinstall --no-deps target/wheels/*.whl

# From elsewhere: what is tested is the wheel, not the sources beside the tests.
"$venv/bin/mypy" --config-file python/pyproject.toml python/lorb_engine python/tests
"$venv/bin/pytest" -q python/tests scale/tests
