#!/bin/sh
# Ends as `lorb-engine check-kernels` may, by the trial that it is asked for.
case "$1 $2" in
"check-kernels f32 common") echo "adamw: $3" ;;
"check-kernels f32 lora_linear plain") echo "lorb-engine: adamw: v, element 3: 1, and 2 on the CPU" >&2; exit 1 ;;
"check-kernels f32 attention plain") exec sleep 60 ;;
"check-kernels bf16 lora_linear tensor") kill -9 $$ ;;
*) echo "lorb-engine: there is no CUDA device to use" >&2; exit 2 ;;
esac
