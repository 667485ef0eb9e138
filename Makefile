# make demo        a phantom tomogram is made, segmented, drawn and judged; needs Python 3.11 and nothing else
# make test        every test, with CPU torch
# make lint types wheel-test
#
# PYTHON=python3.12 chooses another Python, VENV=folder another environment, ARGS="-k tiles" a part of the tests.
# Where pip finds no CPU build of torch it takes the one with CUDA, which is gigabytes and works as well;
# PIP_EXTRA_INDEX_URL can point at PyTorch's CPU wheels.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FOLDERS := engine train export cli

.PHONY: demo test lint types wheel-test clean

demo: $(VENV)/installed
	@$(BIN)/tomoscribe demo

# TensorRT's bindings are only read, by tests that skip where they cannot be had; they need no GPU.
test: $(VENV)/installed-dev
	-@$(BIN)/python tests/tensorrt_bindings/fetch.py
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# An editable install works through an import hook, which mypy does not follow; it follows these links.
types: $(VENV)/installed-dev
	@mkdir -p build/ns/tomoscribe
	@for folder in $(FOLDERS); do ln -sfn ../../../$$folder build/ns/tomoscribe/$$folder; done
	$(BIN)/mypy

wheel-test: $(VENV)/installed-dev
	.ci/wheel-test $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info demo

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tomoscribe needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml
	@echo "installing tomoscribe into $(VENV)"
	@$(PIP) --editable ".[cpu]"
	@touch $@

# torch first and by itself, so that a CPU build of it is taken where one is offered. MONAI's networks are exported in
# tests, which need nothing of what it depends on.
$(VENV)/installed-dev: $(VENV)/made pyproject.toml
	@echo "installing tomoscribe and what its tests need into $(VENV)"
	@$(PIP) torch==2.13.0
	@$(PIP) --editable ".[dev]"
	@$(PIP) --no-deps monai
	@touch $@ $(VENV)/installed
