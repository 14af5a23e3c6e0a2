# `make demo` and `make test` do all their set-up themselves; see README.md.
# `make soak` tells seeded histories of the whole fold for SOAK_MINUTES (15) on all cores: tests/simulation/README.md.
.PHONY: setup demo test soak faults lint format clean constraints
PYTHON ?= python3
BIN := .venv/bin

setup: .venv/ready

# One stamp: everything below is done again when one of the files that decide it changes.
.venv/ready: pyproject.toml constraints.txt runtime/embedded/pom.xml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "meterlog needs Python 3.11 or newer; try: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	$(BIN)/meterlog embedded fetch
	touch $@

demo: setup
	$(BIN)/meterlog demo

test: setup lint
	$(BIN)/python -m pytest

soak: setup
	$(BIN)/python -m tests.simulation soak

# Every fault on real brokers and workers; FAULTS_RUNS, FAULTS_SEED, FAULTS_ONLY and FAULTS_JSON: see tests/faults/README.md.
faults: setup
	$(BIN)/python -m tests.faults

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Writes constraints.txt anew from what pyproject.toml allows today.
constraints:
	rm -rf .venv && $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --editable . --group dev
	$(BIN)/python -m pip freeze --all --exclude-editable > constraints.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info
