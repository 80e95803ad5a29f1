# Every target does all of its own set-up on a fresh machine: Python >= 3.10, a C++20 compiler and make are enough.
# nvcc, where there is one, also compiles the CUDA kernels; no GPU is needed for that.

PYTHON ?= python3
VENV ?= .venv
# One GPU architecture keeps a development build short; packages compile for all of setup.py's.
export TORCH_CUDA_ARCH_LIST ?= 9.0a+PTX
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(shell find csrc -type f) setup.py

.DEFAULT_GOAL := help
.PHONY: help install demo demo-ecgan test test-all test-asan test-tsan fuzz docs wheel lint format bench bench-pytest bench-compare \
	bench-instructions bench-instructions-update gpu-check bench-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch comes first and from the constraints file: an unpinned torch would bring gigabytes of CUDA packages. The module
# is built beside the sources, where build/ keeps the objects: only what has changed is compiled again.
$(STAMP): $(BIN)/python constraints.txt pyproject.toml $(SOURCES)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch numpy setuptools wheel ninja pybind11
	$(BIN)/python setup.py --quiet build_ext --inplace
	PYEQGAN_NATIVE=0 $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev,all]'
	touch $@

install: $(STAMP) ## make .venv with pyeqgan (editable, compiled) and the development tools

# Interrupted, it continues where it was.
DEMO := --data embedded --image-size 32 --width 0.25 --batch-size 8 --steps 420 --learning-rate 4e-4 \
	--reconstruction-weight 10 --penalty-every 4 --checkpoint-every 100 --sample-every 100 --ema-decay 0.99
demo: $(STAMP) ## train on the embedded data, generate unseen classes, leave demo/report.html (minutes)
	$(BIN)/pyeqgan train --output demo $(DEMO) $$(test ! -e demo/config.yaml || echo --resume)
	$(BIN)/pyeqgan evaluate --checkpoint demo --output demo/evaluation --fakes-per-class 32 --force
	$(BIN)/pyeqgan report demo --force

DEMO_ECGAN := --model ecgan --image-height 64 --image-width 64 --width 0.125 --upsamplings 4 --batch-size 4 --steps 1200 \
	--generator-rate 1e-3 --discriminator-rate 1e-3 --ema-decay 0.99 --contrast-pixels 64 \
	--checkpoint-every 200 --sample-every 200
demo-ecgan: $(STAMP) ## train on embedded label maps, paint those kept apart, leave demo-ecgan/report.html (minutes)
	$(BIN)/pyeqgan train --output demo-ecgan $(DEMO_ECGAN) $$(test ! -e demo-ecgan/config.yaml || echo --resume)
	$(BIN)/pyeqgan evaluate --checkpoint demo-ecgan --output demo-ecgan/evaluation --force
	$(BIN)/pyeqgan report demo-ecgan --force

test: $(STAMP) ## run the test suite
	OMP_NUM_THREADS=1 PYEQGAN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -n auto $(ARGS)

test-all: $(STAMP) ## run the test suite with the slow tests
	OMP_NUM_THREADS=1 PYEQGAN_REQUIRE_NATIVE=1 $(BIN)/python -m pytest -n auto -m "slow or not slow" $(ARGS)

test-asan: $(STAMP) ## run the operations' tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/python tests/sanitizers/address.py $(ARGS)

test-tsan: $(STAMP) ## run every compiled operation under ThreadSanitizer
	$(BIN)/python tests/sanitizers/thread.py

fuzz: $(STAMP) ## search for arguments that an operation does not stand; EXAMPLES=4000 of each kind
	FUZZ_EXAMPLES=$(or $(EXAMPLES),4000) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow tests/fuzz $(ARGS)

docs: $(STAMP) ## build the docs site, without the network, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# For others: TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0a+PTX" has GPU kernels for all, PYEQGAN_CUDA=0 for none.
wheel: $(STAMP) ## build a manylinux wheel for this Python into dist/ and try it beside the installed torch
	$(BIN)/python packaging/wheel.py $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror

format: $(STAMP) ## format all sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

bench: $(STAMP) ## measure the operations against eager PyTorch and torch.compile; keeps numbers and a report
	$(BIN)/python -m pyeqgan.benchmarks.record $(ARGS)

bench-pytest: $(STAMP) ## the same cases under pytest-benchmark; ARGS='-k local_fusion --benchmark-autosave'
	$(BIN)/python -m pytest benchmarks/bench_operations.py --benchmark-only --benchmark-disable-gc -n 0 $(ARGS)

bench-compare: $(STAMP) ## BASE=<commit>: build it and the working tree, run both in turns, fail if the latter is slower
	$(BIN)/python -m pyeqgan.benchmarks.compare $(or $(BASE),$(error BASE=<commit> says what to compare with)) $(ARGS)

bench-instructions: $(STAMP) ## count the kernels' instructions, fail where they are more than recorded (valgrind)
	$(BIN)/python benchmarks/callgrind/gate.py

bench-instructions-update: $(STAMP) ## record the kernels' instructions
	$(BIN)/python benchmarks/callgrind/gate.py --update

# With the Python, torch and pytest of the machine: a GPU machine need not reach any package index.
gpu-check: ## build, check and time every kernel on the GPU of this machine, and keep the outcome; resumable
	$(PYTHON) benchmarks/gpu_check.py

bench-gpu: ## measure the operations on the GPU of this machine, after gpu-check has installed them there; resumable
	$(PYTHON) -m pyeqgan.benchmarks.gpu $(ARGS)

clean: ## remove everything make has made
	rm -rf $(VENV) build dist demo demo-ecgan *.egg-info pyeqgan/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
