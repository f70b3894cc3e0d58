#!/bin/sh
# check-sass.sh FOLDER RULE… : whether kernels use the instructions that they were written for.
#
# A rule is "INSTRUCTION ARCHITECTURE PATTERN": in the images (*.fatbin) of FOLDER, every kernel whose name matches
# the pattern (an awk regular expression) has the instruction in its machine code for that architecture, and
# there is such a kernel. Needs no GPU: NVIDIA's disassembler is fetched from PyPI into target/cuobjdump.
set -eu
cd "$(dirname "$0")/.."
folder=$1
shift

bin=target/cuobjdump/nvidia/cu13/bin
if [ ! -x $bin/nvdisasm ]; then
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target target/cuobjdump \
        'nvidia-cuda-cuobjdump==13.5.*' 'nvidia-cuda-nvdisasm==13.5.*' >&2
fi
listing=$(mktemp)
trap 'rm -f "$listing"' EXIT
for image in "$folder"/*.fatbin; do
    NVDISASM_PATH=$bin $bin/cuobjdump -sass "$image" >>"$listing"
done

for rule in "$@"; do
    # shellcheck disable=SC2086 # three words
    set -- $rule
    awk -v instruction="$1" -v architecture="$2" -v pattern="$3" '
        /code for sm_/ { code = $NF }
        /Function : / {
            kernel = ""
            if (code == architecture && $NF ~ pattern) { kernel = $NF; uses[kernel] += 0 }
        }
        kernel != "" && $0 ~ "[ .]" instruction "[ .]" { uses[kernel]++ }
        END {
            for (kernel in uses) {
                found++
                if (!uses[kernel]) { print kernel " has no " instruction " for " architecture; wrong = 1 }
            }
            if (!found) { print "no kernel for " architecture " matches " pattern; wrong = 1 }
            else if (!wrong) print found " kernels " pattern " use " instruction " on " architecture
            exit wrong
        }' "$listing"
done
