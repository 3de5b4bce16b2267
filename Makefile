# `make report` runs the whole chain on the built-in data; `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(CURDIR)/$(VENV)/bin
READY = $(VENV)/.ready

.PHONY: report test test-slow lint

report: $(READY)
	PATH="$(BIN):$$PATH" dvc repro
	@echo "Open artifacts/report/index.html"

test: $(READY)
	PATH="$(BIN):$$PATH" pytest

test-slow: $(READY)
	PATH="$(BIN):$$PATH" pytest -m slow --durations=10

lint: $(READY)
	PATH="$(BIN):$$PATH" ruff check .
	PATH="$(BIN):$$PATH" ruff format --check .
	PATH="$(BIN):$$PATH" mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
