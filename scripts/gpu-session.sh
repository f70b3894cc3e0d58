#!/usr/bin/env bash
# Everything that there is to see of the kernels on a GPU, in one go: what doctor says, the tests, compute-sanitizer, and
# the benchmarks. No Rust is needed there.
#
#     cargo build --release --features cuda --bins --benches --tests   # where Rust is; then carry three programs
#     scripts/gpu-session.sh PROGRAMS LISTS OUT [options of benches/gpu.py]
#
# PROGRAMS is a folder with lorb-engine, cuda (target/release/deps/cuda-*) and contender (…/contender-*); LISTS are
# N-best lists, JSON lines; OUT takes the logs. Ends with 1 where something was wrong.
set -uo pipefail
cd "$(dirname "$0")/.."
programs=$(realpath "$1") lists=$2 out=$3
shift 3
mkdir -p "$out/tests" "$out/sanitizer"
export LORB_ENGINE=$programs/lorb-engine CUDA_TESTS=$programs/cuda OUT=$out
wrong=0

timeout 120 "$LORB_ENGINE" doctor --device cuda >"$out/doctor.txt" 2>&1 || wrong=1
tail -n 12 "$out/doctor.txt"

# Each in a process of its own: a fault of the device ends with it. The tests of the emulator are not among them.
test_alone() {
  LORB_TEST_CUDA=1 timeout 60 "$CUDA_TESTS" --exact "$1" --nocapture >"$OUT/tests/$1.txt" 2>&1 || echo "failed: $1"
}
export -f test_alone
elsewhere='^(capture|compiler|emulated|faulty|first_use|memory|selection|selfcheck|stream|table)::'
failed=$("$CUDA_TESTS" --list | sed -n 's/: test$//p' | grep -vE "$elsewhere" |
  xargs -P 6 -I{} bash -c 'test_alone {}')
[ -z "$failed" ] || { wrong=1; echo "$failed"; }

check() {
  timeout 120 compute-sanitizer --tool "$1" --error-exitcode 9 "$LORB_ENGINE" check-kernels "$2" small \
    >"$OUT/sanitizer/$1 $2.txt" 2>&1 || echo "failed: $1 of $2"
}
export -f check
if command -v compute-sanitizer >/dev/null; then
  failed=$(for tool in memcheck racecheck synccheck initcheck; do
    for precision in f32 bf16; do
      for subject in common "lora_linear plain" "attention plain"; do echo "$tool $precision $subject"; done
    done
    for subject in "lora_linear hopper" "lora_linear tensor" "attention tensor"; do echo "$tool bf16 $subject"; done
  done | xargs -P 12 -I{} bash -c 'set -- {}; tool=$1; shift; check "$tool" "$*"')
  [ -z "$failed" ] || { wrong=1; echo "$failed"; }
fi

python3 benches/gpu.py --contender "$programs/contender" --lists "$lists" --out "$out" "$@" || wrong=1
exit $wrong
