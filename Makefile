# Everything a reader needs, from nothing: an environment in .venv, then the notebooks or the tests.
# Works with GNU make 3.81 or newer and any POSIX shell.

VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= quick
# Trainings and notebooks at a time; empty: one per processor, or one per GPU.
JOBS ?=
# A Python to build the environment with; empty: the newest supported one that runs.
PYTHON ?=

# A name on the PATH is no promise (version managers leave stubs behind), so each candidate is run.
CANDIDATES := python3.13 python3.12 python3.11 python3.10 python3 python
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))

# Notebooks run on the environment's own kernel, whatever kernels the home folder holds.
export JUPYTER_PREFER_ENV_PATH := 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test lab notebooks lint clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "PROFILE=smoke|quick|cpu|paper chooses what 'make reproduce' runs (now: $(PROFILE));"
	@echo "JOBS=N makes it train and run N side by side (else one per processor, or one per GPU);"
	@echo "PYTHON=/path/to/python chooses the interpreter of the environment."
	@echo "Trained runs and drawn data are kept by 'make clean': rm -rf runs removes the runs,"
	@echo "git clean -dfX data the data, rm -rf $(VENV) the environment."

setup: $(VENV)/.installed  ## make the environment in .venv, or bring it up to date

reproduce: setup  ## train and run every notebook in PROFILE, print each table beside the paper's
	$(BIN)/cstn reproduce --profile $(PROFILE)$(if $(JOBS), --jobs $(JOBS))

test: setup  ## run the tests, a file on each processor
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lab: setup  ## open JupyterLab on the notebooks
	$(BIN)/python -m jupyter lab --ServerApp.root_dir=. \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb \
	  --LabApp.app_settings_dir=notebooks/settings

notebooks: setup  ## execute the notebooks in place in the cpu profile, as they are committed
	$(BIN)/python notebooks/publish.py execute

lint: setup  ## check style, formatting and the notebook files
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python notebooks/publish.py check

clean:  ## remove caches and build products; environment, data and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find cstn_lib tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@$(BIN)/python -c "$(SUPPORTED)" 2>/dev/null || { \
	  echo "$(VENV): its Python does not run or is not 3.10 to 3.13;" \
	       "remove the folder (rm -rf $(VENV)) and try again" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet "pip>=23.1"
	$(BIN)/python -m pip install --editable ".[dev]"
	$(BIN)/python -m ipykernel install --sys-prefix
	@touch $@

$(BIN)/python:
	@for python in $(or $(PYTHON),$(CANDIDATES)); do \
	  if "$$python" -c "$(SUPPORTED)" >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$python"; exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "no usable Python: expected 3.10 to 3.13 with venv and ensurepip as" \
	     "$(or $(PYTHON),one of $(CANDIDATES)); name one with make setup PYTHON=..." >&2; exit 1
