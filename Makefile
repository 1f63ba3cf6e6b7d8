# frostline: `make demo` and `make test` do everything on a fresh machine with Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_DISABLE_TELEMETRY = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo study study-quick test test-fast test-cases test-faults test-gpu check format rooms docs docs-serve ui bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv and install everything, versions pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "frostline needs Python 3.11 or newer; name one with make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@# pip compiles on one core.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
	@touch $@

demo: $(STAMP) ## fetch model and data, search over frozen depth and learning rate, print the answer
	$(BIN)/frostline demo

study: $(STAMP) ## frozen layers x training size, five seeds: an hour and a half on two cores with bf16, hours without; stopped, it is resumed
	$(BIN)/frostline fetch model=minilm dataset=movie_reviews
	$(BIN)/python studies/frozen_layers.py

study-quick: $(STAMP) ## the same for two sizes and two seeds, in minutes
	$(BIN)/frostline fetch model=minilm dataset=movie_reviews
	$(BIN)/python studies/frozen_layers.py --quick

test: $(STAMP) ## the whole test suite, slow tests included
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow" --durations=40

test-fast: $(STAMP) ## the tests that need no real model and no long sweep: two minutes on two cores
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-cases: $(STAMP) ## inputs and faults that once gave wrong numbers or poor words, a test for each
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow" tests/cases

test-faults: $(STAMP) ## a fault at every write, rename and fsync of a run and a sweep: a quarter of an hour
	HF_HUB_OFFLINE=1 FROSTLINE_FAULTS=all $(BIN)/python -m pytest -n 2 --dist worksteal -m slow -rP tests/faults

test-gpu: $(STAMP) ## the tests that need a CUDA device
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 4 --dist worksteal -m gpu

check: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

rooms: $(STAMP) ## the lines of each room of src/frostline, and docs/rooms.png from the import graph
	$(BIN)/python docs/rooms.py

docs: $(STAMP) ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

docs-serve: $(STAMP) ## the same, served while it is written
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

ui: $(STAMP) ## the MLflow UI on the runs of this folder
	$(BIN)/frostline ui

bench: $(STAMP) ## every benchmark, side by side
	@for script in $(filter-out %/careful.py %/random_bert.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; OMP_WAIT_POLICY=passive $(BIN)/python $$script || exit 1; done

clean: ## remove the environment, caches and builds; runs/ and mlflow.db stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
