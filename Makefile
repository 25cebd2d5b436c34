# Everything runs in .venv, which the first target to need it makes from the lock.

PYTHON ?= python3
DEMO_ARGS ?= review src --chaos --approve
MINUTES ?= 1
CONCURRENCY ?= 16 1000

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# $(call retried,COMMAND): three tries, since a package registry may hiccup.
retried = $(1) || { sleep 10; $(1); } || { sleep 30; $(1); }

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint bench bench-peers mutants chaos fuzz docs clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## run the demonstration; DEMO_ARGS="..." changes what it does
	$(BIN)/spellwork demo $(DEMO_ARGS)

test: $(READY) ## run the tests, without soak
	$(BIN)/python -m pytest

soak: $(READY) ## run the tests that load a machine for minutes
	$(BIN)/python -m pytest -m soak

lint: $(READY) ## check style, types and layers; every finding is an error
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports

bench: $(READY) ## measure Spellwork
	$(BIN)/spellwork bench all

bench-peers: $(READY) ## measure Spellwork beside its peers, with CONCURRENCY="16 1000" workflows at a time
	@set -e; for each in $(CONCURRENCY); do $(BIN)/python bench/peers/run.py --concurrency $$each; done

mutants: $(READY) ## apply every known fault to a copy of the source; each must be caught. TRIALS=1: by the trials alone
	$(BIN)/python -m tests.mutants$(if $(TRIALS),.trials) $(MUTANTS)

chaos: $(READY) ## kill processes, break files, turn clocks, and check; FULL=1 takes up to an hour
	$(BIN)/spellwork chaos $(if $(FULL),--full)

fuzz: $(READY) ## fuzz each target for MINUTES=1; what breaks is kept in build/fuzz
	@$(BIN)/pip install -qq --require-hashes --only-binary :all: -r requirements/fuzz.lock || \
		echo "there is no atheris for this Python: plain mutations only"
	@set -e; for target in $$($(BIN)/python -m tests.fuzz); do \
		$(BIN)/python -m tests.fuzz $$target $$(($(MINUTES) * 60)); done

docs: $(READY) ## build the documentation into build/site
	$(BIN)/mkdocs build --strict --site-dir build/site

clean: ## remove .venv and everything built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.locked: requirements/dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	@echo "installing requirements/dev.lock"
	@$(call retried,$(BIN)/pip install -qq --require-hashes -r requirements/dev.lock)
	@touch $@

$(READY): $(VENV)/.locked pyproject.toml
	@$(call retried,$(BIN)/pip install -qq --no-deps --no-build-isolation -e .)
	@touch $@
