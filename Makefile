# `make demo` and `make test` set up all they need in .venv; nothing else is touched.
#   make PYTHON=python3.12 test     with another interpreter
#   make VENV=/somewhere/else demo  with the environment elsewhere
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n auto --maxprocesses 4

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
# One thread per test process in the fast suite: the processes share the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help demo test test-slow check format bench bench-small setup clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.installed  ## phantom scans, baseline against joint training, a report
	$(BIN)/deepatlas demo

test: check  ## lint, format, types, fast tests
	$(ONE_THREAD) $(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow -rP

check: setup  ## lint, format and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench  ## speed and memory against the peers; BENCH_ARGS="--run RUN ..."
	$(BIN)/python -m benchmarks.speed $(BENCH_ARGS)

bench-small: $(VENV)/.installed-bench  ## the same on smaller volumes, under 5 minutes
	$(BIN)/python -m benchmarks.speed --small $(BENCH_ARGS)

setup: $(VENV)/.installed-dev  ## the virtual environment with all that developers need

clean:  ## remove the environment and caches, never results
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamps make a second call instant; an interrupted installation leaves none and is repeated.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "deepatlas: no '$(PYTHON)' found; install Python 3.10 to 3.13, or name yours:" \
	    "make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "deepatlas needs Python 3.10 to 3.13, and '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "deepatlas: '$(PYTHON)' has no venv module; on Debian and Ubuntu:" \
	    "apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "deepatlas: installing into $(VENV); the first time takes some minutes"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "deepatlas: installing into $(VENV), with the tools for tests; the first time takes some minutes"
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "deepatlas: installing into $(VENV), with the peers of the benchmarks"
	$(INSTALL) -e '.[bench]'
	@touch $@ $(VENV)/.installed
