#!/bin/sh
# All tests of the workspace; nextest runs them side by side where it is installed.
set -eu
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --release --locked --workspace --no-fail-fast
fi
exec cargo test --release --locked --workspace --no-fail-fast
