# `make` or `make help` lists the targets. Everything runs in .venv, which the first target that needs it makes.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUTS ?= outputs
PORT ?= 5000
# Choice of interpreter: PYTHON=... wins; the development machines have a CPU build of torch for 3.11 only.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup demo train sweep compare ui config data test check format cluster-up cluster-down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+: .*## |^[a-z-]+:  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' \
		| awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; way out: install one, or make PYTHON=/path/to/python"; exit 1; }
	@echo "installing into $(VENV) with $(PYTHON): about 2 GB, one to three minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## train a 2x2 grid of small HRMs on this machine's cores and compare them (about four minutes)
	@$(BIN)/hrm-lab sweep demo $(ARGS)

train: $(STAMP)  ## train one model: make train ARGS="model=hrm_tiny data=sudoku_4x4"
	@$(BIN)/hrm-lab train $(ARGS)

sweep: $(STAMP)  ## run an experiment's grid: make sweep EXP=demo ARGS="seed=0,1,2"
	@test -n "$(EXP)" || { echo "error: which experiment? way out: make sweep EXP=NAME, a file of experiments/"; exit 1; }
	@$(BIN)/hrm-lab sweep $(EXP) $(ARGS)

compare: $(STAMP)  ## compare a sweep's points, best first: make compare SWEEP=demo
	@test -n "$(SWEEP)" || { echo "error: which sweep? way out: make compare SWEEP=NAME"; exit 1; }
	@$(BIN)/hrm-lab compare $(SWEEP) --outputs "$(OUTPUTS)"

ui: $(STAMP)  ## open the MLflow UI on this machine (PORT=5000)
	@$(BIN)/hrm-lab ui --outputs "$(OUTPUTS)" --port $(PORT)

config: $(STAMP)  ## list every setting with its value, unit, range and meaning
	@$(BIN)/hrm-lab config $(ARGS)

data: $(STAMP)  ## build a dataset: make data ARGS="data=sudoku_9x9"
	@$(BIN)/hrm-lab data $(ARGS)

test: $(STAMP)  ## the whole test suite (ARGS for pytest)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)  ## lint, format, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 7

format: $(STAMP)  ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

cluster-up:  ## start a real SLURM cluster on this machine, for development (root)
	@launch/slurm/cluster.sh up

cluster-down:  ## stop it
	@launch/slurm/cluster.sh down

clean:  ## remove .venv and caches; runs and data stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
