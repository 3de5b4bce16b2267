# `make report` runs the whole chain on the built-in data; `make test` runs the tests. Both set up .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(CURDIR)/$(VENV)/bin
READY = $(VENV)/.ready

.PHONY: report test test-slow test-browser test-containers lint requirements

report: $(READY)
	PATH="$(BIN):$$PATH" dvc repro
	@echo "Open artifacts/report/index.html"

test: $(READY)
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 pytest --numprocesses auto --maxprocesses 4

test-slow: $(READY)
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 pytest -m slow --numprocesses auto --maxprocesses 2 --dist loadfile --durations=10

# Needs Chromium and chromedriver.
test-browser: $(READY)
	PATH="$(BIN):$$PATH" pytest -m browser --durations=10

# Needs podman, as root; see containers/README.md.
test-containers: $(READY)
	PATH="$(BIN):$$PATH" containers/build-local.sh cpu
	PATH="$(BIN):$$PATH" pytest -m containers --durations=10

# The pinned packages of the images, from pyproject.toml and constraints.txt.
requirements:
	containers/requirements.sh

lint: $(READY)
	PATH="$(BIN):$$PATH" ruff check .
	PATH="$(BIN):$$PATH" ruff format --check .
	PATH="$(BIN):$$PATH" mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
