# Two commands: `make demo` compresses the shipped model, `make test` checks everything.
# Both install what is missing. Build output is kept outside the checkout, so that clones share it:
#   MOEPRESS_CACHE=/elsewhere make test

MOEPRESS_CACHE ?= $(HOME)/.cache/moepress
export CARGO_TARGET_DIR ?= $(MOEPRESS_CACHE)/target
MOEPRESS = $(CARGO_TARGET_DIR)/release/moepress
PYTHON = $(MOEPRESS_CACHE)/venv/bin/python3

.PHONY: demo build test test-gpu test-arm gpu lint setup python vulkan nvrtc browser clean

demo: build
	@rm -rf out/demo
	$(MOEPRESS) run recipes/demo.yaml --out out/demo

build: setup
	cargo build --release --locked

test: setup python browser lint
	PYTHON=$(PYTHON) sh tests/run.sh
	$(MAKE) test-arm test-gpu

# The same kernels and the same model on the GPU backends: wgpu runs on Mesa's software driver, CUDA C++ is compiled.
# burn with these features is a tower of its own, in a folder of its own.
GPU = CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)-gpu PYTHON=$(PYTHON) XDG_RUNTIME_DIR=$${XDG_RUNTIME_DIR:-/tmp}
test-gpu: setup python vulkan nvrtc
	$(GPU) cargo test --release --locked -p moepress-gpu -p moepress --features wgpu,cuda --lib --test kernels --test end_to_end --test device

# The kernels for aarch64, on an emulated processor.
test-arm: setup
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)-arm sh tests/arm.sh

# All that a card can show: see docs/gpu.md. DEVICE=wgpu for other cards than NVIDIA's.
DEVICE ?= cuda
gpu: setup
	$(GPU) sh benches/gpu.sh $(DEVICE)

lint: setup
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

# OpenBLAS is the one library that is not built from source here.
setup:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.95 or newer, then run make again" >&2; exit 1; }
	@sh tests/setup.sh libopenblas-dev pkg-config gcc

# numpy, for the independent reader of compact checkpoints; PyYAML, to run the action's steps; OpenAI's client and
# lm-evaluation-harness, which the server has to please: a minute, 800 MB, without torch.
PACKAGES = $(MOEPRESS_CACHE)/venv/packages-2
python: $(PACKAGES)
$(PYTHON):
	@sh tests/setup.sh python3 python3-venv
	python3 -m venv $(MOEPRESS_CACHE)/venv
$(PACKAGES): $(PYTHON)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check numpy pyyaml openai==3.57.0 'lm-eval[api]==0.4.13'
	touch $@

# Mesa's software driver for Vulkan; tests say so where there is no device.
vulkan:
	-@sh tests/setup.sh mesa-vulkan-drivers

# The compiler of CUDA C++ and its headers, 269 MB, without a toolkit; the test says so where they cannot be had.
nvrtc: $(MOEPRESS_CACHE)/nvrtc
$(MOEPRESS_CACHE)/nvrtc: $(PYTHON)
	-$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps nvidia-cuda-nvrtc-cu12==12.9.86 \
		nvidia-cuda-runtime-cu12==12.9.79 nvidia-cuda-cccl-cu12==12.9.27 && touch $@

# To look at reports; the test says so where it cannot be had.
browser:
	-@sh tests/setup.sh chromium fonts-dejavu-core

clean:
	rm -rf $(CARGO_TARGET_DIR) out/demo
