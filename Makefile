# `make reproduce` runs the study, `make test` checks the project; both set up .venv first (see setup.sh).
# Options: PROFILE=smoke|mini|midi|paper (this call only), EXTRAS=test,tracking.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.PHONY: reproduce test test-all docs bench gpu-check lint omniboard publish setup help

# Through the environment, so that no shell reads what is in it.
export PROFILE ?=
ACTIVATE := source .venv/bin/activate

help: ## list the targets
	@sed -nE 's/^([^[:space:]:#]+):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

.DEFAULT: # any word that is no target
	$(error no target '$@': `make` alone lists them)

reproduce: setup ## the whole study, data to report, at params.yaml's profile or PROFILE
	@$(ACTIVATE) && REPRO_PARENT=$$PPID exec python -m repro reproduce "$$PROFILE"

# Three processes, since many tests wait; one thread each, since threads without a core of their own spin.
PYTEST := OMP_NUM_THREADS=1 exec python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=20

test: setup ## the tests, without those marked nightly
	@$(ACTIVATE) && $(PYTEST) -m "not nightly"

test-all: setup ## every test that can run here, in hours
	@$(ACTIVATE) && $(PYTEST)

bench: setup ## speed against the straightforward implementation, about 20 minutes on an idle core
	@$(ACTIVATE) && exec python -m benchmarks

gpu-check: ## what a GPU must show before days of it are spent, about 25 minutes; needs torch, not all of setup
	@$(if $(wildcard .venv/bin/activate),$(ACTIVATE);) python3 -c "from importlib.util import find_spec as f; exit(not f('torch'))" \
	    || { echo 'gpu-check: python3 has no package torch: `make setup`, or install torch, and call again' >&2; exit 2; }; \
	    exec python3 -m repro.check

docs: setup ## write the generated tables of README.md, specs and docs; wants the report of mini
	@$(ACTIVATE) && exec python -m repro write

lint: setup ## style and types
	@$(ACTIVATE) && ruff check . && ruff format --check . && mypy

omniboard: export EXTRAS := test,tracking
omniboard: setup ## browse the recorded runs in Omniboard on this machine
	@$(ACTIVATE) && exec python -m repro omniboard

publish: setup ## pack the report and the models for release
	@$(ACTIVATE) && exec python -m repro publish "$$PROFILE"

setup: ## .venv with everything pinned; nothing to do when nothing changed
	@bash setup.sh
