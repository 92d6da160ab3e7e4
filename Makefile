# Everything a reader needs, from nothing: an environment in .venv, then the notebooks or the tests.
# Works with GNU make 3.81 or newer and any POSIX shell.

VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= quick
# Trainings and notebooks at a time; empty: one a processor, and one on a GPU.
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
	@echo "JOBS=N makes it train and run N side by side (else one a processor, and one on a GPU);"
	@echo "PYTHON=/path/to/python chooses the interpreter of the environment."
	@echo "Trained runs and drawn data are kept by 'make clean': rm -rf runs removes the runs,"
	@echo "git clean -dfX data the data, rm -rf $(VENV) the environment."

setup: $(VENV)/.installed  ## make the environment in .venv, or bring it up to date

reproduce: setup  ## train and run every notebook in PROFILE, print each table beside the paper's
	$(BIN)/cstn reproduce --profile $(PROFILE)$(if $(JOBS), --jobs $(JOBS))

test: setup  ## run the tests, a file on each processor
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lab: setup  ## open JupyterLab on the notebooks
	$(BIN)/python -m jupyter lab notebooks

notebooks: setup  ## execute the notebooks in place in the cpu profile, as they are committed
	$(BIN)/python -c "$$EXECUTE_NOTEBOOKS"

lint: setup  ## check style, formatting and the notebook files
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	@$(BIN)/python -c "$$CHECK_NOTEBOOKS"

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

define CHECK_NOTEBOOKS
import pathlib, sys, nbformat
damaged = 0
for path in sorted(pathlib.Path("notebooks").glob("*.ipynb")):
    try:
        nbformat.validate(nbformat.read(path, as_version=nbformat.NO_CONVERT))
    except Exception as error:
        damaged += 1
        print(f"{path}: not a valid notebook: {str(error).splitlines()[0]}", file=sys.stderr)
sys.exit(damaged > 0)
endef
export CHECK_NOTEBOOKS

define EXECUTE_NOTEBOOKS
import pathlib, sys, nbformat, papermill

def is_progress(output):
    text = str(output.get("data", {}).get("text/plain", ""))
    return output.get("name") == "stderr" or "|" in text and "/s]" in text

for path in sorted(pathlib.Path("notebooks").glob(sys.argv[1] if sys.argv[1:] else "*.ipynb")):
    print(path, flush=True)
    notebook = papermill.execute_notebook(
        path, None, {"profile": "cpu"}, kernel_name="python3", progress_bar=False
    )
    for name in ("papermill", "widgets"):  # paths and times; widgets live only with a kernel
        notebook.metadata.pop(name, None)
    # the readers' own profile stays the one of the parameters cell
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.outputs = [output for output in cell.outputs if not is_progress(output)]
        for item in (cell, *cell.outputs):
            if "execution_count" in item:
                item.execution_count = number
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
    nbformat.write(notebook, path)
endef
export EXECUTE_NOTEBOOKS
