#!/bin/sh
# The tests of the kernels on an emulated aarch64 processor; where compiler or emulator cannot be had, says so.
set -eu
target=aarch64-unknown-linux-gnu
sh tests/setup.sh qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross || true
rustup target add $target 2>/dev/null || true
if ! command -v qemu-aarch64 >/dev/null || ! command -v aarch64-linux-gnu-gcc >/dev/null || ! rustup target list --installed | grep -qx $target; then
    echo "not run: the kernels for aarch64 (no $target target, compiler or emulator here)" >&2
    exit 0
fi
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cargo clippy --release --locked -p moepress-kernels --target $target --all-targets -- -D warnings
exec cargo test --release --locked -p moepress-kernels --target $target
