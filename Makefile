# `make` alone lists the targets. Everything runs inside .venv, made on first use.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PARTS := not docker and not peer and not minutes
DECIBELS := tests/e2e/test_echo_fidelity.py
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
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*; touch $@

.PHONY: setup
setup: $(STAMP)  ## create .venv with everything, from the hashed lock

.PHONY: fmt
fmt: setup  ## format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: lint
lint: setup  ## ruff, codespell, import boundaries
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@$(BIN)/codespell libs services cli tests docs README.md CHANGELOG.md CONTRIBUTING.md
	@$(BIN)/lint-imports --no-cache

.PHONY: types
types: setup  ## mypy --strict on libs, services, cli
	@$(BIN)/mypy

.PHONY: test test-parts test-calls test-decibels
test: test-parts test-calls test-decibels  ## everything that needs neither network nor docker (6 minutes on two cores)

test-parts: setup
	@$(BIN)/pytest -q -n 4 --dist loadfile --no-loadscope-reorder -m "$(PARTS)" tests/conformance tests/integration tests/unit

test-calls: setup  # in real time: with more of them beside each other two cores falter
	@$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "$(PARTS)" --ignore $(DECIBELS) tests/e2e

test-decibels: setup  # what calls do to audio, to the sample: alone
	@$(BIN)/pytest -q $(DECIBELS)

.PHONY: test-minutes
test-minutes: setup  ## a real call of two minutes with a failover, recorded: how far its channels are apart (machine to itself)
	@$(BIN)/pytest -q -m minutes tests/e2e

.PHONY: test-integration test-peers test-heard test-flood
test-integration: test-peers test-heard test-flood  ## with docker, SIP peers (sipp, baresip, kamailio), Prometheus and Chromium

test-peers: setup
	@$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "docker or peer" --ignore tests/integration/test_flood.py --ignore tests/e2e/test_browser.py tests/integration tests/e2e

test-heard: setup  # compares what a browser hears with what was said, sample by sample: alone
	@$(BIN)/pytest -q -m "docker or peer" tests/e2e/test_browser.py

test-flood: setup  # measures what a flood costs: alone
	@$(BIN)/pytest -q -m "docker or peer" tests/integration/test_flood.py

.PHONY: test-pyvoip
test-pyvoip: setup  ## the conformance suite over SIP_STACK=pyvoip; its GPLv3 package goes into a .venv of its own
	@$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-pyvoip
	@$(BIN)/uv pip install --quiet --python .venv-pyvoip/bin/python --require-hashes -r requirements.lock \
	  -r requirements/pyvoip.lock
	@.venv-pyvoip/bin/python -m pytest -q -n 4 -o cache_dir=.pytest_cache/pyvoip tests/conformance

.PHONY: test-live
test-live: setup  ## tries our assumptions on the real API: needs keys, says what it will cost and asks first
	@$(BIN)/python -m tests.live $(ARGS)

.PHONY: check
check: lint types test  ## what has to hold before a commit

.PHONY: demo
demo: setup  ## a caller orders by phone, everything local, no key needed (under 90 s); BACKEND=pipeline or live
	@$(BIN)/callbus demo $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

.PHONY: demo-compose
demo-compose: setup  ## the same in containers: builds the images, places the call from outside, removes everything
	@$(BIN)/python -m tests.support.demo_compose

.PHONY: up
up: setup  ## all services, staying up; any softphone can call sip:bestellung@HOST
	@$(BIN)/callbus up $(ARGS)

.PHONY: prometheus
prometheus: setup  ## Prometheus beside `make up`, with its rules (docs/monitoring.md)
	@$(BIN)/python -m deploy.prometheus.beside_up $(ARGS)

.PHONY: down
down: setup  ## end what `make up` started
	@$(BIN)/callbus down

.PHONY: bench
bench: setup  ## CPU, latency and jitter per call, beside a bare UDP echo
	@$(BIN)/python -m tests.load.bench $(ARGS)

.PHONY: docs
docs: setup  ## write again what is generated: bus, settings, metrics, dashboards
	@$(BIN)/python -m libs.contracts.document > docs/bus.md
	@$(BIN)/python -m cli.settings_document > docs/settings.md
	@$(BIN)/python -m cli.settings_document env > .env.example
	@$(BIN)/python -m cli.metrics_document > docs/metrics.md
	@$(BIN)/python -m deploy.grafana.dashboards

.PHONY: lock
lock: setup  ## resolve requirements.lock and the locks per service anew
	@for group in dev sip-gateway twilio-gateway browser-gateway pyvoip ai-session catalog-tools transcript-store recorder rehearsal cli; do \
	  out=requirements/$$group.lock; [ $$group = dev ] && out=requirements.lock; \
	  $(BIN)/uv pip compile pyproject.toml --group $$group --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file $$out || exit 1; \
	  echo "$$out"; done
