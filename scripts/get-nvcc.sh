#!/bin/sh
# Fetches NVIDIA's compiler from PyPI into target/nvcc, where build.rs looks for it; prints where it is.
# No GPU, driver or CUDA installation is needed. It takes about 400 MB.
set -eu
cd "$(dirname "$0")/.."

nvcc=target/nvcc/nvidia/cu13/bin/nvcc
if [ ! -x "$nvcc" ]; then
    # The compiler, its two halves, and the headers that kernels include. --no-deps: it names no more than that.
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target target/nvcc \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' \
        'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*' >&2
fi
"$nvcc" --version >/dev/null
echo "$PWD/$nvcc"
