# The verbs of this project. `run` and `test` set themselves up in .venv; nothing is installed outside it.

PYTHON ?= python3
BIN := .venv/bin
RUNS := .venv/.runs
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
COMPILE := .venv/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
	--group build --extra redis

.DEFAULT_GOAL := help
.PHONY: help install lock run test test-wide check fix cover bench bench-quick bench-compare soak chaos clean

help:  ## what there is to do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 22

install: $(READY)  ## set up .venv with everything the project and its tests need

# What runs: the locked packages, checked by their hashes, then the project. Nothing is built from the network.
$(RUNS): pyproject.toml .requirements.lock
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r .requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(RUNS)

$(READY): $(RUNS) .requirements-dev.lock
	$(PIP) --require-hashes -r .requirements-dev.lock
	@touch $(READY)

lock:  ## remake the lock files with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
	$(COMPILE) pyproject.toml --output-file .requirements.lock
	$(COMPILE) --extra dev --constraints .requirements.lock pyproject.toml --output-file .requirements-dev.lock
	rm -rf .venv/lock

run: $(RUNS)  ## a server against the built-in simulator, with a ready curl command
	@$(BIN)/python server.py serve --demo

# The tests start hundreds of Python processes: without bytecode files, each compiles the modules again.
test test-wide cover: export PYTHONDONTWRITEBYTECODE =

test: $(READY)  ## every test but the wide ones, in under five minutes
	$(BIN)/python -m pytest -n 4 --dist worksteal --max-worker-restart 4 -m 'not wide'

test-wide: $(READY)  ## the wide tests: other projects installed and built, cases repeated many times
	$(BIN)/python -m pytest -n 2 --dist worksteal --max-worker-restart 4 -m wide

check: $(READY)  ## formatter, linter (with bandit's rules), types, import arrows, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.prose
	$(BIN)/python -m tests.audit

fix: $(READY)  ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

cover: $(READY)  ## all tests, with the lines and branches they did not reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(READY)  ## what a stream, an event, a job and a poll cost here, beside others in the same run
	$(BIN)/python -m tests.bench $(if $(JSON),--json $(JSON))

bench-quick: $(READY)  ## the same, small: under two minutes
	$(BIN)/python -m tests.bench --quick $(if $(JSON),--json $(JSON))

bench-compare: $(READY)  ## two runs that were kept by JSON=FILE, beside each other: A=FILE B=FILE
	$(BIN)/python -m tests.bench compare $(A) $(B)

soak: $(READY)  ## half an hour of streams and jobs that come and go: memory, descriptors and tasks must be flat
	$(BIN)/python -m tests.bench soak

chaos: $(READY)  ## kill the server and break its providers, hundreds of times, on both stores, and check what must hold
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos --store redis --kills 40 --exchanges 1500 --odd 1000 --cuts 60
	$(BIN)/python -m tests.chaos cluster

clean:  ## remove what was built, not what was stored (var/)
	rm -rf .venv dist build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find proxy tests -name __pycache__ -type d -prune -exec rm -rf {} +
