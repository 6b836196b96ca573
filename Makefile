# Set-up and checks. `make demo` and `make test` do all of their own set-up.

PYTHON ?= python3
# Passed to pip, for instance an index with CPU builds of torch: PIP_FLAGS="--extra-index-url ..."
PIP_FLAGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install $(PIP_FLAGS)
TORCH := $(shell grep '^torch==' constraints.txt)
PASSIVE := OMP_WAIT_POLICY=PASSIVE
# Percent. A part of the tests, stopped after 12 minutes on a busy core, reached 52; raise it.
FLOOR := 50

.DEFAULT_GOAL := help
.PHONY: help install demo smollm2 test test-slow check coverage docs dist lock bench bench-full \
	bench-check clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */|/' | \
		while IFS='|' read -r target text; do printf '  make %-11s %s\n' "$$target" "$$text"; done

install: .venv/.installed  ## create .venv with the package and all that its developers need

demo: .venv/.installed  ## run the method on built-in tasks into runs/demo and show what it gives
	@$(BIN)/fedrouter demo -o runs/demo

smollm2: .venv/.installed  ## bring SmolLM2-135M-Instruct, a real language model, to models/smollm2-135m
	@$(BIN)/python scripts/get_smollm2.py models/smollm2-135m

test: .venv/.installed  ## run the tests
	@$(PASSIVE) $(BIN)/python -m pytest

test-slow: .venv/.installed  ## run the tests that take long or need shared data
	@$(PASSIVE) $(BIN)/python -m pytest -m slow || \
		{ code=$$?; test $$code -eq 5 && echo "There are no slow tests."; }

check: .venv/.installed  ## lint, format and type checks
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy

coverage: .venv/.installed  ## run the tests, and fail where they run less than FLOOR % of the code
	@$(PASSIVE) $(BIN)/python -m coverage run -m pytest
	@$(BIN)/python -m coverage report --fail-under $(FLOOR)

docs: .venv-docs/.installed  ## build the documentation into build/site; a warning is an error
	@.venv-docs/bin/zensical build --strict --clean

dist: .venv-dist/.installed  ## build wheel and sdist; install each on its own and run the demo
	@.venv-dist/bin/python scripts/build_dist.py $(PIP_FLAGS)

# Without torch and what only its CUDA build needs: docs/install.md
lock: .venv/.installed  ## write requirements.lock: the versions of constraints.txt with hashes
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
		--extra all --python-version 3.11 --no-emit-package torch \
		--constraint constraints.txt pyproject.toml | \
		awk '/^[a-z]/ {keep = !/^(nvidia|cuda|triton)/} keep' >requirements.lock

bench: .venv/.installed  ## measure speed and scale at reduced sizes (20 minutes on 2 cores)
	@$(BIN)/python -m bench

bench-full: .venv/.installed  ## the same at the sizes of docs/performance.md (up to two hours)
	@$(BIN)/python -m bench --full

bench-check: .venv/.installed  ## a minute's subset: is any ratio under its floor? before a release
	@$(BIN)/python -m bench.check

clean:  ## remove caches and build outputs; .venv and runs stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .cache
	@rm -rf .venv-docs .venv-dist
	@find fedrouter tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fedrouter needs Python 3.11 or later; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv

# Environments of their own, which need neither torch nor the package. Groups need a pip of 2025.
.venv-docs/.installed .venv-dist/.installed: .venv-%/.installed: pyproject.toml constraints.txt
	@echo "Installing into .venv-$* ..."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip --disable-pip-version-check -qq install 'pip>=25.1'
	@.venv-$*/bin/python -m pip -qq install -c constraints.txt --group $*
	@touch $@

# torch goes first, alone, so that the build that PIP_FLAGS asks for is the one that stays.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing into .venv (minutes the first time) ..."
	@$(PIP) "$(TORCH)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
