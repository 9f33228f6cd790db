# make demo   set up .venv here and train on real digits, with average and with covariance pooling
# make test   set up .venv here and run every test
#
# PYTHON   the interpreter to start from
# VENV     where the virtual environment goes
# TORCH    what pip is asked for as torch when VENV is made; name a version here if the newest is not wanted
# OPTIONS  for pytest: "-n 2 --dist loadfile" runs the tests in two processes
#
# make clean first, to make VENV anew with other values.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
OPTIONS ?=

.PHONY: demo test lint clean

demo: $(VENV)/.ready
	$(VENV)/bin/python -m gcp_kernels demo

test: $(VENV)/.ready
	$(VENV)/bin/python -m pytest $(OPTIONS)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/clang-format --dry-run --Werror $(shell find csrc tests/cuda_emulation -regex ".*\.\(h\|cpp\|cu\|cuh\)")
	$(VENV)/bin/mypy

# The build compiles against torch, so torch comes first and the build is not isolated from it. pytorchcv is the peer
# that tests and benchmarks compare with, torchvision and timm have the models that the integrations convert; their
# dependencies are left out because they would replace torch. What else timm needs stands on a line of its own.
$(VENV)/.ready: pyproject.toml setup.py $(shell find csrc -type f)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(TORCH) "setuptools>=77" ninja
	$(VENV)/bin/pip install --quiet --no-build-isolation --editable ".[demo,test,bench,dev]"
	$(VENV)/bin/pip install --quiet huggingface_hub safetensors pyyaml pillow
	$(VENV)/bin/pip install --quiet --no-deps "pytorchcv==0.0.74" "torchvision==0.28.0" "timm==1.0.31"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info gcp_kernels/_build_info.py gcp_kernels/_C*.so gcp_demo.png
