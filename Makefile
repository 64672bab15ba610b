# "make" alone says what there is. Everything is done by src/vds_bootstrap with the system's Python, which needs nothing
# installed; ARGS passes options on, CONFIG names a configuration file other than /etc/vdsm/vdsm.toml.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run setup test check lab lint types layers unit docs fmt clean clean-host

PYTHON := /usr/bin/python3
BIN := .venv/bin
CONFIG ?=
ARGS ?=
BOOTSTRAP := env PYTHONPATH=$(CURDIR)/src $(PYTHON) -m vds_bootstrap $(if $(CONFIG),--config $(CONFIG))
CODE := src tests bench

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: | $(PYTHON) ## prepare this machine as a host, start the agent, show a running VM; Ctrl-C ends it
	@$(BOOTSTRAP) run $(ARGS)

setup: | $(PYTHON) ## prepare this machine as a host, and start nothing
	@$(BOOTSTRAP) setup $(ARGS)

test: | $(PYTHON) ## all tests, on real libvirt and QEMU (needs root)
	@$(BOOTSTRAP) setup --dev --tools-only
	@$(BIN)/pytest $(ARGS)

check: | $(PYTHON) ## the quick part: lint, types, layers, sizes, unit tests (under a minute)
	@$(BOOTSTRAP) setup --dev --tools-only
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync=target types unit lint layers

lab: | $(PYTHON) ## several hosts on this machine to play with (needs root); ARGS="list", "shell host1", "down"
	@$(BOOTSTRAP) setup --dev --tools-only
	@$(BIN)/python -m tests.lab $(or $(ARGS),up --hosts 2 --nodes 2 --disk lun)

lint:
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports

unit:
	$(BIN)/pytest -q tests/style tests/unit $(ARGS)

docs: ## write the generated files anew: OpenAPI document, verb list, API reference
	$(BIN)/python -m vdsm.bindings.documents

fmt: ## format the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean: ## remove what was built in this directory: .venv, caches
	rm -rf .venv .run build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

clean-host: | $(PYTHON) ## take back what make run set up on this machine (packages stay)
	@$(BOOTSTRAP) clean $(ARGS)

# A fresh Debian may have no Python at all.
$(PYTHON):
	@echo "Installing python3 ..."
	@apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3 >/dev/null
