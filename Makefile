# `make` alone lists the targets. Everything runs inside .venv, made on first use.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat requirements.lock pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "callbus needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Set PYTHON=python3.12, say."; exit 1; }
	@echo "setting up $(VENV) (first time about a minute) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: on Debian and Ubuntu, 'apt-get install python3-venv'"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*; touch $@

.PHONY: setup
setup: $(STAMP)  ## create .venv with everything, from the hashed lock

.PHONY: fmt
fmt: setup  ## format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: lint
lint: setup  ## ruff, codespell, import boundaries
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/codespell libs services cli tests docs README.md && $(BIN)/lint-imports --no-cache

.PHONY: types
types: setup  ## mypy --strict on libs, services, cli
	@$(BIN)/mypy

.PHONY: test
test: setup  ## all tests that need neither network nor docker
	@$(BIN)/pytest -q
