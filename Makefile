# Everything runs in .venv, which is made on first use and again when a pyproject.toml changes.
# Needed on the machine: make, bash and Python 3.10 or newer.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .bench
PACKAGES := -e "./opentelemetry-instrumentation-dspy[instruments,zero-code,otlp]" \
            -e "./mlflow_bridge[mlflow]"
PROJECTS := pyproject.toml opentelemetry-instrumentation-dspy/pyproject.toml mlflow_bridge/pyproject.toml
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# litellm fetches its price list from the network while it is imported, which can stop a process
# for ever when mlflow is imported at the same time. The list that litellm ships is used instead.
export LITELLM_LOCAL_MODEL_COST_MAP := True
export MLFLOW_DISABLE_TELEMETRY := true

# Images for containers often set it. The tests start hundreds of programs, each of which would
# compile both packages once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint typecheck unit process integration perf-guard scale installed browser docs \
  changelog bench clean

help:
	@echo "make demo         run a small RAG program and show its trace (ARGS=... for its options)"
	@echo "make test         lint, type check and tests: all of what CI runs"
	@echo "make lint | typecheck | unit | process | integration | perf-guard    one part of it"
	@echo "make scale        the large forms of tests: bursts of thousands of traces, some minutes"
	@echo "make installed    run each block of README and docs in an environment made by their install lines"
	@echo "make browser      look at MLflow's pages in Chromium (on Debian: chromium, chromium-driver)"
	@echo "make docs         build the documentation into docs/_build/html"
	@echo "make changelog    show what changed since the last release"
	@echo "make perf-guard   fail if instrumentation became more expensive; reads no clock"
	@echo "make bench        measure on this machine, beside the peers, in an environment of its own"
	@echo "                  (ARGS=--quick: some minutes; ARGS=--write-docs: fill docs/performance.md)"
	@echo "make clean        remove the environment and everything that was built"

# --- environment ----------------------------------------------------------------------------

# Debian splits venv off into a package of its own, so two other ways are tried before giving up.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: Python 3.10 or newer is needed; say which with make PYTHON=python3.11" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) > /dev/null 2>&1 \
	|| { rm -rf $(VENV); $(PYTHON) -m virtualenv --quiet $(VENV) 2> /dev/null; } \
	|| { $(PYTHON) -m venv --without-pip $(VENV) 2> /dev/null \
	     && $(PYTHON) -m pip --quiet --python $@ install pip 2> /dev/null; } \
	|| { rm -rf $(VENV); echo "error: $(PYTHON) cannot make an environment." \
	     "On Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP_INSTALL) --upgrade "pip >= 25.1"

# One resolver call for both packages and their tools: a second one would move the SDK alone and
# leave versions of OpenTelemetry that do not fit together.
$(VENV)/.runtime: $(PROJECTS) | $(BIN)/python
	@echo "Installing both packages (about a minute the first time)"
	@$(PIP_INSTALL) $(PACKAGES)
	@touch $@

$(VENV)/.dev: $(PROJECTS) | $(BIN)/python
	@echo "Installing both packages and the development tools (one to two minutes the first time)"
	@$(PIP_INSTALL) $(PACKAGES) --group dev
	@touch $@ $(VENV)/.runtime

$(VENV)/.docs: $(PROJECTS) | $(BIN)/python
	@$(PIP_INSTALL) $(PACKAGES) --group docs
	@touch $@ $(VENV)/.runtime

$(VENV)/.bench: $(PROJECTS) | $(BIN)/python
	@echo "Installing both packages and their peers into $(VENV)"
	@$(PIP_INSTALL) $(PACKAGES) --group bench
	@touch $@

# --- the demo -------------------------------------------------------------------------------

demo: export MLFLOW_TRACKING_URI := sqlite:///.demo/mlflow.db
demo: export MLFLOW_EXPERIMENT_NAME := quickstart
demo: export OTEL_SERVICE_NAME ?= dspy-quickstart
demo: export OTEL_METRICS_EXPORTER := none
demo: export OTEL_LOGS_EXPORTER := none
demo: export OTEL_EXPORTER_OTLP_PROTOCOL ?= http/protobuf
# A cache of its own that is empty at the start: a demo of cache hits would show no tokens.
demo: export DSPY_CACHEDIR := .demo/dspy-cache
# The first write makes the database, which takes MLflow longer than a program may take to exit.
demo: export MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS := 60
demo: $(VENV)/.runtime
	@rm -rf .demo && mkdir .demo
	@collector="$${OTEL_EXPORTER_OTLP_ENDPOINT:-}$${OTEL_EXPORTER_OTLP_TRACES_ENDPOINT:-}"; \
	export OTEL_TRACES_EXPORTER="mlflow$${collector:+,otlp}"; \
	echo "\$$ OTEL_TRACES_EXPORTER=$$OTEL_TRACES_EXPORTER opentelemetry-instrument python examples/quickstart.py $(ARGS)"; \
	$(BIN)/opentelemetry-instrument $(BIN)/python examples/quickstart.py $(ARGS)
	@$(BIN)/python examples/show_trace.py

# --- tests ----------------------------------------------------------------------------------

# First what finds most and takes one processor: side by side. The tests take all processors.
test: $(VENV)/.dev
	@$(MAKE) --no-print-directory -j 3 lint typecheck perf-guard
	@$(MAKE) --no-print-directory unit process integration
	@if command -v chromedriver > /dev/null && command -v chromium google-chrome > /dev/null; then \
	  $(MAKE) --no-print-directory browser; \
	else echo "tests/browser was not run: it needs Chromium and its driver"; fi

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python -m tools.check_words

typecheck: $(VENV)/.dev
	$(BIN)/pyright --project pyproject.toml --pythonpath $(BIN)/python

unit: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit -n auto --dist loadfile

process: $(VENV)/.dev
	$(BIN)/python -m pytest tests/process -n auto --dist loadfile

integration: $(VENV)/.dev
	$(BIN)/python -m pytest tests/integration -n auto --dist loadfile

# Not a part of "make test", which has a small form of each.
scale: $(VENV)/.dev
	$(BIN)/python -m pytest tests -m scale -n auto --dist loadfile

# Not a part of "make test": installing takes minutes.
installed: $(VENV)/.dev
	$(BIN)/python -m pytest tests/integration/test_documentation.py -m installed

# A part of "make test" where Chromium and its driver are installed, which no package index has.
browser: $(VENV)/.dev
	$(BIN)/python -m pytest tests/browser

# Counts what the interpreter executes and compares it with the floor's: no clock is read.
perf-guard: $(VENV)/.dev
	$(BIN)/python -m benchmarks.guard

# --- the rest -------------------------------------------------------------------------------

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# Writes nothing. At a release: towncrier build --version X.Y.Z
changelog: $(VENV)/.dev
	$(BIN)/towncrier build --draft --version Unreleased

# The peers patch what we patch, so they get an environment of their own.
bench: $(PROJECTS)
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) $(BENCH_VENV)/.bench
	$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) .demo .tox .coverage .coverage.* .pytest_cache .ruff_cache build dist \
	  docs/_build docs/_generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
