# Two commands after the clone: `make run` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REQUIREMENTS := $(wildcard requirements/*.txt) pyproject.toml
# Every package that came along with those in requirements/, at the version that was tested.
LOCK := requirements/constraints.txt
# uv does the same in a fraction of the time, where it is installed.
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
NEW_VENV := $(PYTHON) -m venv $(VENV)
INSTALL := $(BIN)/pip --disable-pip-version-check install --quiet -c $(LOCK)
else
NEW_VENV := $(UV) venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python -c $(LOCK)
endif
# One thread a process: independent nodes and processes run side by side, and spinning OpenMP threads would
# slow each other down many times over.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
export PYTHONUNBUFFERED := 1

# Test files run side by side; the tests of one file share what it makes, and stay together.
TEST_PROCESSES ?= 2

.PHONY: setup run test gates viz mlflow lint lock clean

setup: $(STAMP)

# torch first and alone: the pin takes the build that fits the machine, and nothing later may move it.
$(STAMP): $(REQUIREMENTS)
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "Python 3.11 or 3.12 is needed: make PYTHON=python3.11")'
	$(NEW_VENV)
	$(INSTALL) -r requirements/torch.txt
	$(INSTALL) -r requirements/torch.txt -r requirements/core.txt -r requirements/evaluation.txt -r requirements/dev.txt
	$(INSTALL) --no-deps -r requirements/evaluation-nodeps.txt
	$(INSTALL) --no-deps --editable .
	touch $@

run: setup
	$(BIN)/kedro run --runner=ParallelRunner
	@echo "table    data/08_reporting/ablation_table.csv"
	@echo "reports  data/08_reporting/reports/index.html, of every run"
	@echo "graph    make viz, then http://127.0.0.1:4141"

test: setup
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Whether the miniature's world hides its detail from linear filters, shows it to a network, and fits through its VAE.
gates: setup
	$(BIN)/python benchmarks/gates.py

lint: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# After a change of requirements/: what the environment holds now, torch apart, whose build depends on the machine.
lock: setup
	sed -n 1p $(LOCK) > $(LOCK).new
	$(BIN)/pip --disable-pip-version-check freeze --exclude-editable | grep -viE '^(torch|torchvision|nvidia-|triton)|@ file' >> $(LOCK).new
	mv $(LOCK).new $(LOCK)

viz: setup
	$(BIN)/kedro viz run --include-hooks --no-browser

mlflow: setup
	$(BIN)/kedro vibe moved
	@echo "runs:      http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db

# Removes what runs made, not what was shipped.
clean:
	git clean -fdXq data mlartifacts mlflow.db
