# Everything runs in .venv, made from PYTHON with the versions of constraints.txt. `make demo` and `make test` need
# nothing but Python >= 3.11 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
JOBS ?= 2

# One thread a process: the tests share the cores through JOBS, and timings do not fight.
RUN := OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types imports doctest docs benchmarks check clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/.installed ## train a small CNN, measure it, write an HTML report
	$(BIN)/featlearn demo

test: $(VENV)/.installed-dev ## every test
	$(RUN) $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy

imports: $(VENV)/.installed-dev ## who may import whom
	$(BIN)/lint-imports

doctest: $(VENV)/.installed-dev ## the examples in the docstrings
	$(RUN) $(BIN)/python -m pytest --doctest-modules src

docs: $(VENV)/.installed-docs ## HTML pages in docs/_build/html, examples run
	$(RUN) $(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build/html

benchmarks: $(VENV)/.installed-benchmarks ## every claim about speed and memory, one JSON each
	for claim in benchmarks/*_*.py; do $(RUN) $(BIN)/python $$claim || exit 1; done

check: test lint types imports doctest ## what CI runs

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) docs/_build docs/api/generated docs/examples build dist .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		'$(PYTHON) is missing or too old, but Python >= 3.11 is needed. Run make PYTHON=/path/to/python3.11.' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Stamps: pip runs again only when what it would install has changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[docs]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-benchmarks: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[benchmarks]'
	@touch $(VENV)/.installed $@
