# make demo         set up .venv here and train on real digits, with average and with covariance pooling
# make test         set up .venv here and run every test
# make test-oldest  set up an environment of the oldest Python, torch, Triton and numpy that pyproject.toml promises, and
#                   one of the next torch, and run what depends on them: operators, compilation, transforms, layers,
#                   interpreted and compiled kernels. Several GB to download
#
# PYTHON   the interpreter to start from
# VENV     where the virtual environment goes
# TORCH    what pip is asked for as torch when VENV is made; name a version here if the newest is not wanted
# OPTIONS  for pytest: "-n 2 --dist loadfile" runs the tests in two processes
# PYTHON310, PYTHON312  the interpreters of test-oldest
#
# make clean first, to make VENV anew with other values.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
OPTIONS ?=
PYTHON310 ?= python3.10
PYTHON312 ?= python3.12

.PHONY: demo test test-oldest lint clean

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

# Each torch with the torchvision that was built for it. Nothing of the package is installed: the tests run in the
# checkout, beside whatever VENV has built there. The interpreter of Triton 3.6 cannot run with numpy 2.4 or newer.
test-oldest: test-torch-2.10.0 test-torch-2.11.0
test-torch-2.10.0: OLD_PYTHON = $(PYTHON310)
test-torch-2.11.0: OLD_PYTHON = $(PYTHON312)
TORCHVISION_2.10.0 = 0.25.0
TORCHVISION_2.11.0 = 0.26.0
OLDEST_TESTS = precision mixed_precision autocast operators operator_arguments inference_graphs compiled_models \
  transforms scaled_covariance_transforms normalization_transforms nn nn_normalization cross_covariance dropcov_layer \
  matrix_function triton_kernels triton_edges triton_memory triton_config triton_choices triton_recompiles \
  triton_variants triton_truncation gpu_races kernel_cache_keys static static_waits launch_overhead first_contact \
  run_endings commands

.PRECIOUS: .venv-torch-%/.ready
test-torch-%: .venv-torch-%/.ready
	.venv-torch-$*/bin/python -m pytest -p no:cacheprovider -m "not slow" $(OPTIONS) $(OLDEST_TESTS:%=tests/test_%.py)

.venv-torch-%/.ready: Makefile
	$(OLD_PYTHON) -m venv .venv-torch-$*
	.venv-torch-$*/bin/pip install --quiet "torch==$*" "triton==3.6.0" "numpy<2.4" "setuptools>=77,<82" ninja "pytest>=8" \
	  pytest-xdist pytest-timeout scikit-learn matplotlib tqdm huggingface_hub safetensors pyyaml pillow
	.venv-torch-$*/bin/pip install --quiet --no-deps "torchvision==$(TORCHVISION_$*)" "timm==1.0.31"
	touch $@

clean:
	rm -rf $(VENV) .venv-torch-* build *.egg-info gcp_kernels/_build_info.py gcp_kernels/_C*.so gcp_demo.png
