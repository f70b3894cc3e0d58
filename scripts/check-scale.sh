#!/usr/bin/env bash
# Installs the Python package with Ray and Spark into a virtual environment in target/, and runs their jobs on small
# shards: workers and whole jobs are killed in the middle, and the bytes compared. Spark needs Java 17 or later.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v java >/dev/null || { echo "java is missing: apt-get install openjdk-17-jre-headless" >&2; exit 1; }
wheels=(target/wheels/*.whl)
[ -f "${wheels[0]}" ] || { echo "there is no wheel in target/wheels: run scripts/check-python.sh" >&2; exit 1; }

venv=target/scale/venv
python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet -r scale/requirements.txt
"$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps "${wheels[0]}"

export PYSPARK_PYTHON=$PWD/$venv/bin/python RAY_USAGE_STATS_ENABLED=0
# Ray gives its workers the least priority, and whatever else this machine does would come first.
export RAY_worker_niceness=0
"$venv/bin/python" scale/tests/check.py --work target/scale/work --program "$PWD/target/release/lorb-engine"
