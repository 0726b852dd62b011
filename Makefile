# Two commands after the clone: `make run` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
STAMP := $(VENV)/.installed
REQUIREMENTS := $(wildcard requirements/*.txt) pyproject.toml
# One thread a process: independent nodes and processes run side by side, and spinning OpenMP threads would
# slow each other down many times over.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
export PYTHONUNBUFFERED := 1

.PHONY: setup run test viz mlflow lint clean

setup: $(STAMP)

# torch first and alone: the pin takes the build that fits the machine, and nothing later may move it.
$(STAMP): $(REQUIREMENTS)
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements/torch.txt
	$(PIP) install --quiet -r requirements/torch.txt -r requirements/core.txt -r requirements/evaluation.txt -r requirements/dev.txt
	$(PIP) install --quiet --no-deps -r requirements/evaluation-nodeps.txt
	$(PIP) install --quiet --no-deps --editable .
	touch $@

run: setup
	$(BIN)/kedro run --runner=ParallelRunner
	@echo
	@echo "report:    data/08_reporting/report/index.html"
	@echo "table:     data/08_reporting/ablation_table.csv"
	@echo "runs:      make mlflow    (then http://127.0.0.1:5000)"
	@echo "graph:     make viz       (then http://127.0.0.1:4141)"

test: setup
	$(BIN)/python -m pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

viz: setup
	$(BIN)/kedro viz run --include-hooks --no-browser

mlflow: setup
	$(BIN)/kedro vibe moved
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db

# Removes what runs made, not what was shipped.
clean:
	git clean -fdXq data mlartifacts mlflow.db
