# Two commands: `make demo` compresses the shipped model, `make test` checks everything.
# Both install what is missing. Build output is kept outside the checkout, so that clones share it:
#   MOEPRESS_CACHE=/elsewhere make test

MOEPRESS_CACHE ?= $(HOME)/.cache/moepress
export CARGO_TARGET_DIR ?= $(MOEPRESS_CACHE)/target
MOEPRESS = $(CARGO_TARGET_DIR)/release/moepress
PYTHON = $(MOEPRESS_CACHE)/venv/bin/python3

.PHONY: demo build test lint setup python browser clean

demo: build
	@rm -rf out/demo
	$(MOEPRESS) run recipes/demo.yaml --out out/demo

build: setup
	cargo build --release --locked

test: setup python browser lint
	PYTHON=$(PYTHON) sh tests/run.sh

lint: setup
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

# OpenBLAS is the one library that is not built from source here.
setup:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.95 or newer, then run make again" >&2; exit 1; }
	@sh tests/setup.sh libopenblas-dev pkg-config gcc

# numpy, for the independent reader of compact checkpoints.
python: $(PYTHON)
$(PYTHON):
	@sh tests/setup.sh python3 python3-venv
	python3 -m venv $(MOEPRESS_CACHE)/venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check numpy || { rm -rf $(MOEPRESS_CACHE)/venv; exit 1; }

# To look at reports; the test says so where it cannot be had.
browser:
	-@sh tests/setup.sh chromium fonts-dejavu-core

clean:
	rm -rf $(CARGO_TARGET_DIR) out/demo
