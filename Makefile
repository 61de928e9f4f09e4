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
# On a machine that is no part of a cluster, the development cluster of `make cluster-up` is meant.
DEV_CLUSTER := $(or $(HRM_CLUSTER_DIR),/tmp/hrm-lab-cluster)/etc/slurm.conf
ifeq ($(SLURM_CONF)$(wildcard /etc/slurm/slurm.conf),)
export SLURM_CONF := $(wildcard $(DEV_CLUSTER))
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo train sweep need-sweep status watch logs cancel resume retry decisions simulate-stopping sweeps sync compare report diff evaluate solve export reproduce ui \
	bench server server-up server-down config data test test-slurm check format cluster-up cluster-down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' \
		| awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

ifeq ($(TORCH),own)
ifneq ($(shell grep -s 'include-system-site-packages = false' $(VENV)/pyvenv.cfg),)
$(error $(VENV) is there already, with a torch of its own; way out: remove it)
endif
endif

setup: $(STAMP)  ## make .venv and install everything into it; TORCH=own: beside the torch that the machine has

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; way out: install one, or make PYTHON=/path/to/python"; exit 1; }
	@echo "installing into $(VENV) with $(PYTHON): about 2 GB, one to three minutes"
	@test "$(TORCH)" != own || test -x $(BIN)/python || $(PYTHON) -c "import torch" 2>/dev/null || \
		{ echo "error: $(PYTHON) has no torch; way out: make setup TORCH=own PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(if $(filter own,$(TORCH)),--system-site-packages) $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@grep -q '^include-system-site-packages = true' $(VENV)/pyvenv.cfg || pinned="--constraint constraints.txt"; \
		$(BIN)/python -m pip install --quiet $$pinned --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## train a 2x2 grid of small HRMs on this machine's cores and compare them (about five minutes)
	@$(BIN)/hrm-lab sweep demo $(ARGS)

train: $(STAMP)  ## train one model: make train ARGS="model=hrm_tiny data=sudoku_4x4"
	@$(BIN)/hrm-lab train $(ARGS)

sweep: $(STAMP)  ## run an experiment's grid: make sweep EXP=demo [ON=slurm] [ARGS="seed=0,1,2 --wait"]
	@test -n "$(EXP)" || { echo "error: which experiment? way out: make sweep EXP=NAME, a file of experiments/"; exit 1; }
	@$(BIN)/hrm-lab sweep $(EXP) $(if $(ON),--on $(ON)) $(ARGS)

# The verbs for a sweep that is under way.
need-sweep:
	@test -n "$(SWEEP)" || { echo "error: which sweep? way out: make $(MAKECMDGOALS) SWEEP=NAME; make sweeps lists them"; exit 1; }

status: $(STAMP) need-sweep  ## where every point of a sweep stands: make status SWEEP=demo
	@$(BIN)/hrm-lab status $(SWEEP) --outputs "$(OUTPUTS)"

watch: $(STAMP) need-sweep  ## the same, live, until the last point has ended; Ctrl-C leaves the jobs running
	@$(BIN)/hrm-lab watch $(SWEEP) --outputs "$(OUTPUTS)"

logs: $(STAMP) need-sweep  ## follow a log: make logs SWEEP=demo [POINT="H_cycles=1 L_cycles=2"]
	@$(BIN)/hrm-lab logs $(SWEEP) $(if $(POINT),"$(POINT)") --outputs "$(OUTPUTS)"

cancel: $(STAMP) need-sweep  ## end a sweep's jobs (or one POINT's); running ones save first
	@$(BIN)/hrm-lab cancel $(SWEEP) $(if $(POINT),"$(POINT)") --outputs "$(OUTPUTS)"

resume: $(STAMP) need-sweep  ## go on with what was cancelled, lost, timed out or held [PROMOTE=n: the best n stopped points]
	@$(BIN)/hrm-lab resume $(SWEEP) $(if $(PROMOTE),--promote $(PROMOTE)) $(ARGS) --outputs "$(OUTPUTS)"

retry: $(STAMP) need-sweep  ## run failed points again, with the code as it is now
	@$(BIN)/hrm-lab retry $(SWEEP) $(ARGS) --outputs "$(OUTPUTS)"

decisions: $(STAMP) need-sweep  ## who was stopped, when and why, and who was compared with whom
	@$(BIN)/hrm-lab decisions $(SWEEP) $(ARGS) --outputs "$(OUTPUTS)"

simulate-stopping: $(STAMP) need-sweep  ## replay a sweep under other stopping rules: ARGS="stopping=asha,median"
	@$(BIN)/hrm-lab simulate-stopping $(SWEEP) $(ARGS) --outputs "$(OUTPUTS)"

sync: $(STAMP) need-sweep  ## send to the tracking store what it has missed of a sweep, or a run (SWEEP=FOLDER)
	@$(BIN)/hrm-lab sync $(SWEEP) $(ARGS) --outputs "$(OUTPUTS)"

sweeps: $(STAMP)  ## list all sweeps with the states of their points
	@$(BIN)/hrm-lab sweeps --outputs "$(OUTPUTS)"

compare: $(STAMP) need-sweep  ## compare sweeps, best first: make compare SWEEP="demo other" [ARGS="--by H_cycles --out table.tex"]
	@$(BIN)/hrm-lab compare $(SWEEP) $(ARGS) --outputs "$(OUTPUTS)"

report: $(STAMP) need-sweep  ## write a sweep's report, one HTML page: make report SWEEP=demo [ARGS="--out FILE"]
	@$(BIN)/hrm-lab report $(SWEEP) $(ARGS) --outputs "$(OUTPUTS)"

diff: $(STAMP)  ## show what differs between two runs: make diff RUNS="SIGNATURE SIGNATURE"
	@test $(words $(RUNS)) = 2 || { echo "error: which runs? way out: make diff RUNS=\"RUN RUN\", signatures, ids or folders"; exit 1; }
	@$(BIN)/hrm-lab diff $(RUNS) $(ARGS) --outputs "$(OUTPUTS)"

reproduce: $(STAMP)  ## do a logged run again and compare: make reproduce RUN=ID [ARGS="--steps 100"]
	@test -n "$(RUN)" || { echo "error: which run? way out: make reproduce RUN=ID, SIGNATURE or NAME; make ui shows them"; exit 2; }
	@$(BIN)/hrm-lab reproduce "$(RUN)" $(ARGS) --outputs "$(OUTPUTS)"

evaluate: $(STAMP)  ## judge weights on whole test sets: make evaluate WEIGHTS=SIGNATURE (or a FILE, with ARGS)
	@test -n "$(WEIGHTS)" || { echo "error: which weights? way out: make evaluate WEIGHTS=a run, or a file"; exit 1; }
	@$(BIN)/hrm-lab evaluate "$(WEIGHTS)" $(ARGS) --outputs "$(OUTPUTS)"

solve: $(STAMP)  ## solve puzzles step by step: make solve WEIGHTS=SIGNATURE PUZZLE=".2.3..." (or ARGS="--file FILE")
	@test -n "$(WEIGHTS)" || { echo "error: which weights? way out: make solve WEIGHTS=a run, or a file"; exit 2; }
	@$(BIN)/hrm-lab solve "$(WEIGHTS)" $(if $(PUZZLE),"$(PUZZLE)") $(ARGS) --outputs "$(OUTPUTS)"

export: $(STAMP)  ## write weights for use elsewhere: make export WEIGHTS=outputs/runs/SIGNATURE TO=hrm.pt
	@test -n "$(WEIGHTS)" -a -n "$(TO)" || { echo "error: from where to where? way out: make export WEIGHTS=RUN TO=FILE"; exit 1; }
	@$(BIN)/hrm-lab export "$(WEIGHTS)" "$(TO)" $(ARGS) --outputs "$(OUTPUTS)"

ui: $(STAMP)  ## open the MLflow UI on this machine (PORT=5000)
	@$(BIN)/hrm-lab ui --outputs "$(OUTPUTS)" --port $(PORT)

server: $(STAMP)  ## an MLflow server for this machine; HOST=ADDRESS: for others, with a password (PORT=5000)
	@$(BIN)/hrm-lab server $(if $(HOST),--host $(HOST)) --port $(PORT) --outputs "$(OUTPUTS)" $(ARGS)

server-up: $(STAMP)  ## the same for a lab: PostgreSQL and server in the background (launch/server/README.md)
	@launch/server/server.sh up

server-down:  ## stop it
	@launch/server/server.sh down

config: $(STAMP)  ## list every setting with its value, unit, range and meaning
	@$(BIN)/hrm-lab config $(ARGS)

data: $(STAMP)  ## build, inspect, check or export a dataset: make data ARGS="build sudoku_9x9"
	@$(BIN)/hrm-lab data $(ARGS)

test: $(STAMP)  ## the whole test suite, two processes at a time (ARGS for pytest)
	@$(BIN)/python -m pytest -n 2 $(ARGS)

bench: $(STAMP)  ## our training step beside a plain loop, in turn; says what got slower (ARGS="--cases a --keep")
	@$(BIN)/python -m tests.bench.bench_step $(ARGS)

test-slurm: $(STAMP) cluster-up  ## the tests on a real SLURM cluster on this machine (root)
	@$(BIN)/python -m pytest tests/slurm $(ARGS)

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
