#!/bin/sh
# The GPU suite of docs/gpu.md: gpu.sh cuda|wgpu [quick]
#   SUITE=/path/to/suite   a binary built elsewhere, where this machine has no Rust
#   CUDA_PATH=/usr/local/cuda   headers and NVRTC, which CUDA kernels are compiled with when they are first used
set -eu
cd "$(dirname "$0")/.."
device="${1:-cuda}"
if [ -z "${SUITE:-}" ]; then
    cargo build --release --locked -p moepress-gpu -p moepress --bins --example suite --features wgpu,cuda
    SUITE="${CARGO_TARGET_DIR:-target}/release/examples/suite"
fi
if [ "$device" = cuda ]; then
    export CUDA_PATH="${CUDA_PATH:-/usr/local/cuda}"
    export LD_LIBRARY_PATH="$CUDA_PATH/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    [ -e "$CUDA_PATH/include/cuda_fp16.h" ] || echo "no CUDA headers in $CUDA_PATH/include: set CUDA_PATH" >&2
fi
exec "$SUITE" "$@"
