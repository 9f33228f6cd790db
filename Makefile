# make demo         set up .venv here and train on real digits, with average and with covariance pooling
# make test         set up .venv here and run the tests that show that everything works, in minutes
# make test-all     build the CUDA extension for every architecture, where nvcc is, and run the other tests: more inputs,
#                   builds, compilers, machine code
# make mutation     plant faults, each of which a test must catch
# make test-oldest  set up an environment of the oldest Python, torch, Triton and numpy that pyproject.toml promises, and
#                   one of the next torch, and run what depends on them: operators, compilation, transforms, layers,
#                   interpreted and compiled kernels. Several GB to download
# make docs         build the documentation into site/, with an environment of its own, which needs no torch
# make wheel        build the source distribution and from it the wheel into dist/, check both, tag the wheel with the
#                   Linux that its extension wants, and try it: info and selftest
# make hub-kernels  build the folder that the kernels library of Hugging Face loads, into build/hub-kernels
#
# PYTHON   the interpreter to start from
# VENV     where the virtual environment goes; DOCS_VENV that of make docs
# TORCH    what pip is asked for as torch when VENV is made: a version if the newest is not wanted, or an index too, as in
#          "torch --index-url URL"; torchvision comes from there as well
# JOBS     processes of tests at a time (a core each, eight at most); on a GPU each takes some GiB of its memory
# OPTIONS  more options for pytest
# EXTRAS   of pyproject.toml, what VENV has besides torch; with docs too the tests build the site
# GCP_KERNELS_CUDA  1 to build the extension whatever is here, 0 to leave it out. Without it VENV has it for the GPU that
#          is here, if one is, and only for that; make test-all builds it for every architecture
# PYTHON310, PYTHON312  the interpreters of test-oldest
#
# make clean first, to make VENV again with other values.

PYTHON ?= python3
VENV ?= .venv
DOCS_VENV ?= .venv-docs
TORCH ?= torch
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(8, len(os.sched_getaffinity(0))))" 2> /dev/null || echo 1)
OPTIONS ?=
EXTRAS ?= demo,test,bench,dev
PYTHON310 ?= python3.10
PYTHON312 ?= python3.12

# A file of tests stays in one process: some build or compile something once for all of their tests.
PYTEST = $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
QUICK = not slow and not thorough and not mutation
# Tensors beyond 2^31 elements, one at a time, are a part of gpu-check.
REST = (slow or thorough or extension) and not (gpu and slow)

.PHONY: demo test test-all mutation test-oldest lint docs wheel hub-kernels clean

demo: $(VENV)/.ready
	$(VENV)/bin/python -m experiments demo

test: $(VENV)/.ready
	$(PYTEST) -m "$(QUICK)" $(OPTIONS)

test-all: $(VENV)/.extension
	$(PYTEST) -m "$(REST)" $(OPTIONS)

mutation: $(VENV)/.ready
	status=0; $(VENV)/bin/python -m tests.mutation --jobs $(JOBS) || status=1; \
	  $(PYTEST) -m mutation $(OPTIONS) || status=1; exit $$status

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/clang-format --dry-run --Werror $(shell find csrc tests/support/cuda_emulation -regex ".*\.\(h\|cpp\|cu\|cuh\)")
	$(VENV)/bin/mypy

# Said before anything is made, and in words that an old interpreter understands.
define check_interpreter
@$(1) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("error: gcp_kernels needs Python 3.10 or newer, and \
$(1) is %s; name another, such as PYTHON=python3.12" % sys.version.split()[0])'
@$(1) -c 'import ensurepip, venv' || { echo "error: $(1) cannot make virtual environments; \
on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
endef

# The build compiles against torch, so torch comes first and the build is not isolated from it. pytorchcv is the peer
# that tests and benchmarks compare with; its dependencies are left out because they would replace torch. torchvision
# and timm have the models that the integrations convert, and are left out where none loads beside this torch.
$(VENV)/.ready: pyproject.toml setup.py tests/support/model_libraries.py tests/support/extension_for_this_gpu.py $(shell find csrc -type f)
	$(call check_interpreter,$(PYTHON))
	$(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=77" ninja
	$(PIP) $(TORCH)
	env $(FOR_THIS_GPU) $(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	$(PIP) --no-deps "pytorchcv==0.0.74"
	$(VENV)/bin/python tests/support/model_libraries.py $(TORCH)
	touch $@

# Where it cannot be built, setup.py says why, and so do the tests that want it.
$(VENV)/.extension: $(VENV)/.ready
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

# Python compiles what it imports, once, rather than pip all that torch has. Were it told to keep nothing, every process
# that a test starts would compile torch again.
PIP = $(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check
unexport PYTHONDONTWRITEBYTECODE
FOR_THIS_GPU = $$($(VENV)/bin/python tests/support/extension_for_this_gpu.py)

# Nothing of the package is installed: the tests run in the checkout, beside whatever VENV has built there. The
# interpreter of Triton 3.6 cannot run with numpy 2.4 or newer.
test-oldest: test-torch-2.10.0 test-torch-2.11.0
test-torch-2.10.0: OLD_PYTHON = $(PYTHON310)
test-torch-2.11.0: OLD_PYTHON = $(PYTHON312)
.PRECIOUS: .venv-torch-%/.ready
test-torch-%: .venv-torch-%/.ready
	.venv-torch-$*/bin/python -m pytest -p no:cacheprovider -m "versions and not slow" $(OPTIONS)

.venv-torch-%/.ready: Makefile tests/support/model_libraries.py
	$(call check_interpreter,$(OLD_PYTHON))
	$(OLD_PYTHON) -m venv .venv-torch-$*
	.venv-torch-$*/bin/pip install --quiet "torch==$*" "triton==3.6.0" "numpy<2.4" "setuptools>=77,<82" ninja "pytest>=8" \
	  pytest-xdist pytest-timeout scikit-learn scipy matplotlib tqdm
	.venv-torch-$*/bin/python tests/support/model_libraries.py "torch==$*" "numpy<2.4"
	touch $@

# The extra alone, by its names: the package itself would bring torch, and the site is made from the sources.
NAMES = import pathlib, re; \
  print(*re.findall(r"\"(.*?)\"", re.search(r"^docs = \[(.*?)\]$$", pathlib.Path("pyproject.toml").read_text(), re.M | re.S)[1]))

# From the source distribution, as whoever has only that would; tried in an environment that has nothing of this one.
wheel: $(VENV)/.ready
	rm -rf dist .venv-wheel
	$(VENV)/bin/python -m build --no-isolation --outdir dist
	$(VENV)/bin/python -m release.wheel dist
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --no-compile --disable-pip-version-check $(TORCH) dist/*.whl
	cd dist && ../.venv-wheel/bin/gcp-kernels info && ../.venv-wheel/bin/gcp-kernels selftest
	ls -l dist

hub-kernels: $(VENV)/.ready
	rm -rf build/hub-kernels
	$(VENV)/bin/python -m release.hub_kernels build/hub-kernels

docs: $(DOCS_VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict

$(DOCS_VENV)/.ready: pyproject.toml
	$(call check_interpreter,$(PYTHON))
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check $$($(DOCS_VENV)/bin/python -c '$(NAMES)')
	touch $@

clean:
	rm -rf $(VENV) .venv-torch-* $(DOCS_VENV) .venv-wheel site dist build *.egg-info gcp_kernels/_build_info.py gcp_kernels/_C*.so gcp_demo.png
