#!/usr/bin/env bash
# Runs the jobs of scale/ on Ray and on Spark, with workers that are killed. scripts/check-python.sh comes before: it
# makes the virtual environment and the wheel. Spark needs Java.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v java >/dev/null || { echo "java is missing: Spark needs it (Debian: openjdk-17-jre-headless)" >&2; exit 1; }
target/python/bin/pip install --quiet psutil pyspark ray
target/python/bin/pytest -q scale/tests
